"""From Kohya's keys to our settings: rules for what belongs together, the fields' own Kohya names for all else."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_core.errors import UserError
from lora_core.settings.kohya import (
    rules,
    rules_blocks,
    rules_files,
    rules_flux,
    rules_launch,
    rules_loss,
    rules_optimizer,
    rules_validation,
)
from lora_core.settings.kohya.command import read_command
from lora_core.settings.kohya.dataset import REPLACED_BY_FILE, not_here, pointing_at
from lora_core.settings.kohya.draft import Draft
from lora_core.settings.kohya.entries import Dialect, Given, Imported
from lora_core.settings.kohya.needs import NEEDS
from lora_core.settings.kohya.sources import (
    REPLACED,
    from_accelerate,
    from_gui,
    from_options,
    from_tree,
    is_dataset,
    is_gui,
    over,
    variables,
)
from lora_core.settings.kohya.table import IDLE_TOPICS, NEUTRAL, ROWS
from lora_core.settings.kohya.values import is_empty, loosely, same
from lora_core.settings.overlay import with_values
from lora_core.settings.problems import SettingsError
from lora_core.settings.run import RunSettings

MayRead = Callable[[Path], bool]
"""Whether a file or folder that a Kohya file names may be looked at."""

RULES: Sequence[Callable[[Draft], None]] = (
    rules.family,
    rules.network,
    rules.rates,
    rules_blocks.blocks,
    rules_blocks.patterns,
    rules_blocks.merged_first,
    rules.length,
    rules_optimizer.optimizer,
    rules_optimizer.schedule,
    rules_optimizer.text_encoder,
    rules_optimizer.adapter_precision,
    rules_optimizer.base_precision,
    rules.seed,
    rules.precision,
    rules_loss.noise,
    rules_loss.masks,
    rules_loss.zero_terminal_snr,
    rules_flux.flux,
    rules_files.model,
    rules_files.image_folders,
    rules_files.caches,
    rules_files.saving,
    rules_files.logs,
    rules_files.samples,
    rules_launch.launch,
    rules_validation.validation,
)
"""In this order: the schedule needs the optimizer and the length."""


_READ = "read"
"""Stands for a file that was named and has been read."""

_OF_A_DATASET = (
    "dataset.config",
    "dataset.caption_extension",
    "dataset.resolution",
    "dataset.enable_bucket",
    "dataset.min_bucket_reso",
    "dataset.max_bucket_reso",
    "dataset.bucket_reso_steps",
    "dataset.bucket_no_upscale",
    "dataset.flip_aug",
    "dataset.random_crop",
    "dataset.shuffle_caption",
    "dataset.keep_tokens",
    "dataset.caption_dropout_rate",
    "dataset.caption_dropout_every_n_epochs",
    "dataset.caption_prefix",
    "dataset.caption_suffix",
    "dataset.caption_separator",
    "dataset.keep_tokens_separator",
    "dataset.secondary_separator",
    "dataset.enable_wildcard",
    "dataset.caption_tag_dropout_rate",
    "dataset.token_warmup_min",
    "dataset.token_warmup_step",
    "train.train_batch_size",
    "validation.every_n_epochs",
)
"""What a dataset config of sd-scripts says, by its defaults as well; all else stays at our defaults."""


YOURS = frozenset({"pretrained_model_name_or_path", "output_name"})
"""Kohya's defaults for these are nobody's wish."""


def anything(_: Path) -> bool:
    return True


def import_tree(
    tree: Mapping[str, Any], source: str, may_read: MayRead = anything, path: Path | None = None
) -> Imported:
    """A file's content: GUI settings, a config of sd-scripts, or a dataset config. ``path`` is where it lies."""
    if is_dataset(tree):
        given = pointing_at(tree, str(path.absolute()) if path else source)
        return _imported(given, "scripts", source, may_read, only=_OF_A_DATASET)
    if is_gui(tree):
        return _imported(_with_dataset(from_gui(tree), may_read), "gui", source, may_read)
    return _imported(_with_dataset(from_tree(tree), may_read), "scripts", source, may_read)


def import_command(text: str, source: str, may_read: MayRead = anything) -> Imported:
    """A pasted ``accelerate launch ... train_network.py --...``. Options count before those of its config file."""
    found, launch = read_command(text)
    given = from_options(found)
    config = given.pop("config_file", None)
    if config is not None:
        tree = _referenced(loosely(config.value), may_read)
        given = over(given, from_tree(tree) if tree else {})
        given |= {f"{_READ} config_file" if tree else "config_file": config}
    given = from_accelerate(launch) | given
    unknown = {key: variable for key, value in given.items() if (variable := variables(value.value))}
    return _imported(_with_dataset(given, may_read), "scripts", source, may_read, unknown=unknown)


