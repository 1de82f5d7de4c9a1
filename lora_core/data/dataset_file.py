"""Several datasets in one file, in the format of sd-scripts' ``dataset_config``.

``[general]``, ``[[datasets]]`` and ``[[datasets.subsets]]``: an option counts from the subset, else from its dataset,
else from [general], else from the run's own settings (which are sd-scripts' command line). An option that does nothing
here is named, an unknown one is an error at its row: a typing error must not train with a default.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from lora_core.checks import OF_A_DATASET
from lora_core.data import layout
from lora_core.data.image_list import scan_list
from lora_core.data.listing import ImageFile, caption_beside, list_folder
from lora_core.data.subsets import Scan, Subset
from lora_core.errors import Problem, UserError
from lora_core.i18n import Language, text
from lora_core.settings import DatasetSettings, RunSettings
from lora_core.settings.base import Settings, UserPath

SETTING = "dataset.config"

DATASET_OPTIONS = (
    "resolution",
    "enable_bucket",
    "min_bucket_reso",
    "max_bucket_reso",
    "bucket_reso_steps",
    "bucket_no_upscale",
)
"""Our settings that a dataset, or [general], may set for itself."""

SUBSET_OPTIONS = (
    "caption_extension",
    "flip_aug",
    "random_crop",
    "shuffle_caption",
    "keep_tokens",
    "keep_tokens_separator",
    "caption_separator",
    "secondary_separator",
    "enable_wildcard",
    "caption_dropout_rate",
    "caption_dropout_every_n_epochs",
    "caption_tag_dropout_rate",
    "token_warmup_min",
    "token_warmup_step",
    "caption_prefix",
    "caption_suffix",
)
"""Our settings that a subset, its dataset or [general] may set."""

ZERO_IS_OFF = frozenset({"caption_dropout_every_n_epochs", "token_warmup_step"})
"""Kohya writes "never" as 0, we as not set."""

IGNORED = frozenset({"cache_info"})
"""Only makes sd-scripts start faster."""

NOT_HERE: Mapping[str, tuple[Any, ...]] = {
    "color_aug": (False,),
    "face_crop_aug_range": (),
    "resize_interpolation": (),
    "network_multiplier": (1, 1.0),
    "validation_seed": (),
    "validation_split": (0, 0.0),
    "alpha_mask": (False,),
}
"""Options that do nothing here -> values at which they do nothing in sd-scripts either."""


class Row(Settings):
    """What a subset says about itself besides options: where its images are and how much they count."""

    image_dir: UserPath = None
    metadata_file: UserPath = None
    conditioning_data_dir: UserPath = None
    """Masks, one for each image; sd-scripts' way of saying so."""
    num_repeats: int = Field(1, ge=1, le=100_000)
    class_tokens: str = Field("", max_length=500)
    is_reg: bool = False
    loss_weight: float = Field(1.0, gt=0, le=100)
    batch_size: int | None = Field(None, ge=1, le=1024)


ROW_KEYS = frozenset(Row.model_fields)
_SUBSET_ONLY = frozenset({"image_dir", "metadata_file", "is_reg", "conditioning_data_dir", "alpha_mask"})
_DATASET_ONLY = frozenset({*DATASET_OPTIONS, "batch_size", "validation_seed", "validation_split", "network_multiplier"})
KNOWN = frozenset({*ROW_KEYS, *DATASET_OPTIONS, *SUBSET_OPTIONS, *IGNORED, *NOT_HERE, "custom_attributes"})
"""Every key of the format."""


@dataclass(frozen=True)
class RowProblem(Problem):
    """A problem of one row, said with its place in the file."""

    dataset: int = 0
    """Numbers from 1; 0 means [general]."""
    subset: int = 0
    """0 means the dataset itself."""
    option: str = ""

    def message(self, language: Language = "en") -> str:
        key = "data.file_subset" if self.subset else "data.file_dataset" if self.dataset else "data.file_general"
        place = text(key, language, dataset=self.dataset, subset=self.subset)
        place = f"{place}, {self.option}" if self.option else place
        return text("data.file_row", language, place=place, message=super().message(language))


@dataclass(frozen=True)
class Entry:
    """One subset of a file with everything settled."""

    dataset: int
    subset: int
    row: Row
    options: DatasetSettings
    problems: tuple[Problem, ...] = field(default=())


def scan_file(path: Path, base: DatasetSettings) -> Scan:
    """The folders of a dataset file. Opens no image; never raises for what the user can put right."""
    try:
        tree = read_file(path)
        entries = list(entries_of(tree, base))
    except UserError as error:
        return Scan(problems=(Problem.of(SETTING, error),))
    found, seen = Scan(), set()
    for entry in entries:
        found += Scan(problems=entry.problems)
        place = (entry.dataset, entry.row.metadata_file or entry.row.image_dir)
        if place in seen:
            found += Scan(problems=(_at(entry, "data.file_twice", {"path": place[1]}, "warning"),))
        elif not any(problem.severity == "error" for problem in entry.problems):
            found += _scan_entry(entry, path.absolute().parent, base)
        seen.add(place)
    return found + Scan(problems=(*_random_crops(found, base), *_in_both(found)))


