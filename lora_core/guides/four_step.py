"""The four steps of the guides as one project: what was trained for each, what came of it, what is next. Torch-free.

A project is a small file under the app's home. It holds no result: those are read from the run folders, which are the
truth. A run belongs to a step by its output name, which the guide fills in.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from pydantic import Field

from lora_core.errors import UserError
from lora_core.events import CheckpointSaved, EpochDone, RunFinished, RunStarted, ValidationDone
from lora_core.guides import projects
from lora_core.guides.offers import settings_for_source, source_of
from lora_core.inspect.header import inspect_header
from lora_core.inspect.report import Finding
from lora_core.runs import RunFolder, home, list_runs
from lora_core.settings import RunSettings
from lora_core.settings.overlay import with_values
from lora_core.settings.presets import apply_preset, find_preset
from lora_core.train.files import free_name
from lora_core.verdict import Verdict, judge

Step = Literal["check", "border", "final", "handover"]
STEPS: tuple[Step, ...] = get_args(Step)
PRESETS: Mapping[Step, str] = MappingProxyType(
    {"check": "guide_1_check", "border": "guide_2_border", "final": "guide_3_final"}
)
"""The last step trains nothing: it looks at the file of the one before."""

_FINAL_SAVES = 5


class Project(projects.Project):
    """One LoRA on its way through the four steps."""

    outputs: dict[Step, list[str]] = Field(default_factory=dict)
    """Output names that were filled in for a step, the latest last."""
    epoch: int | None = Field(None, ge=1, le=100_000)
    """The epoch somebody chose, in place of the verdict's."""


PROJECTS = projects.Projects("four_step", Project)


@dataclass(frozen=True)
class Result:
    """What became of a run, from its events alone."""

    run: str
    """Name of its folder."""
    outcome: projects.Outcome
    epochs: int = 0
    """Finished so far."""
    planned: int = 0
    loss: float | None = None
    """Mean of the last epoch."""
    path: Path | None = None
    """The last LoRA written."""
    verdict: Verdict | None = None
    """Of validation; None where the run did not validate."""


@dataclass(frozen=True)
class Found:
    """The epoch for the final run, and where it comes from."""

    epoch: int
    source: Literal["chosen", "border", "still_learning"]


# ---- what came of it -------------------------------------------------------------------------------------------------


def results(project: Project, root: Path | None = None) -> dict[Step, list[Result]]:
    """The runs of each step with what came of them, newest first."""
    runs = list_runs(root)
    return {step: [result_of(run) for run in runs if _belongs(run, project, step)] for step in STEPS}


def result_of(run: RunFolder) -> Result:
    """What a run came to."""
    events = run.read_events()
    started = [event for event in events if isinstance(event, RunStarted)]
    epochs = [event for event in events if isinstance(event, EpochDone)]
    validations = [event for event in events if isinstance(event, ValidationDone)]
    saved = [event.path for event in events if isinstance(event, CheckpointSaved)]
    ended = projects.ending(events)
    path = ended.path if isinstance(ended, RunFinished) and ended.path else None
    return Result(
        run.path.name,
        projects.outcome_of(ended),
        epochs[-1].epoch if epochs else 0,
        started[-1].epochs if started else 0,
        epochs[-1].mean_loss if epochs else None,
        path or (saved[-1] if saved else None),
        judge(validations) if validations else None,
    )


def found_epoch(project: Project, found: Mapping[Step, Sequence[Result]]) -> Found | None:
    """The epoch to train to in the final run: the one chosen, else what validation said of the newest search."""
    if project.epoch is not None:
        return Found(project.epoch, "chosen")
    for result in found["border"]:
        verdict = result.verdict
        if verdict is not None and verdict.kind == "border":
            return Found(verdict.border, "border")
        if verdict is not None and verdict.kind == "still_learning" and result.outcome != "running":
            return Found(verdict.last, "still_learning")
    return None


def next_step(project: Project, found: Mapping[Step, Sequence[Result]]) -> Step:
    """The first step that has not been brought to an end."""
    for step in ("check", "border"):
        if not any(result.outcome in ("finished", "stopped") for result in found[step]):
            return step
    if found_epoch(project, found) is None:
        return "border"
    return "handover" if any(result.outcome == "finished" for result in found["final"]) else "final"


def final_file(found: Mapping[Step, Sequence[Result]]) -> Path | None:
    """The LoRA to hand over: the newest of the final run that is still there."""
    paths = (result.path for result in found["final"] if result.outcome in ("finished", "stopped"))
    return next((path for path in paths if path is not None and path.is_file()), None)


def handover(path: Path) -> list[Finding]:
    """What the header of a file says against passing it on. Raises UserError for a file that can't be read."""
    return [finding for finding in inspect_header(path).findings if finding.severity != "note"]


def _belongs(run: RunFolder, project: Project, step: Step) -> bool:
    """By its folder's name, "20261121-101500-usu-1-check": so a page with many runs reads those of the project only."""
    return is_named(run, project.outputs.get(step, ()))


def is_named(run: RunFolder, names: Sequence[str]) -> bool:
    """Whether a run has one of these output names."""
    outputs = "|".join(re.escape(re.sub(r"\s+", "_", name)) for name in names)
    return bool(outputs and re.fullmatch(rf"\d{{8}}-\d{{6}}-(?:{outputs})(?:-\d\d)?", run.path.name))


# ---- filling in ------------------------------------------------------------------------------------------------------


def settings_for(project: Project, step: Step, before: RunSettings, found: Found | None) -> RunSettings:
    """The settings of a step, from those on the page: pictures, words, model and prompts stay.

    Raises UserError for the final run before the epoch is known, and for the last step, which trains nothing.
    """
    if step not in PRESETS:
        raise UserError("guides.no_such_step", step=step)
    if step == "final" and found is None:
        raise UserError("guides.no_border")
    source = source_of(before.model, before.model.family)
    applied = with_values(apply_preset(before, find_preset(PRESETS[step])), {"model.family": source.family})
    changes: dict[str, Any] = {
        "model.base": before.model.base,
        **settings_for_source(source),
        "save.output_dir": applied.save.output_dir or home() / "output",
        "save.output_name": f"{project.name}-{STEPS.index(step) + 1}-{step}",
    }
    if step == "border":
        changes["validation.every_n_epochs"] = applied.save.save_every_n_epochs
    if step == "final" and found is not None:
        every = max(1, round(found.epoch / _FINAL_SAVES))
        changes |= {"train.epochs": found.epoch, "save.save_every_n_epochs": every, "sample.every_n_epochs": every}
    done = with_values(applied, changes)
    return with_values(done, {"save.output_name": free_name(done.save)})


def remember(project: Project, step: Step, output_name: str) -> Project:
    """The project with an output name filled in for a step, saved."""
    before = [name for name in project.outputs.get(step, ()) if name != output_name]
    return PROJECTS.save(project.model_copy(update={"outputs": {**project.outputs, step: [*before, output_name]}}))


def choose_epoch(project: Project, epoch: int | None) -> Project:
    """The project with an epoch of somebody's own, or with the verdict's again; saved."""
    if epoch is not None and not 1 <= epoch <= 10_000:
        raise UserError("guides.number", value=epoch, most=10_000)
    return PROJECTS.save(project.model_copy(update={"epoch": epoch}))
