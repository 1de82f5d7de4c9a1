"""Several runs that differ in some fields only: planned before anything starts, summed up in one table. Torch-free.

All have the same seed and pictures, so what differs between them is what was asked. A sweep of two runs is an A/B
comparison and gets a verdict (see ``paired``).
"""

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lora_core import paired
from lora_core.errors import UserError
from lora_core.events import EVENT, EpochDone, Event, Reader, RunFailed, RunFinished, RunStarted, ValidationDone
from lora_core.i18n import Language, text
from lora_core.inspect.tables import table
from lora_core.io.writing import replacing
from lora_core.preflight import check
from lora_core.runs import RunFolder
from lora_core.settings import RunSettings
from lora_core.settings.fields import fields_of
from lora_core.settings.overlay import with_values
from lora_core.settings.problems import SettingsError, unknown
from lora_core.verdict import best_epoch, by_epoch

MOST_RUNS = 12
"""Unless more are allowed: a grid grows fast, and every run takes as long as one."""
SET_HERE = frozenset({"save.output_dir", "save.output_name", "save.resume", "save.overwrite"})
"""Fields that the sweep itself needs: every run writes files of its own, from the beginning."""
SEED = 42
"""For settings that leave the seed to chance: all runs have to have the same."""
LONGEST_NAME = 100

Values = Mapping[str, str]
"""Dotted path -> value as it was typed."""


@dataclass(frozen=True)
class Planned:
    """One run of a sweep."""

    values: Values
    settings: RunSettings

    @property
    def title(self) -> str:
        """For example "learning_rate 1e-4, rank 8"."""
        return ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in self.values.items())


def read_fields(words: Sequence[str]) -> dict[str, list[str]]:
    """{"network.rank": ["8", "16"]} of ["network.rank=8,16"]; values are parted by | where one may hold a comma.

    Raises UserError for unknown fields, and for what is no list of values.
    """
    fields: dict[str, list[str]] = {}
    for word in words:
        path, equals, values = (part.strip() for part in word.partition("="))
        if not equals:
            raise UserError("sweep.field", text=word[:80])
        if path not in fields_of():
            raise SettingsError("--field", [unknown(path)])
        if path in SET_HERE:
            raise UserError("sweep.set_here", path=path)
        parted = [value.strip() for value in values.split("|" if "|" in values else ",")]
        if path in fields or len(set(parted)) < len(parted):
            raise UserError("sweep.twice", path=path)
        fields[path] = parted
    return fields


def plan(base: RunSettings, fields: Mapping[str, Sequence[str]], most: int = MOST_RUNS) -> list[Planned]:
    """All runs, the last field changing fastest. Raises UserError where one of them could not start."""
    count = math.prod(len(values) for values in fields.values())
    if count < 2:
        raise UserError("sweep.nothing_to_compare")
    if count > most:
        raise UserError("sweep.too_many", count=count, most=most)
    if base.train.seed is None:
        base = with_values(base, {"train.seed": SEED})
    combined = [dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())]
    names = run_names(base.save.output_name, combined)
    runs = [Planned(v, _changed(base, v, name)) for v, name in zip(combined, names, strict=True)]
    _all_differ(runs)
    for run in runs:
        if errors := [problem for problem in check(run.settings) if problem.severity == "error"]:
            raise SettingsError(run.title, errors)
    return runs


def _changed(base: RunSettings, values: Values, name: str) -> RunSettings:
    source = ", ".join(f"{path}={value}" for path, value in values.items())
    return with_values(base, {**values, "save.output_name": name, "save.resume": None}, source)


def _all_differ(runs: Sequence[Planned]) -> None:
    """1e-4 and 0.0001 are one value, and so are fields that a variant does not have."""
    seen: dict[str, Planned] = {}
    for run in runs:
        same = run.settings.model_copy(update={"save": RunSettings().save}).model_dump_json()
        if same in seen:
            raise UserError("sweep.same", a=seen[same].title, b=run.title)
        seen[same] = run


def run_names(base: str, combined: Sequence[Values]) -> list[str]:
    """An output name for each run: with what it changes, or its number where that would be long or alike."""
    told = [
        "-".join([base, *(f"{path.rpartition('.')[2]}_{_plain(value)}" for path, value in values.items())])
        for values in combined
    ]
    if len(set(told)) == len(told) and max(map(len, told)) <= LONGEST_NAME:
        return told
    return [f"{base}-{number:02d}" for number in range(1, len(combined) + 1)]


