"""From an image file to the numbers the VAE reads."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lora_core.data.buckets import Placement
from lora_core.data.images import open_image
from lora_core.data.resize import place


def load_pixels(
    path: Path, placement: Placement, *, flipped: bool = False, crop: tuple[int, int] | None = None
) -> Tensor:
    """(3, H, W) float32 in [-1, 1]: the picture scaled, cut to its bucket, then mirrored if asked.

    ``crop`` (left, top) in the scaled picture replaces the centre. Raises UserError naming the file.
    """
    pixels_HWC = np.array(place(open_image(path), placement, crop))
    pixels_CHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1).float() / 127.5 - 1
    return (pixels_CHW.flip(2) if flipped else pixels_CHW).contiguous()
