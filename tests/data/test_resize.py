"""Scaling: exact area averages when shrinking, Lanczos otherwise, and the right piece cut out."""

import numpy as np
import pytest
from PIL import Image

from lora_core.data.buckets import Buckets, Placement
from lora_core.data.resize import area_average, place, resize


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(3)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def mean_of_copies(values: np.ndarray, length: int) -> np.ndarray:
    """The area average by definition: repeat each element ``length`` times, then average equal blocks."""
    repeated = np.repeat(values.astype(np.float64), length, axis=0)
    return repeated.reshape(length, len(values), *values.shape[1:]).mean(axis=1)


@pytest.mark.parametrize(
    ("before", "after"), [(10, 5), (10, 3), (7, 6), (97, 13), (64, 64), (100, 99), (5, 1), (640, 511), (97, 96)]
)
def test_area_average(before, after):
    values = np.random.default_rng(0).integers(0, 256, (before, 4, 3), dtype=np.uint8)
    assert np.allclose(area_average(values, after), mean_of_copies(values, after), atol=1e-3)


@pytest.mark.parametrize("size", [(40, 30), (33, 29), (79, 59), (1, 1)])
def test_shrinking_averages_areas(size):
    picture = noise(80, 60)
    exact = mean_of_copies(np.asarray(picture), size[1])
    exact = mean_of_copies(exact.transpose(1, 0, 2), size[0]).transpose(1, 0, 2)
    small = resize(picture, size)
    assert small.size == size
    assert np.abs(np.asarray(small) - exact).max() <= 0.51


@pytest.mark.parametrize("size", [(160, 120), (80, 50), (60, 60), (90, 50)])
def test_otherwise_lanczos(size):
    picture = noise(80, 60)
    assert np.array_equal(resize(picture, size), picture.resize(size, Image.Resampling.LANCZOS))


def test_same_size_is_the_same_picture():
    picture = noise(8, 8)
    assert resize(picture, (8, 8)) is picture


@pytest.mark.parametrize("no_upscale", [True, False])
def test_place_gives_the_bucket(no_upscale):
    for size in [(300, 200), (50, 400), (64, 64), (1000, 900)]:
        placement = Buckets((256, 256), no_upscale=no_upscale, max_size=512).choose(*size)
        assert place(noise(*size), placement).size == placement.bucket


def test_crop_replaces_the_centre():
    picture = noise(10, 6)
    placement = Placement(bucket=(6, 6), resized=(10, 6), crop=(2, 0), image=(10, 6))
    pixels = np.asarray(picture)
    assert np.array_equal(place(picture, placement), pixels[:, 2:8])
    assert np.array_equal(place(picture, placement, (4, 0)), pixels[:, 4:10])
