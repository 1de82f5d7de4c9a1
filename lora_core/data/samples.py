"""From folders to the list of samples of an epoch: repeats, regularisation, captions and places in buckets."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from lora_core.data.buckets import Buckets, Placement
from lora_core.data.captions import lines_of, read_caption
from lora_core.data.content import ahead, content_hash
from lora_core.data.images import image_size
from lora_core.data.listing import ImageFile
from lora_core.data.subsets import Scan, Subset
from lora_core.settings import RunSettings


@dataclass(frozen=True)
class Sample:
    """One showing of one image in an epoch."""

    image: ImageFile
    subset: Subset
    placement: Placement
    loss_weight: float
    caption: str
    """The caption file's text, else the folder's words; options such as shuffling come later, at each showing."""


@dataclass(frozen=True)
class Repeated:
    """An image and how often it is shown per epoch."""

    image: ImageFile
    subset: Subset
    repeats: int


def build_samples(scan: Scan, settings: RunSettings, *, read_captions: bool = True) -> list[Sample]:
    """All samples of an epoch, in a fixed order: training images, then regularisation images, dataset by dataset.

    Reads headers of images and caption files only. Raises UserError for those that cannot be read.
    """
    samples = []
    for item in repeated(scan, use_reg=uses_reg(settings)):
        placement = Buckets.of(item.subset.options).choose(*image_size(item.image.path))
        weight = item.subset.loss_weight * (settings.loss.prior_loss_weight if item.subset.is_reg else 1.0)
        caption = caption_text(item.image, item.subset) if read_captions else ""
        subset = _of_all_processes(item.subset, settings.launch.processes)
        samples += [Sample(item.image, subset, placement, weight, caption)] * item.repeats
    return samples


def _of_all_processes(subset: Subset, processes: int) -> Subset:
    """A dataset's own batch size is that of one process, like the run's."""
    own = subset.batch_size
    return subset if own is None or processes == 1 else replace(subset, batch_size=own * processes)


def uses_reg(settings: RunSettings) -> bool:
    """Regularisation images that weigh nothing are left out rather than computed for nothing."""
    return settings.loss.prior_loss_weight > 0


def repeated(scan: Scan, *, use_reg: bool = True) -> list[Repeated]:
    """Each image with its repeats; in each dataset, regularisation images are topped up to the training samples."""
    found = []
    for number in scan.datasets:
        train, reg = (_each(s for s in part if s.dataset == number) for part in (scan.train, scan.reg))
        wanted = sum(item.repeats for item in train)
        found += train + (top_up(reg, wanted) if use_reg else [])
    return found


def _each(subsets: Iterable[Subset]) -> list[Repeated]:
    return [Repeated(image, subset, subset.repeats) for subset in subsets for image in subset.images]


def top_up(reg: Sequence[Repeated], wanted: int) -> list[Repeated]:
    """Take regularisation images in order, with their repeats, until there are enough; if there are too few, show
    them once more each, in order, round and round. The last image taken keeps all its repeats.
    """
    taken: list[Repeated] = []
    total = 0
    for item in reg:
        if total >= wanted:
            break
        taken.append(item)
        total += item.repeats
    rounds, rest = divmod(max(0, wanted - total), max(1, len(taken)))
    return [
        Repeated(item.image, item.subset, item.repeats + rounds + (index < rest)) for index, item in enumerate(taken)
    ]


def caption_text(image: ImageFile, subset: Subset) -> str:
    """What an image's caption says, else its folder's words. An empty file is an empty caption.

    With wildcards all lines of it, of which one is drawn at each showing; else the first.
    """
    if not image.has_caption:
        return subset.class_tokens
    lines = lines_of(image.caption) if image.caption is not None else read_caption(image.caption_path).lines
    return "\n".join(lines if subset.options.enable_wildcard else lines[:1])


def fingerprint(samples: Sequence[Sample]) -> str:
    """Says whether two lists of samples are the same to training: pixels, captions, places, weights and order.

    Names and places of files do not count, so that a moved folder can be resumed.
    """
    paths = list({sample.image.path: None for sample in samples})
    contents = dict(zip(paths, ahead(content_hash, paths), strict=True))
    digest = hashlib.sha256()
    for sample in samples:
        place = sample.placement
        facts = [place.bucket, place.resized, place.crop, sample.caption, sample.loss_weight]
        if sample.subset.dataset:
            facts += [sample.subset.dataset, sample.subset.batch_size]
        digest.update(json.dumps([contents[sample.image.path], *facts]).encode())
    return digest.hexdigest()
