"""The rules of buckets, stated a second time in other words, on many sizes."""

import random
from fractions import Fraction
from math import sqrt

import pytest

from lora_core.data.buckets import Buckets, bucket_sizes

LIMITS = [(256, 1024, 64), (256, 2048, 64), (64, 200, 32), (96, 320, 8), (100, 1000, 64)]
RESOLUTIONS = [(512, 512), (1024, 1024), (600, 900), (768, 512), (128, 128)]


def random_sizes(count: int, largest: int = 4000) -> list[tuple[int, int]]:
    rng = random.Random(7)
    return [(rng.randint(64, largest), rng.randint(64, largest)) for _ in range(count)]


def half_up(length) -> int:
    whole = int(length)
    return whole + (length - whole >= 0.5)


def listed(resolution: tuple[int, int], low: int, high: int, step: int) -> list[tuple[int, int]]:
    """Every pair of multiples of the step within the limits that is as long as the area lets it be, one way round."""
    area = resolution[0] * resolution[1]
    low, high = low - low % step, high + -high % step
    multiples = range(low, high + 1, step)
    pairs = set()
    for width in multiples:
        fitting = [height for height in multiples if width * height <= area]
        if fitting:
            pairs |= {(width, fitting[-1]), (fitting[-1], width)}
    side = max(side for side in range(0, area, step) if side * side <= area)
    return sorted(pairs | {(side, side)})


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize(("low", "high", "step"), LIMITS)
def test_list_of_buckets(resolution, low, high, step):
    assert bucket_sizes(resolution, low, high, step) == listed(resolution, low, high, step)


def test_known_lengths_of_the_list():
    assert len(bucket_sizes((1024, 1024), 256, 2048, 64)) == 41
    assert len(bucket_sizes((512, 512), 256, 1024, 64)) == 17


@pytest.mark.parametrize("step", [8, 16, 32, 64])
def test_with_upscaling(step):
    buckets = Buckets((512, 512), no_upscale=False, min_size=256, max_size=1024, step=step)
    sizes = listed((512, 512), 256, 1024, step)
    for width, height in random_sizes(1000):
        place = buckets.choose(width, height)
        shapes = {size: abs(Fraction(*size) - Fraction(width, height)) for size in sizes}
        best = (width, height) if (width, height) in sizes else min(sizes, key=lambda size: (shapes[size], size))
        assert place.bucket == best
        scale = max(Fraction(best[0], width), Fraction(best[1], height))
        assert place.resized == (half_up(width * scale), half_up(height * scale))
        assert place.crop == ((place.resized[0] - best[0]) // 2, (place.resized[1] - best[1]) // 2)


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("step", [8, 16, 32, 64])
def test_without_upscaling(resolution, step):
    area = resolution[0] * resolution[1]
    for width, height in random_sizes(1000):
        place = Buckets(resolution, step=step).choose(width, height)
        if width * height <= area:
            expected = (width, height)
        else:
            ways = []
            shape = width / height
            across = half_up(sqrt(area * shape)) // step * step
            ways.append(((across, half_up(across / shape)), (across, half_up(across / shape) // step * step)))
            down = half_up(area / sqrt(area * shape)) // step * step
            ways.append(((half_up(down * shape), down), (half_up(down * shape) // step * step, down)))
            errors = [abs(w / h - shape) if w and h else float("inf") for _, (w, h) in ways]
            expected = ways[0][0] if errors[0] < errors[1] else ways[1][0]
        bucket = (expected[0] // step * step, expected[1] // step * step)
        if 0 in bucket:
            continue  # thinner than a step: test_thin_images
        assert place.resized == expected
        assert place.bucket == bucket
        assert place.crop == ((expected[0] - bucket[0]) // 2, (expected[1] - bucket[1]) // 2)


@pytest.mark.parametrize("no_upscale", [True, False])
@pytest.mark.parametrize("enabled", [True, False])
def test_a_bucket_always_lies_inside_the_scaled_image(enabled, no_upscale):
    for size in [*random_sizes(300), (1, 1), (10, 5000), (5000, 10), (63, 64), (64, 63), (1, 100_000)]:
        place = Buckets((512, 512), enabled=enabled, no_upscale=no_upscale).choose(*size)
        for side in (0, 1):
            assert 0 < place.bucket[side] <= place.resized[side]
            assert place.crop[side] + place.bucket[side] <= place.resized[side]
        assert place.image == size
        if enabled:
            assert place.bucket[0] % 64 == 0
            assert place.bucket[1] % 64 == 0


def test_thin_images_are_enlarged_to_one_step():
    place = Buckets((512, 512), step=64).choose(50, 700)
    assert place.bucket == (64, 640)
    assert place.resized == (64, 896)


@pytest.mark.parametrize("size", [(64, 64), (1000, 200), (200, 1000), (600, 900)])
def test_disabled_is_one_bucket(size):
    place = Buckets((600, 900), enabled=False).choose(*size)
    assert place.bucket == (600, 900)
    assert place.resized[0] == 600 or place.resized[1] == 900


def test_limits_do_not_count_without_upscaling():
    assert Buckets((512, 512), min_size=512, max_size=512).choose(100, 130).bucket == (64, 128)