def _plain(value: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", value).strip(" .") or "none"


# ---- what became of it -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """One run of a sweep, as far as it is."""

    title: str
    state: str = "queued"
    loss: float | None = None
    """Mean of the last epoch, on the training pictures as they were shown."""
    generalisation: float | None = None
    """On held-out pictures, at the best epoch."""
    drift: float | None = None
    """Of the unrelated prompts (of the class, without any), at the best epoch."""
    best_epoch: int | None = None
    seconds: float | None = None
    file: Path | None = None
    validations: tuple[ValidationDone, ...] = ()
    run: str = ""
    """Name of its run folder."""
    values: Values = field(default_factory=dict)
    """What differs in it."""


def result(title: str, events: Sequence[Event], run: str = "") -> Result:
    """What the events of a run say."""
    history = [event for event in events if isinstance(event, ValidationDone)]
    trained = [event for event in by_epoch(history) if event.epoch > 0]
    best = best_epoch(trained) or None
    at_best = next((event for event in trained if event.epoch == best), trained[-1] if trained else None)
    losses = [event.mean_loss for event in events if isinstance(event, EpochDone)]
    started = next((event for event in events if isinstance(event, RunStarted)), None)
    ended = next((event for event in reversed(events) if isinstance(event, RunFinished | RunFailed)), None)
    drift = None if at_best is None else at_best.drift_unrelated
    return Result(
        title=title,
        state=_state(started, ended),
        loss=losses[-1] if losses else None,
        generalisation=None if at_best is None else at_best.generalisation,
        drift=at_best.drift_class if drift is None and at_best is not None else drift,
        best_epoch=best,
        seconds=ended.time - started.time if started and ended else None,
        file=ended.path if isinstance(ended, RunFinished) else None,
        validations=tuple(history),
        run=run,
    )


def _state(started: RunStarted | None, ended: RunFinished | RunFailed | None) -> str:
    if isinstance(ended, RunFailed):
        return "failed"
    if ended is not None:
        return ended.reason
    return "running" if started else "queued"


COLUMNS = ("run", "state", "loss", "generalisation", "drift", "best_epoch", "seconds", "file")
NUMBERS = range(2, 7)
"""Columns that are aligned to the right."""


def rows(results: Sequence[Result], language: Language) -> list[list[str]]:
    """The table as words, its head first."""
    head = [text(f"sweep.column.{name}", language) for name in COLUMNS]
    return [head, *(_row(one, language) for one in results)]


def _row(one: Result, language: Language) -> list[str]:
    return [
        one.title,
        text(f"sweep.state.{one.state}", language),
        _number(one.loss, ".5f"),
        _number(one.generalisation, ".5f"),
        _number(one.drift, ".2%"),
        _number(one.best_epoch, "d"),
        _number(one.seconds, ".0f"),
        "-" if one.file is None else one.file.name,
    ]


def verdict(results: Sequence[Result], language: Language) -> str:
    """What all runs say together, when they are done: the border of folds, else which of two is better."""
    from lora_core import kfold  # which plans its runs with this module

    if kfold.are_folds(results):
        return kfold.words(results, language)
    if len(results) != 2 or any(one.state != "completed" for one in results):
        return ""
    a, b = results
    return paired.compare(a.validations, b.validations).words(language, a.title, b.title)


def lines(results: Sequence[Result], language: Language) -> list[str]:
    """The table for a terminal, and for two runs the verdict."""
    said = verdict(results, language)
    return [*table(rows(results, language), right=NUMBERS), *([said] if said else [])]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


# ---- kept ------------------------------------------------------------------------------------------------------------


def keep(path: Path, runs: Sequence[tuple[Planned, RunFolder]]) -> None:
    """Write down which runs belong together, so that their table can be had again."""
    rows = [{"run": folder.path.name, "title": one.title, "values": dict(one.values)} for one, folder in runs]
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"sweep": rows}, indent=2, ensure_ascii=False), encoding="utf-8")


def kept(path: Path, runs: Path) -> list[Result]:
    """The results of a sweep that was written down; ``runs`` is the folder of all runs. Raises UserError."""
    try:
        tree: Any = json.loads(path.read_text(encoding="utf-8"))
        named = [(str(one["title"]), runs / Path(str(one["run"])).name, dict(one["values"])) for one in tree["sweep"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError("sweep.not_kept", path=path) from error
    found = [(result(title, list(_told(RunFolder(folder))), folder.name), values) for title, folder, values in named]
    return [replace(one, values=values) for one, values in found]


def _told(run: RunFolder) -> Iterator[Event]:
    """The few events that count here; the many of single steps are passed over."""
    return Reader(run.events, EVENT, without=("step_done", "memory")).read()
