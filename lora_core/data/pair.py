"""The two pictures of a copier LoRA: are they the same but for one thing? Torch-free."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from lora_core.data.images import image_size, open_image
from lora_core.data.listing import ImageFile
from lora_core.data.subsets import Scan, Subset
from lora_core.errors import Problem, UserError
from lora_core.settings import DatasetSettings

SHOWN_PER_EPOCH = 10
"""How often the pair is shown in an epoch: one picture has no epochs of its own, and saves go by them."""
SIDE = 256
"""Longest side, in pixels, at which the pictures are compared."""
VISIBLE = 0.06
"""Difference of a place, 0 to 1 in its strongest colour, from which it counts as changed; JPEG noise is below."""
MUCH = 0.5
"""Share of changed area from which the pictures have to show that they are aligned."""
ALIKE = 0.5
"""Correlation of the outlines below which two pictures that differ nearly everywhere are not aligned."""


@dataclass(frozen=True)
class Alignment:
    """How two pictures of one size differ."""

    share: float
    """Of the area that is changed, 0 to 1."""
    outlines: float
    """Correlation of their outlines, -1 to 1: near 1 where only colours changed, near 0 for two different pictures."""

    @property
    def is_equal(self) -> bool:
        return self.share == 0

    @property
    def is_aligned(self) -> bool:
        return self.share < MUCH or self.outlines >= ALIKE


def compare(before: Path, after: Path) -> Alignment:
    """Raises UserError where a picture can't be read, or where the two have different sizes."""
    sizes = image_size(before), image_size(after)
    if sizes[0] != sizes[1]:
        raise UserError(
            "data.pair_sizes", before=before.name, after=after.name, one=_size(sizes[0]), other=_size(sizes[1])
        )
    return _compared(before, before.stat().st_mtime_ns, after, after.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _compared(before: Path, _before_ns: int, after: Path, _after_ns: int) -> Alignment:
    one, other = (_reduced(open_image(path)) for path in (before, after))
    strongest = np.abs(_numbers(one) - _numbers(other)).max(axis=2)
    changed = (strongest > VISIBLE).mean()
    return Alignment(float(changed), correlation(outlines(one), outlines(other)))


def difference_picture(before: Path, after: Path) -> Image.Image:
    """What changed, for a person: the second picture, faded where it is as before. Raises UserError as ``compare``."""
    compare(before, after)
    one, other = (_reduced(open_image(path)) for path in (before, after))
    changed = np.abs(_numbers(one) - _numbers(other)).max(axis=2, keepdims=True) > VISIBLE
    shown = np.where(changed, _numbers(other), 0.8 + 0.2 * _numbers(other))
    return Image.fromarray((shown * 255).round().astype(np.uint8))


def outlines(picture: Image.Image) -> np.ndarray:
    """(H, W) strength of the edges, after a blur that forgives half a pixel."""
    grey = np.asarray(picture.convert("L").filter(ImageFilter.GaussianBlur(1)), dtype=np.float64)
    down, across = np.gradient(grey)
    return np.hypot(down, across)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's r; 0 where one of the two is the same everywhere."""
    one, other = one - one.mean(), other - other.mean()
    length = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / length if length else 0.0


def scan_pair(dataset: DatasetSettings) -> Scan:
    """The second picture as the only training picture, shown again and again; the first is brought in by the loop.

    Flips and random crops would part the two, so they are off. The words are the trigger words, often none: the LoRA
    is the change, whatever the prompt.
    """
    before, after = dataset.pair_before, dataset.pair_after
    if before is None or after is None:
        missing = "dataset.pair_before" if before is None else "dataset.pair_after"
        return Scan(problems=(Problem(missing, "data.pair_one_only"),))
    for setting, path, other in (("dataset.pair_before", before, after), ("dataset.pair_after", after, before)):
        if not path.is_file():
            key = "data.pair_mixed" if path.is_dir() and other.is_file() else "data.pair_missing"
            return Scan(problems=(Problem(setting, key, {"path": path}),))
    words, options = words_and_options(dataset)
    subset = Subset(after.absolute().parent, SHOWN_PER_EPOCH, words, False, (ImageFile(after.absolute()),), options)
    return Scan((subset,), tuple(pair_problems(before, after)))


def words_and_options(dataset: DatasetSettings) -> tuple[str, DatasetSettings]:
    """The trigger words, and how pictures that stand in a relation are shown: always in the same way."""
    still = {"flip_aug": False, "random_crop": False, "caption_dropout_rate": 0.0}
    return dataset.trigger_words.strip(), dataset.model_copy(update=still)


def pair_problems(before: Path, after: Path) -> Iterator[Problem]:
    """What keeps two pictures from being a pair; a warning where they differ everywhere."""
    try:
        found = compare(before, after)
    except UserError as error:
        yield Problem.of("dataset.pair_before", error)
        return
    if found.is_equal:
        yield Problem("dataset.pair_after", "data.pair_equal")
    elif not found.is_aligned:
        values = {"share": f"{found.share:.0%}"}
        yield Problem("dataset.pair_after", "data.pair_unaligned", values, "warning")


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"


def _reduced(picture: Image.Image) -> Image.Image:
    small = picture.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    return small


def _numbers(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.float64) / 255
