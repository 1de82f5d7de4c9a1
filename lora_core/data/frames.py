"""The frame of a picture as SDXL is told it: how large it was, where it was cut, how large it is now.

Podell et al. 2023 ("SDXL"), section 2.2: trained with these numbers, a model need not throw small pictures away nor
learn to cut heads off. The crop is counted in the scaled picture, from its top left corner, and is where it really was
cut: also when it is a random one, and from the other side when the picture is mirrored.

(sd-scripts works the crop out as if the picture had been scaled to fit inside its bucket: where the top was cut it
names the left, and of a random crop it says nothing. That is not repeated here.)
"""

from lora_core.data.buckets import Placement

Frame = tuple[int, int, int, int, int, int]
"""Original height and width, crop's top and left, target height and width, in pixels."""


def frame_of(placement: Placement, *, crop: tuple[int, int] | None = None, flipped: bool = False) -> Frame:
    """The frame of a showing; ``crop`` (left, top) replaces the placement's."""
    left, top = placement.crop if crop is None else crop
    width, height = placement.bucket
    if flipped:
        left = placement.resized[0] - width - left
    return placement.image[1], placement.image[0], top, left, height, width