def _with_dataset(given: dict[str, Given], may_read: MayRead) -> dict[str, Given]:
    """A dataset config that is named counts instead of the folders, as in sd-scripts; what it can't do here is told."""
    named = given.get("dataset_config")
    if named is None or is_empty(named.value):
        return given
    instead = {f"{REPLACED} {key}": given[key] for key in REPLACED_BY_FILE if key in given}
    rest = {key: value for key, value in given.items() if key not in REPLACED_BY_FILE}
    tree = _referenced(loosely(named.value), may_read)
    return {**(not_here(tree) if tree and is_dataset(tree) else {}), **rest, **instead}


def _referenced(name: str, may_read: MayRead) -> dict[str, Any] | None:
    from lora_core.settings.base import clean_path
    from lora_core.settings.files import read_tree

    path = Path(str(clean_path(name)))
    for candidate in (path, path.with_name(f"{path.name}.toml")):
        if may_read(candidate) and candidate.is_file() and candidate.suffix.lower() in (".toml", ".json"):
            return read_tree(candidate)
    return None


def _imported(
    given: dict[str, Given],
    dialect: Dialect,
    source: str,
    may_read: MayRead,
    *,
    unknown: Mapping[str, str] | None = None,
    only: Sequence[str] = (),
) -> Imported:
    """``unknown`` holds keys whose value is a shell's variable; ``only`` leaves all other settings at our defaults."""
    draft = Draft(given, dialect, may_read)
    for key, variable in (unknown or {}).items():
        draft.unsupported(key, "why.variable", variable=variable)
    draft.given = {key: value for key, value in given.items() if key not in draft.entries}
    for rule in RULES:
        rule(draft)
    for key in ROWS:
        _one(draft, key)
    for key in draft.given.keys() - draft.entries.keys():
        _unknown(draft, key)
    if only:
        draft.keep_only(only)
    settings = _settings(draft)
    return Imported(settings, tuple(draft.entries.values()), source)


def _one(draft: Draft, key: str) -> None:
    """A key that no rule has told about."""
    if key in draft.entries:
        return
    row, given = ROWS[key], key in draft.given
    path = draft.path_for(key)
    if row.needs and not NEEDS[row.needs](draft):
        draft.idle(key, "why.unused" if given and not _neutral(draft, key) else "why.off")
    elif path and not draft.is_in_variant(path):
        draft.idle(key, "why.other_variant")
    elif path and not draft.by_rule(path) and (given or key not in YOURS):
        rules.plain(draft, key, path)
    elif not given:
        return
    elif row.topic in IDLE_TOPICS:
        draft.idle(key, f"idle.{row.topic}")
    elif not row.topic or _neutral(draft, key):
        draft.idle(key)
    else:
        draft.unsupported(key, f"todo.{row.topic}")


def _neutral(draft: Draft, key: str) -> bool:
    """The value changes nothing in Kohya either."""
    value, row = draft.given[key].value, ROWS[key]
    return any(same(value, off) for off in (*NEUTRAL, row.gui, row.scripts)) or str(value).lower() == "false"


def _unknown(draft: Draft, key: str) -> None:
    if key.startswith(REPLACED):
        draft.idle(key, "why.replaced")
    elif key.startswith(_READ):
        draft.idle(key, "why.read")
    elif key.startswith("accelerate "):
        reason = "why.accelerate" if "mixed_precision" in key else "todo.machines"
        (draft.idle if "mixed_precision" in key else draft.unsupported)(key, reason)
    else:
        draft.unsupported(key, "why.unknown")


def _settings(draft: Draft) -> RunSettings:
    """Settings out of the draft. A value that one of them refuses stays at its default and is told."""
    changes = draft.changes
    while True:
        try:
            return with_values(RunSettings(), changes, "kohya")
        except SettingsError as error:
            refused = {problem.path: problem for problem in error.problems if problem.path in changes}
            if not refused:
                raise UserError("kohya.not_usable", detail=re.sub(r"\s+", " ", str(error))) from None
            for path, problem in refused.items():
                draft.withdraw(path, "why.refused", detail=problem)
