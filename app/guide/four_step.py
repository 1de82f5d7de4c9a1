"""The page of four-step tuning: the steps of a project with their runs, results and what is next."""

from collections.abc import Sequence
from pathlib import Path

from app.guide.projects import View, panel_of
from app.i18n import say
from app.words import run_label, state_word
from lora_core import jobs
from lora_core.errors import UserError
from lora_core.guides.four_step import (
    PROJECTS,
    STEPS,
    Found,
    Project,
    Result,
    Step,
    final_file,
    found_epoch,
    handover,
    next_step,
    results,
)
from lora_core.i18n import Language
from lora_core.runs import RunFolder, runs_root

_WORDS = ("project", "new", "create", "epoch", "epoch_help", "use", "refresh", "next")
MOST_RUNS = 5


def view_of(name: str, language: Language) -> View:
    """All the panel shows of a project; of the one worked on last where no name is given."""
    return panel_of(PROJECTS, name, language, ("guide.four", _WORDS), lambda project: project_view(project, language))


def project_view(project: Project, language: Language) -> View:
    found = results(project)
    epoch, following, file = found_epoch(project, found), next_step(project, found), final_file(found)
    steps = [step_view(step, found[step], following, epoch, file, language) for step in STEPS]
    chosen = {"epoch": project.epoch or "", "proposed": epoch.epoch if epoch and not project.epoch else ""}
    return {"project": project.name, "steps": steps, **chosen}


def step_view(
    step: Step, runs: Sequence[Result], following: Step, epoch: Found | None, file: Path | None, language: Language
) -> View:
    """A step: what it is for, its runs, and its button."""
    is_last = step == "handover"
    return {
        "step": step,
        "title": say(f"guide.four.{step}", language),
        "help": say(f"guide.four.{step}_help", language),
        "runs": [run_words(run, language) for run in runs[:MOST_RUNS]],
        "notes": _notes(step, runs, epoch, file, language),
        "next": step == following,
        "done": any(run.outcome == "finished" for run in runs),
        "button": say("guide.four.inspect" if is_last else "guide.four.fill", language),
        "enabled": file is not None if is_last else step != "final" or epoch is not None,
    }


def run_words(result: Result, language: Language) -> str:
    """A run in a line: "usu-2-border, 2026-11-21 10:15: finished, epoch 80 of 80, loss 0.081"."""
    name, when = run_label(result.run)
    state = state_word(jobs.state(RunFolder(runs_root() / result.run)), language)
    parts = [state]
    if result.planned:
        parts.append(say("guide.four.epochs", language, done=result.epochs, planned=result.planned))
    if result.loss is not None:
        parts.append(say("guide.four.loss", language, loss=f"{result.loss:.4f}"))
    return say("guide.four.run", language, name=name, when=when, facts=" · ".join(parts))


def _notes(step: Step, runs: Sequence[Result], epoch: Found | None, file: Path | None, language: Language) -> list[str]:
    """What came of a step, in sentences."""
    if step == "border":
        return [run.verdict.words(language) for run in runs[:1] if run.verdict is not None]
    if step == "final":
        return [] if epoch is None else [say(f"guide.four.epoch_{epoch.source}", language, epoch=epoch.epoch)]
    if step == "handover" and file is not None:
        return [say("guide.four.file", language, path=file), *_findings(file, language)]
    return []


def _findings(file: Path, language: Language) -> list[str]:
    try:
        found = handover(file)
    except UserError as error:
        return [error.message(language)]
    return [finding.message(language) for finding in found] or [say("guide.four.clean", language)]
