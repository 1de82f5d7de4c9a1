"""Which pictures are not trained on but only measured, and which of those trained on are measured, too. Torch-free.

Nothing may leak: a picture is known by its content, so that copies of it go where it goes, whatever they are called and
however often they are repeated; one that is also a regularisation image is always trained on. Who is held out follows
from the seed and the content alone: a moved folder, another order or one picture more changes (almost) nothing.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from lora_core.data.buckets import Buckets, Placement
from lora_core.data.checks import checked
from lora_core.data.content import ahead, content_hash
from lora_core.data.folders import scan
from lora_core.data.images import image_size
from lora_core.data.listing import ImageFile
from lora_core.data.subsets import Scan, Subset
from lora_core.errors import Problem
from lora_core.settings import RunSettings, ValidationSettings


@dataclass(frozen=True)
class Picture:
    """A picture to be measured."""

    image: ImageFile
    subset: Subset
    digest: str
    """SHA-256 of its file."""
    held_out: bool

    @property
    def placement(self) -> Placement:
        return Buckets.of(self.subset.options).choose(*image_size(self.image.path))


def is_on(validation: ValidationSettings) -> bool:
    return validation.every_n_epochs is not None


def splits(validation: ValidationSettings) -> bool:
    """Whether training pictures are held out; with a folder of its own there is no need to."""
    return is_on(validation) and validation.folder is None and bool(validation.fold or validation.split is not None)


def trained_part(found: Scan, validation: ValidationSettings) -> Scan:
    """The scan without the pictures that are held out."""
    out = held_out_digests(found, validation)
    if not out:
        return found
    left = [
        subset
        if subset.is_reg
        else replace(subset, images=tuple(i for i in subset.images if digest(i.path) not in out))
        for subset in found.subsets
    ]
    return Scan(tuple(subset for subset in left if subset.images), found.problems)


def held_out_digests(found: Scan, validation: ValidationSettings) -> frozenset[str]:
    """Contents of the pictures to hold out: the fold or share that the settings say, at least one, but never the last
    one of a folder. Empty when none can be spared.
    """
    if not splits(validation):
        return frozenset()
    folders = [_digests(subset) for subset in found.train]
    kept_anyway = set().union(*(_digests(subset) for subset in found.reg))
    contents = set().union(*folders)
    free = ranked(contents - kept_anyway, validation)
    if validation.fold:
        part, parts = fold_of(validation)
        free = free[part - 1 :: parts]
        wanted = len(free)
    else:
        wanted = max(1, round((validation.split or 0) * len(contents)))
    out: set[str] = set()
    for content in free:
        if len(out) < wanted and all(folder - out - {content} for folder in folders):
            out.add(content)
    return frozenset(out)


def fold_of(validation: ValidationSettings) -> tuple[int, int]:
    """(which, of how many), counted from 1: each picture that can be spared is in exactly one of them."""
    part, _, parts = validation.fold.partition("/")
    return int(part), int(parts)


def ranked(digests: Iterable[str], validation: ValidationSettings) -> list[str]:
    """In an order drawn from the seed, in which each content has its place by itself."""
    seed = validation.seed or 0
    return sorted(digests, key=lambda digest: hashlib.sha256(f"held out/{seed}/{digest}".encode()).digest())


def measured(found: Scan, settings: RunSettings) -> list[Picture]:
    """The pictures to be measured, each content once: some of those trained on, then some of those held out."""
    validation = settings.validation
    if not is_on(validation):
        return []
    out = held_out_digests(found, validation)
    every = _pictures(found, out)
    trained = [picture for picture in every if not picture.held_out]
    apart = [picture for picture in every if picture.held_out]
    if validation.folder is not None:
        known = {digest(image.path) for subset in found.subsets for image in subset.images}
        apart = [p for p in _pictures(scan_folder(settings), None) if p.digest not in known]
    return [*_first(trained, validation), *_first(apart, validation)]


def scan_folder(settings: RunSettings) -> Scan:
    """The pictures of the validation folder, with the captions and sizes of the training pictures."""
    own = {"train_dir": settings.validation.folder, "reg_dir": None, "config": None, "metadata_file": None}
    dataset = settings.dataset.model_copy(update=own)
    found = checked(scan(dataset), dataset, deep=False)
    problems = (
        replace(problem, path="validation.folder", fix={})
        for problem in found.problems
        if problem.path == "dataset.train_dir"
    )
    return Scan(found.subsets, tuple(problems))


def held_out_problems(settings: RunSettings, found: Scan) -> Iterator[Problem]:
    """What keeps over-fitting from being measured on unseen pictures."""
    validation = settings.validation
    if not is_on(validation):
        return
    if validation.folder is not None:
        own = scan_folder(settings)
        yield from (problem for problem in own.problems if problem.severity == "error")
        known = {digest(image.path) for subset in found.subsets for image in subset.images}
        given = {digest(image.path) for subset in own.subsets for image in subset.images}
        if given & known:
            key = "data.validation_all_trained" if given <= known else "data.validation_trained"
            values = {"path": validation.folder, "count": len(given & known)}
            yield Problem("validation.folder", key, values, "warning")
    elif splits(validation) and found.train and not held_out_digests(found, validation):
        yield Problem("validation.split", "data.validation_none_to_spare", {}, "warning")


def digest(path: Path) -> str:
    """SHA-256 of a file, not worked out again while it stays as it is. Raises UserError if it can't be read."""
    try:
        stat = path.stat()
    except OSError:
        return content_hash(path)  # which says what is wrong
    return _digest(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=20_000)
def _digest(path: Path, modified: int, size: int) -> str:
    return content_hash(path)


def _digests(subset: Subset) -> set[str]:
    return set(ahead(digest, [image.path for image in subset.images]))


def _pictures(found: Scan, out: frozenset[str] | None) -> list[Picture]:
    """Each content of the training pictures once. ``out`` None: all are held out."""
    pictures: dict[str, Picture] = {}
    for subset in found.train:
        for image in subset.images:
            own = digest(image.path)
            pictures.setdefault(own, Picture(image, subset, own, out is None or own in out))
    return list(pictures.values())


def _first(pictures: list[Picture], validation: ValidationSettings) -> list[Picture]:
    by_digest = {picture.digest: picture for picture in pictures}
    return [by_digest[own] for own in ranked(by_digest, validation)[: validation.max_pictures]]
