"""Scaling and cutting a picture to its place in a bucket."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lora_core.data.buckets import Placement, Size


def place(picture: Image.Image, placement: Placement, crop: tuple[int, int] | None = None) -> Image.Image:
    """The part of the picture that is trained; ``crop`` (left, top) replaces the placement's centre."""
    left, top = placement.crop if crop is None else crop
    width, height = placement.bucket
    return resize(picture, placement.resized).crop((left, top, left + width, top + height))


def resize(picture: Image.Image, size: Size) -> Image.Image:
    """Area averaging when both sides shrink (no aliasing, no ringing), Lanczos otherwise."""
    if size == picture.size:
        return picture
    if size[0] < picture.width and size[1] < picture.height:
        return _shrink(picture, size)
    return picture.resize(size, Image.Resampling.LANCZOS)


def _shrink(picture: Image.Image, size: Size) -> Image.Image:
    pixels_HWC = np.asarray(picture)
    rows = area_average(pixels_HWC, size[1])
    both = area_average(np.ascontiguousarray(rows.transpose(1, 0, 2)), size[0]).transpose(1, 0, 2)
    return Image.fromarray(np.clip(both + 0.5, 0, 255).astype(np.uint8))


def area_average(values: NDArray, length: int) -> NDArray[np.float32]:
    """Shrink the first axis to ``length``: each new element is the mean of the stretch it covers.

    Elements at the ends of a stretch count by the part that lies inside. (Pillow's BOX takes them whole or not at
    all, which for ratios below 2 is nearly nearest-neighbour.)
    """
    rows = values.reshape(len(values), -1)
    ratio = len(values) / length
    averages = np.empty((length, rows.shape[1]), np.float32)
    for index in range(length):
        begin, end = index * ratio, min((index + 1) * ratio, len(values))
        first, last = int(begin), math.ceil(end)
        weights = np.ones(last - first, np.float32)
        weights[0] -= begin - first
        weights[-1] -= last - end
        # einsum and not @: its sums do not hang on the number of BLAS threads, and it is faster on short ones.
        np.einsum("r,rc->c", weights, rows[first:last].astype(np.float32), out=averages[index])
    return (averages / np.float32(ratio)).reshape(length, *values.shape[1:])
