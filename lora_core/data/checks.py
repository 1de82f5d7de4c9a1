"""Opening every image and caption of a scan, before the run depends on them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from lora_core.data.captions import MANY_LINES, read_caption
from lora_core.data.content import ahead
from lora_core.data.images import check_image, image_size
from lora_core.data.listing import ImageFile
from lora_core.data.samples import caption_text
from lora_core.data.subsets import Scan, Subset
from lora_core.errors import Problem, UserError
from lora_core.settings import DatasetSettings

Progress = Callable[[int, int], None]


def checked(scan: Scan, dataset: DatasetSettings, *, deep: bool = True, progress: Progress | None = None) -> Scan:
    """The scan without the images that cannot be used, and with a problem for each of them.

    ``deep`` reads whole images (finds truncated ones); otherwise only their headers, which is fast enough for a page.
    Unusable images are errors, or warnings if the user allows skipping them. Also checks captions and what the data
    settings say about each other.
    """
    problems = list(scan.problems)
    total = sum(len(subset.images) for subset in scan.subsets)
    subsets, done, unusable = [], 0, 0
    for subset in scan.subsets:
        good = []
        for image, found in zip(subset.images, _check_all(subset, deep), strict=True):
            bad = any(problem.severity == "error" for problem in found)
            problems += [_as_allowed(problem, dataset) for problem in found] if bad else found
            good += [] if bad else [image]
            unusable += bad
            done += 1
            if progress:
                progress(done, total)
        if good:
            subsets.append(replace(subset, images=tuple(good)))
    problems += _nothing_left(scan, Scan(tuple(subsets)))
    if unusable and dataset.skip_bad_images:
        problems.append(Problem("dataset.skip_bad_images", "data.skipped", {"count": unusable}, "warning"))
    problems += _words_not_in_captions(subsets, dataset)
    return Scan(tuple(subsets), tuple(_grouped(problems)))


def _check_all(subset: Subset, deep: bool) -> Iterator[list[Problem]]:
    return ahead(partial(_check, subset=subset, deep=deep), subset.images)


def _check(image: ImageFile, *, subset: Subset, deep: bool) -> list[Problem]:
    """An error here means that the image cannot be used."""
    try:
        image_size(image.path)
        if deep:
            check_image(image.path)
        found = read_caption(image.caption_path).problems if image.caption_path else ()
        return [problem for problem in found if problem.key != MANY_LINES or not subset.options.enable_wildcard]
    except UserError as error:
        return [Problem.of(subset.setting, error)]


def _nothing_left(before: Scan, after: Scan) -> list[Problem]:
    return [
        Problem(had[0].setting, "data.no_good_images", {"path": had[0].folder})
        for had, has in [(before.train, after.train), (before.reg, after.reg)]
        if had and not has
    ]


def _as_allowed(problem: Problem, dataset: DatasetSettings) -> Problem:
    """A broken file stops the run, with skipping as the cure on offer, unless skipping is allowed already."""
    if dataset.skip_bad_images:
        return replace(problem, severity="warning")
    return replace(problem, fix={"dataset.skip_bad_images": True})


def _words_not_in_captions(subsets: Sequence[Subset], dataset: DatasetSettings) -> list[Problem]:
    """Captions replace the trigger words, they do not come on top: someone who gave words expects them in there."""
    words = dataset.trigger_words.strip()
    if not words:
        return []
    problems, has_reg = [], any(subset.is_reg for subset in subsets)
    for subset in subsets:
        around = f"{subset.options.caption_prefix} {subset.options.caption_suffix}"
        if subset.is_reg or subset.class_tokens != words or words.lower() in around.lower():
            continue
        captions = [caption_text(image, subset) for image in subset.images if image.has_caption]
        without = sum(words.lower() not in caption.lower() for caption in captions)
        if without:
            values = {"words": words, "without": without, "captions": len(captions), "path": subset.folder}
            # The prefix would go to the regularisation captions too, which must not have the words.
            fix = {} if has_reg or dataset.caption_prefix else {"dataset.caption_prefix": f"{words},"}
            problems.append(Problem("dataset.trigger_words", "data.words_not_in_captions", values, "warning", fix))
    return problems


def _grouped(problems: Sequence[Problem]) -> list[Problem]:
    """Warnings of one kind about many captions become one that names the first and counts the rest."""
    by_key: dict[str, list[Problem]] = {}
    for problem in problems:
        by_key.setdefault(problem.key, []).append(problem)
    grouped = []
    for key, same in by_key.items():
        if key in ("data.caption_shift_jis", "data.caption_many_lines") and len(same) > 1:
            values = same[0].values | {"more": len(same) - 1}
            grouped.append(replace(same[0], key=f"{key}_more", values=values))
        else:
            grouped += same
    return grouped