def read_file(path: Path) -> Mapping[str, Any]:
    """The tables of a dataset file. Raises UserError naming file and line."""
    from lora_core.settings.files import read_tree  # which knows about Kohya's files, and so about this package

    tree = read_tree(path)
    datasets = tree.get("datasets")
    tables = datasets if isinstance(datasets, list) else []
    if not any(isinstance(table, Mapping) and table.get("subsets") for table in tables):
        raise UserError("data.file_no_subset", path=path)
    return tree


def entries_of(tree: Mapping[str, Any], base: DatasetSettings) -> Iterator[Entry]:
    """The subsets of a file in order, each with its options, and with what is wrong with them."""
    general = tree.get("general", {})
    odd = [RowProblem(SETTING, "data.file_unknown", {"near": _near(key, ("general", "datasets"))}, option=key)
           for key in tree if key not in ("general", "datasets")]  # fmt: skip
    if not isinstance(general, Mapping):
        odd.append(RowProblem(SETTING, "data.file_no_table"))
        general = {}
    odd += _odd_keys(general, 0, 0)
    for number, dataset in enumerate(tree.get("datasets") or [], 1):
        if not isinstance(dataset, Mapping) or not isinstance(dataset.get("subsets", []), list):
            odd.append(RowProblem(SETTING, "data.file_no_table", dataset=number))
            continue
        shared = {key: value for key, value in dataset.items() if key != "subsets"}
        odd += _odd_keys(shared, number, 0)
        for index, subset in enumerate(dataset.get("subsets", []), 1):
            if isinstance(subset, Mapping):
                yield _entry({**general, **shared}, subset, base, (number, index), odd)
            else:
                odd.append(RowProblem(SETTING, "data.file_no_table", dataset=number, subset=index))
                yield Entry(number, index, Row(), base, tuple(odd))
            odd = []
    if odd:
        yield Entry(0, 0, Row(), base, tuple(odd))


# ---- One subset ------------------------------------------------------------------------------------------------------


def _entry(
    shared: Mapping[str, Any],
    subset: Mapping[str, Any],
    base: DatasetSettings,
    place: tuple[int, int],
    odd: list[Problem],
) -> Entry:
    dataset, number = place
    values = {**shared, **subset}
    attributes = {}
    for level in (shared, subset):
        attributes |= level.get("custom_attributes") if isinstance(level.get("custom_attributes"), Mapping) else {}
    if "loss_weight" in attributes:
        values.setdefault("loss_weight", attributes["loss_weight"])
    problems = [*odd, *_odd_keys(subset, dataset, number), *_not_here(values, attributes, place)]
    row, options = Row(), base
    try:
        row = Row.model_validate({key: value for key, value in values.items() if key in ROW_KEYS})
        own = {key: _ours(key, values[key]) for key in (*DATASET_OPTIONS, *SUBSET_OPTIONS) if key in values}
        options = RunSettings.model_validate({"dataset": base.model_dump() | own}).dataset
    except ValidationError as error:
        problems += _refused(error, place)
    else:
        problems += [*_needs_folder(row, place), *_unfit(options, place)]
    return Entry(dataset, number, row, options, tuple(problems))


def _ours(key: str, value: Any) -> Any:
    if key in ZERO_IS_OFF and value == 0:
        return None
    return "" if value is None and key not in ZERO_IS_OFF else value


def _refused(error: ValidationError, place: tuple[int, int]) -> Iterator[Problem]:
    from lora_core.settings.problems import problems_from

    for problem in problems_from(error):
        yield RowProblem(SETTING, problem.key, problem.values, "error", {}, *place, problem.path.rpartition(".")[2])


def _unfit(options: DatasetSettings, place: tuple[int, int]) -> Iterator[Problem]:
    """What does not fit together, said once for a dataset: at its first subset."""
    run = RunSettings().model_copy(update={"dataset": options})
    for rule in OF_A_DATASET if place[1] == 1 else ():
        for problem in rule(run):
            name = problem.path.rpartition(".")[2]
            yield RowProblem(SETTING, problem.key, problem.values, problem.severity, {}, place[0], 0, name)


def _needs_folder(row: Row, place: tuple[int, int]) -> Iterator[Problem]:
    if row.image_dir is None and row.metadata_file is None:
        yield RowProblem(SETTING, "data.file_no_folder", {}, "error", {}, *place)


