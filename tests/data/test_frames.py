"""What SDXL is told of a picture's frame, against cutting it out of a picture of coordinates."""

import numpy as np
import pytest

from lora_core.data.buckets import Buckets
from lora_core.data.frames import frame_of

BUCKETS = Buckets(resolution=(64, 64), min_size=32, max_size=128, step=16, no_upscale=False)


@pytest.mark.parametrize("size", [(64, 64), (100, 60), (60, 100), (500, 333), (20, 90)])
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("share", [None, 0.0, 0.4, 1.0])
def test_the_crop_is_where_the_picture_was_really_cut(size, flipped, share):
    place = BUCKETS.choose(*size)
    free = [place.resized[i] - place.bucket[i] for i in (0, 1)]
    crop = None if share is None else (int(share * free[0]), int(share * free[1]))
    left, top = place.crop if crop is None else crop
    # Cut and mirrored as the loader does it, from a picture whose pixels say where they are.
    rows, columns = np.mgrid[: place.resized[1], : place.resized[0]]
    cut = np.s_[top : top + place.bucket[1], left : left + place.bucket[0]]
    rows, columns = rows[cut], columns[cut]
    if flipped:  # mirroring the whole picture first is the same, and then the columns count from the other side
        columns = (place.resized[0] - 1 - columns)[:, ::-1]
    assert frame_of(place, crop=crop, flipped=flipped) == (
        size[1],
        size[0],
        rows.min(),
        columns.min(),
        place.bucket[1],
        place.bucket[0],
    )


def test_an_uncut_picture_of_its_own_size():
    place = BUCKETS.choose(64, 64)
    assert frame_of(place) == (64, 64, 0, 0, 64, 64)
