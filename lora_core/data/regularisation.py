"""Where regularisation pictures go, which are still to be made, and how bad ones are put aside. Torch-free.

The pictures of a class are a list that never ends: number n has the seed ``seed + n`` and the size of a training
picture. Those that are there are kept, those that were put aside are passed over, and as many are made as are wanted.
So a job can be stopped and started again, and the whole ends as if it had run through.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_core.data.checks import checked
from lora_core.data.folders import scan
from lora_core.data.samples import build_samples
from lora_core.errors import UserError
from lora_core.settings import RunSettings, sides
from lora_core.settings.tools import RegularisationSettings

DISCARDED = "discarded"
"""Folder beside the class's own; without a number in front of its name it is never trained on."""
PER_PICTURE = 5
"""Regularisation pictures for each training picture, where the person names no number."""
WITHOUT_SET = 50
"""How many where there are no training pictures to count."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Wanted:
    """One picture to draw."""

    path: Path
    seed: int
    size: Size
    """Width and height in pixels."""


def class_folder(settings: RegularisationSettings) -> Path:
    """``<folder>/1_<class>``. Raises UserError while folder or class are missing."""
    if settings.folder is None:
        raise UserError("regularisation.no_folder")
    words = re.sub(r'[<>:"/\\|?*\x00-\x1f]', " ", settings.prompt).strip(" .")
    if not words:
        raise UserError("regularisation.no_class")
    return settings.folder.absolute() / f"1_{' '.join(words.split())[:80].strip(' .')}"


def training_sizes(settings: RegularisationSettings) -> list[Size]:
    """The bucket of each training picture, in order; the one resolution where there are none."""
    dataset = settings.dataset.model_copy(update={"reg_dir": None, "skip_bad_images": True})
    if not dataset.has_pictures or dataset.has_pair:
        return []
    run = RunSettings(model=settings.model, dataset=dataset)
    found = checked(scan(dataset), dataset, deep=False)
    placed = {sample.image.path: sample.placement.bucket for sample in build_samples(found, run, read_captions=False)}
    return list(placed.values())


def number_of_pictures(settings: RegularisationSettings, sizes: Sequence[Size]) -> int:
    """How many there are to be in the end."""
    return settings.count or PER_PICTURE * len(sizes) or WITHOUT_SET


def still_to_draw(settings: RegularisationSettings, sizes: Sequence[Size], count: int) -> Iterator[Wanted]:
    """The pictures that are missing, in the order of their seeds."""
    folder = class_folder(settings)
    aside, there, number = folder.parent / DISCARDED / folder.name, 0, 0
    cycle = list(sizes) or [sides(settings.dataset.resolution)]
    while there < count:
        seed = (settings.seed + number) % 2**32
        name = f"{seed:010d}.png"
        if not (aside / name).exists():
            there += 1
            if not (folder / name).exists():
                yield Wanted(folder / name, seed, cycle[number % len(cycle)])
        number += 1


def pictures_there(folder: Path) -> list[Path]:
    """The pictures of a class's folder, in the order of their seeds."""
    return sorted(path for path in folder.glob("*.png") if not path.name.startswith(".")) if folder.is_dir() else []


def discard(picture: Path) -> Path:
    """Put a picture and its caption aside; its new path. Nothing that lies there is replaced.

    Raises UserError where the files can't be moved.
    """
    aside = picture.parent.parent / DISCARDED / picture.parent.name
    try:
        aside.mkdir(parents=True, exist_ok=True)
        target = next(path for path in _names(aside / picture.name) if not path.exists())
        picture.rename(target)
        caption = picture.with_suffix(".txt")
        if caption.is_file():
            caption.rename(target.with_suffix(".txt"))
    except OSError as error:
        raise UserError("regularisation.cannot_move", path=picture, reason=error.strerror or str(error)) from error
    return target


def _names(path: Path) -> Iterator[Path]:
    """The path, then the same with a number."""
    yield path
    for number in range(2, 10_000):
        yield path.with_stem(f"{path.stem}_{number}")