def _odd_keys(table: Mapping[str, Any], dataset: int, subset: int) -> list[Problem]:
    """Keys that the format does not have, or not at this level."""
    problems: list[Problem] = []
    for key in table:
        if key not in KNOWN:
            values = {"near": _near(key, KNOWN)}
            problems.append(RowProblem(SETTING, "data.file_unknown", values, "error", {}, dataset, subset, key))
        elif subset and key in _DATASET_ONLY:
            problems.append(RowProblem(SETTING, "data.file_of_dataset", {}, "error", {}, dataset, subset, key))
        elif not subset and key in _SUBSET_ONLY:
            problems.append(RowProblem(SETTING, "data.file_of_subset", {}, "error", {}, dataset, subset, key))
    return problems


def _not_here(values: Mapping[str, Any], attributes: Mapping[str, Any], place: tuple[int, int]) -> Iterator[Problem]:
    named = [key for key, neutral in NOT_HERE.items() if key in values and values[key] not in (None, "", *neutral)]
    named += [f"custom_attributes.{key}" for key in attributes if key != "loss_weight"]
    for key in named:
        yield RowProblem(SETTING, "data.file_not_here", {}, "warning", {}, *place, key)


def _near(key: str, known: Any) -> str:
    close = difflib.get_close_matches(key, sorted(known), n=1)
    return close[0] if close else "…"


def _at(entry: Entry, key: str, values: dict[str, Any], severity: str = "error") -> Problem:
    return RowProblem(SETTING, key, values, severity, {}, entry.dataset, entry.subset)  # type: ignore[arg-type]


# ---- From a subset to its images -------------------------------------------------------------------------------------


def _scan_entry(entry: Entry, beside: Path, base: DatasetSettings) -> Scan:
    folder = _located(entry.row.image_dir, beside)
    if masks := _located(entry.row.conditioning_data_dir, beside):
        entry = replace(entry, options=entry.options.model_copy(update={"mask_dir": masks}))
    if entry.row.metadata_file is not None:
        listed = _located(entry.row.metadata_file, beside)
        assert listed is not None
        subset, problems = scan_list(listed, folder, entry.options, SETTING)
    else:
        assert folder is not None
        subset, problems = _scan_folder(entry, folder, base)
    subset = replace(
        subset,
        repeats=entry.row.num_repeats,
        is_reg=entry.row.is_reg,
        loss_weight=entry.row.loss_weight,
        dataset=entry.dataset,
        batch_size=entry.row.batch_size,
    )
    said = [RowProblem(SETTING, p.key, p.values, p.severity, p.fix, entry.dataset, entry.subset) for p in problems]
    return Scan((subset,) if subset.images else (), tuple(said))


def _scan_folder(entry: Entry, folder: Path, base: DatasetSettings) -> tuple[Subset, list[Problem]]:
    """The images directly in a folder. Its name says nothing here: repeats and words stand in the file."""
    row, options = entry.row, entry.options
    words = row.class_tokens.strip() or ("" if row.is_reg else base.trigger_words.strip())
    empty = Subset(folder, row.num_repeats, words, row.is_reg, (), options)
    if problem := layout.not_a_folder(folder, SETTING):
        return empty, [problem]
    try:
        listing = list_folder(folder)
    except UserError as error:
        return empty, [Problem.of(SETTING, error)]
    if not listing.images:
        return empty, [layout.nothing_found(listing, SETTING)]
    images = tuple(ImageFile(path, caption_beside(path, listing, options.caption_extension)) for path in listing.images)
    subset = replace(empty, images=images)
    problems = layout.odd_in_folder(listing, subset.captions, SETTING, options.caption_extension)
    missing = len(images) - subset.captions
    if missing and not words:
        values = {"path": folder, "missing": missing, "images": len(images)}
        severity = "error" if missing == len(images) else "warning"
        problems.append(Problem(SETTING, "data.file_words_missing", values, severity))
    # A fix of the page's settings would not reach into the file.
    return subset, [replace(problem, fix={}) for problem in problems]


def _located(path: Path | None, beside: Path) -> Path | None:
    """A path of the file: as it is, beside the file if it is there, else from the working folder as sd-scripts does."""
    if path is None or path.is_absolute():
        return path
    return beside / path if (beside / path).exists() else path.absolute()


def _random_crops(found: Scan, base: DatasetSettings) -> Iterator[Problem]:
    """A cached latent is one crop; if the run itself crops at random, that is said elsewhere."""
    cropped = any(subset.options.random_crop for subset in found.subsets)
    if cropped and not base.random_crop and base.cache_latents != "off":
        yield Problem(SETTING, "checks.cache_random_crop", {}, fix={"dataset.cache_latents": "off"})


def _in_both(found: Scan) -> Iterator[Problem]:
    """A folder that is training and regularisation at once would work against itself."""
    train = {subset.folder.resolve() for subset in found.train}
    for subset in found.reg:
        if subset.folder.resolve() in train:
            yield Problem(SETTING, "data.reg_is_train", {"path": subset.folder})
