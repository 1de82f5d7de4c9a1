"""Aspect-ratio buckets: which size each image is trained at, and how it is scaled and cut to that size.

The rules are Kohya's, to the pixel. Sizes are (width, height) in pixels.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from lora_core.settings import DatasetSettings, sides

Size = tuple[int, int]


@dataclass(frozen=True)
class Placement:
    """Scale the image to ``resized``, then cut ``bucket`` out of it at ``crop`` (left, top)."""

    bucket: Size
    resized: Size
    crop: tuple[int, int]
    image: Size
    """The image's own size, upright."""

    @property
    def aspect_error(self) -> float:
        """Bucket's width / height minus the image's."""
        return self.bucket[0] / self.bucket[1] - self.image[0] / self.image[1]


@dataclass(frozen=True)
class Buckets:
    """The rule that gives each image its bucket."""

    resolution: Size
    enabled: bool = True
    no_upscale: bool = True
    min_size: int = 256
    max_size: int = 2048
    step: int = 64

    @classmethod
    def of(cls, dataset: DatasetSettings) -> "Buckets":
        return cls(
            resolution=sides(dataset.resolution),
            enabled=dataset.enable_bucket,
            no_upscale=dataset.bucket_no_upscale,
            min_size=dataset.min_bucket_reso,
            max_size=dataset.max_bucket_reso,
            step=dataset.bucket_reso_steps,
        )

    @cached_property
    def sizes(self) -> list[Size]:
        """The fixed list of buckets, sorted; without upscaling there is none, buckets follow the images."""
        if not self.enabled:
            return [self.resolution]
        return bucket_sizes(self.resolution, self.min_size, self.max_size, self.step)

    def choose(self, width: int, height: int) -> Placement:
        """Where an upright image of this size goes."""
        image = (width, height)
        if self.enabled and self.no_upscale:
            resized = shrink_to_area(image, self.resolution[0] * self.resolution[1], self.step)
            bucket = (_floor(resized[0], self.step), _floor(resized[1], self.step))
            if 0 in bucket:
                # Thinner than one step. Kohya stops here; enlarging to one step is the least that can be trained.
                bucket = (max(bucket[0], self.step), max(bucket[1], self.step))
                resized = cover(image, bucket)
        else:
            bucket = nearest(image, self.sizes)
            resized = cover(image, bucket)
        return Placement(bucket, resized, ((resized[0] - bucket[0]) // 2, (resized[1] - bucket[1]) // 2), image)


def bucket_sizes(resolution: Size, min_size: int, max_size: int, step: int) -> list[Size]:
    """All sizes of at most the resolution's area with sides from min to max: for each width the tallest that fits."""
    area = resolution[0] * resolution[1]
    shortest, longest = _floor(min_size, step), _ceil(max_size, step)
    square = _floor(math.isqrt(area), step)
    found = {(square, square)}
    for width in range(max(shortest, step), longest + 1, step):
        height = min(longest, _floor(area // width, step))
        if height >= max(shortest, step):
            found |= {(width, height), (height, width)}
    return sorted(found)


def nearest(image: Size, sizes: list[Size]) -> Size:
    """The image's own size if it is a bucket, else the bucket of the nearest width / height, the first of equals."""
    if image in sizes:
        return image
    aspect = image[0] / image[1]
    return min(sizes, key=lambda size: abs(size[0] / size[1] - aspect))


def cover(image: Size, bucket: Size) -> Size:
    """The smallest size of the image's shape that covers the bucket."""
    wider = image[0] / image[1] > bucket[0] / bucket[1]
    scale = bucket[1] / image[1] if wider else bucket[0] / image[0]
    return int(image[0] * scale + 0.5), int(image[1] * scale + 0.5)


def shrink_to_area(image: Size, area: int, step: int) -> Size:
    """The image's size if it is within the area, else shrunk to it with one side a multiple of the step.

    Of the two ways (width or height on the step) the one whose bucket keeps the shape better, the height on a tie.
    """
    if image[0] * image[1] <= area:
        return image
    aspect = image[0] / image[1]
    width = math.sqrt(area * aspect)
    on_width = _round(width, step)
    on_height = _round(area / width, step)
    error_of_width = _shape_error(on_width, _round(on_width / aspect, step), aspect)
    error_of_height = _shape_error(_round(on_height * aspect, step), on_height, aspect)
    if error_of_width < error_of_height:
        return on_width, int(on_width / aspect + 0.5)
    return int(on_height * aspect + 0.5), on_height


def _floor(length: int, step: int) -> int:
    return length // step * step


def _ceil(length: int, step: int) -> int:
    return -(-length // step) * step


def _round(length: float, step: int) -> int:
    """To the whole pixel, halves up, then down to the step."""
    return _floor(int(length + 0.5), step)


def _shape_error(width: int, height: int, aspect: float) -> float:
    return abs(width / height - aspect) if width and height else math.inf
