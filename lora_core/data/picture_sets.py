"""What a copier LoRA or slider is made of: two pictures, or two folders as pairs or as opposites. Torch-free.

Folders are pairs where a picture of the one has a partner of the same name in the other: each pair is then trained as
two pictures are. Where no name matches, all of the first folder is what strength -1 is to draw, all of the second what
strength 1 is to draw; what the two have in common pulls both ways and cancels out.
"""

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from lora_core.data.content import content_hash
from lora_core.data.listing import ImageFile, list_folder
from lora_core.data.pair import SHOWN_PER_EPOCH, pair_problems, words_and_options
from lora_core.data.subsets import Scan, Subset
from lora_core.data.wording import enumerated
from lora_core.errors import Problem, UserError
from lora_core.settings import DatasetSettings

BEFORE, AFTER = "dataset.pair_before", "dataset.pair_after"
MOST_REPEATS = 20
"""A small folder of opposites is shown at most so often for one showing of the other: it would be learned by heart."""


@dataclass(frozen=True)
class PictureSets:
    """The pictures of two folders."""

    before: tuple[Path, ...]
    after: tuple[Path, ...]

    @property
    def pairs(self) -> dict[Path, Path]:
        """Second picture -> first picture of the same name, in order; empty for opposites."""
        partners = {_name(path): path for path in self.before}
        return {path: partners[_name(path)] for path in self.after if _name(path) in partners}

    @property
    def alone(self) -> list[Path]:
        """Pictures without a partner, where others have one."""
        pairs = self.pairs
        used = {*pairs, *pairs.values()}
        return [path for path in (*self.before, *self.after) if path not in used] if pairs else []


def read_sets(before: Path, after: Path) -> PictureSets:
    """Raises UserError for a folder that can't be read."""
    return PictureSets(list_folder(before.absolute()).images, list_folder(after.absolute()).images)


def are_folders(dataset: DatasetSettings) -> bool:
    """Whether both sides are there and folders."""
    sides = dataset.pair_before, dataset.pair_after
    return all(side is not None and side.is_dir() for side in sides)


def partners(dataset: DatasetSettings) -> Mapping[Path, Path]:
    """Second picture -> first picture, of the two pictures or the pairs of two folders; empty for everything else."""
    before, after = dataset.pair_before, dataset.pair_after
    if before is None or after is None:
        return MappingProxyType({})
    return read_sets(before, after).pairs if are_folders(dataset) else {after.absolute(): before.absolute()}


def opposites(dataset: DatasetSettings) -> frozenset[Path]:
    """The pictures that strength -1 is to draw, of two folders without pairs; else empty."""
    before, after = dataset.pair_before, dataset.pair_after
    if before is None or after is None or not are_folders(dataset):
        return frozenset()
    sets = read_sets(before, after)
    return frozenset() if sets.pairs else frozenset(sets.before)


def sides_fingerprint(dataset: DatasetSettings) -> str:
    """What a list of samples does not say: which pictures stand before, or on the side of -1. Empty without pairs."""
    first = [*partners(dataset).values()] or sorted(opposites(dataset))
    if not first:
        return ""
    return hashlib.sha256("".join(content_hash(path) for path in first).encode()).hexdigest()


def scan_sets(dataset: DatasetSettings) -> Scan:
    """Two folders as they are trained: the second pictures of all pairs, or both folders, never in one batch."""
    assert dataset.pair_before is not None
    assert dataset.pair_after is not None
    try:
        sets = read_sets(dataset.pair_before, dataset.pair_after)
    except UserError as error:
        return Scan(problems=(Problem.of(BEFORE, error),))
    if dataset.pair_before.resolve() == dataset.pair_after.resolve():
        return Scan(problems=(Problem(AFTER, "data.sets_same"),))
    for setting, folder, found in ((BEFORE, dataset.pair_before, sets.before), (AFTER, dataset.pair_after, sets.after)):
        if not found:
            return Scan(problems=(Problem(setting, "data.sets_empty", {"path": folder}),))
    return _paired(sets, dataset) if sets.pairs else _opposite(sets, dataset)


def _paired(sets: PictureSets, dataset: DatasetSettings) -> Scan:
    pairs = list(sets.pairs)
    repeats = max(1, SHOWN_PER_EPOCH // len(pairs))
    return Scan((_subset(tuple(pairs), repeats, dataset),), tuple(_pairs_problems(sets)))


def _opposite(sets: PictureSets, dataset: DatasetSettings) -> Scan:
    """Datasets of their own, so that no batch holds both; the smaller folder is shown as often as the larger."""
    counts = {"before": len(sets.before), "after": len(sets.after)}
    for setting, found in ((BEFORE, sets.before), (AFTER, sets.after)):
        if len(found) < 2:
            return Scan(problems=(Problem(setting, "data.sets_one", {"path": found[0].parent}),))
    most = max(counts.values())
    each = max(1, SHOWN_PER_EPOCH // most)
    subsets = tuple(
        _subset(found, min(MOST_REPEATS, round(most / len(found))) * each, dataset, number)
        for number, found in enumerate((sets.before, sets.after), start=1)
    )
    return Scan(subsets, (Problem(AFTER, "data.sets_opposites", counts, "warning"),))


def _subset(images: tuple[Path, ...], repeats: int, dataset: DatasetSettings, number: int = 0) -> Subset:
    words, options = words_and_options(dataset)
    files = tuple(ImageFile(path) for path in images)
    return Subset(images[0].parent, repeats, words, False, files, options, dataset=number)


def _pairs_problems(sets: PictureSets) -> Iterator[Problem]:
    """What keeps pairs from being pairs; the first error names its pictures, warnings count them."""
    if alone := sets.alone:
        names = enumerated(f"{path.parent.name}/{path.name}" for path in alone)
        yield Problem(AFTER, "data.sets_alone", {"count": len(alone), "names": names}, "warning")
    unaligned = []
    for after, before in sets.pairs.items():
        for problem in pair_problems(before, after):
            if problem.key == "data.pair_equal":
                yield Problem(AFTER, "data.sets_equal", {"name": after.name})
                return
            if problem.severity == "error":
                yield problem
                return
            unaligned.append(after)
    if unaligned:
        names = enumerated(path.name for path in unaligned)
        yield Problem(AFTER, "data.sets_unaligned", {"count": len(unaligned), "names": names}, "warning")


def _name(path: Path) -> str:
    """What partners have in common: the name without its ending, alike on every system."""
    return unicodedata.normalize("NFC", path.stem).casefold()
