"""The page of the copier LoRA by difference: the parts of a project, what came of each, and what is next."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from app.guide.projects import View, panel_of
from app.i18n import say
from app.shared_files import thumbnail
from app.words import stage_word
from lora_core import jobs
from lora_core.errors import UserError
from lora_core.events import StageChanged
from lora_core.guides.copier_project import (
    FILE_NAMES,
    PRESET,
    PROJECTS,
    TRAINED,
    Part,
    Project,
    Result,
    difference_of,
    family_of,
    problems_of,
    prompts_of,
    proposed_layers,
    results,
    saved_file,
    trained_with,
)
from lora_core.i18n import Language, text
from lora_core.merge.blocks import PRESETS
from lora_core.settings.presets import find_preset

Step = Literal["pictures", "train", "difference", "grid", "save"]
STEPS: tuple[Step, ...] = get_args(Step)
_WORDS = (
    *("project", "new", "create", "next", "steps", "steps_help", "rank", "rank_help", "layers", "layers_help"),
    *("preset", "prompts", "prompts_help", "name", "name_help", "anew", "inspect", "send", "grid_alt"),
)


def view_of(name: str, language: Language) -> View:
    """All the panel shows of a project; of the one worked on last where no name is given."""
    return panel_of(PROJECTS, name, language, ("guide.copy", _WORDS), lambda project: project_view(project, language))


def project_view(project: Project, language: Language) -> View:
    found = results(project)
    states = {part: shown_state(result) for part, result in found.items()}
    done = done_steps(project, found)
    following = next((step for step in STEPS if step not in done), "")
    steps = [step_view(step, project, found, states, language) for step in STEPS]
    for step in steps:
        step |= {"next": step["step"] == following, "done": step["step"] in done}
    family = family_of(found)
    return {
        "project": project.name,
        "steps": steps,
        "busy": any(state in ("queued", "running") for state in states.values()),
        "values": {
            "steps": project.steps or "",
            "rank": project.rank or "",
            "layers": project.layers or "",
            "prompts": project.prompts,
        },
        "proposed": {
            "steps": find_preset(PRESET).steps or "",
            "layers": proposed_layers(family),
            "prompts": _proposed_prompts(project, found),
            "name": project.name,
        },
        "layers": [["", say("guide.copy.layers_proposed", language)], *_weights(language)],
    }


def done_steps(project: Project, found: Mapping[Part, Result]) -> set[Step]:
    done: set[Step] = {"pictures"}
    if all(found[part].is_done for part in TRAINED):
        done.add("train")
    done |= {step for step in ("difference", "grid") if found[step].is_done}  # type: ignore[index,misc]
    return done | ({"save"} if saved_file(project) else set())


def shown_state(result: Result) -> str:
    """The state of a part, as far as jobs know more than its events: whether it waits, whether its process is gone."""
    if result.state != "running" or result.run is None:
        return result.state
    known = jobs.state(result.run)
    return known if known in ("queued", "failed", "stopped") else "running"


def step_view(
    step: Step, project: Project, found: Mapping[Part, Result], states: Mapping[Part, str], language: Language
) -> View:
    """A step: what it is for, what came of it, and its button."""
    trained = all(found[part].is_done for part in TRAINED)
    training = any(states[part] in ("queued", "running") for part in TRAINED)
    enabled = {
        "pictures": not training,
        "train": not training,
        "difference": trained and states["difference"] not in ("queued", "running"),
        "grid": found["difference"].is_done and states["grid"] not in ("queued", "running"),
        "save": found["difference"].is_done,
    }
    parts: Sequence[Part] = {"train": TRAINED, "difference": ("difference",), "grid": ("grid",)}.get(step, ())  # type: ignore[assignment,arg-type]
    view: View = {
        "step": step,
        "title": say(f"guide.copy.{step}", language),
        "help": say(f"guide.copy.{step}_help", language),
        "rows": [row_view(part, project, found[part], states[part], language) for part in parts],
        "button": say(f"guide.copy.{step}_go", language),
        "enabled": enabled[step],
        "notes": [],
    }
    if step == "pictures":
        return view | {"notes": picture_notes(project, language)}
    if step == "train":
        only_b = found["before"].is_done and not trained
        button = say("guide.copy.train_b_go", language) if only_b else view["button"]
        return view | {"button": button, "anew": found["before"].is_done and not training}
    if step == "grid":
        return view | {"grids": [pair for path in found["grid"].pages if (pair := thumbnail(path))]}
    if step == "save" and (saved := saved_file(project)):
        return view | {"notes": [note(say("guide.copy.saved", language, path=saved))], "file": str(saved)}
    return view


def row_view(part: Part, project: Project, result: Result, state: str, language: Language) -> View:
    """A part in a line: which it is, how far it is, or why it failed."""
    picture = {"before": project.before, "after": project.after}.get(part)
    return {
        "part": part,
        "label": f"{FILE_NAMES[part]} · {picture.name}" if picture is not None else "",
        "state": state,
        "word": say(f"guide.copy.state.{state}", language),
        "fraction": _fraction(result) if state == "running" else None,
        "text": _text(result, state, language),
    }


def picture_notes(project: Project, language: Language) -> list[View]:
    """Which pictures they are and how much differs; and what is worth a warning."""
    names = {"before": _name(project.before), "after": _name(project.after)}
    notes = [note(say("guide.copy.pair", language, **names))]
    if (found := difference_of(project)) is not None:
        notes = [note(say("guide.copy.pair_differs", language, share=f"{found.share:.0%}", **names))]
    problems = problems_of(project.before, project.after)
    return notes + [note(problem.message(language), problem.severity) for problem in problems]


def note(words: str, severity: str = "") -> View:
    return {"text": words, "severity": severity}


def _text(result: Result, state: str, language: Language) -> str:
    if result.failed is not None:
        return result.failed.message.get(language) or result.failed.message.get("en", "")
    if state == "running" and result.total:
        return say("guide.copy.at_step", language, done=result.done, total=result.total)
    if state == "running":
        stage = jobs.last_event(result.run, (StageChanged,)) if result.run else None
        return stage_word(stage if isinstance(stage, StageChanged) else None, language)
    return result.path.name if state == "done" and result.path is not None else ""


def _fraction(result: Result) -> float | None:
    if result.total:
        return result.done / result.total
    stage = jobs.last_event(result.run, (StageChanged,)) if result.run else None
    return stage.done / stage.total if isinstance(stage, StageChanged) and stage.total else None


def _proposed_prompts(project: Project, found: Mapping[Part, Result]) -> str:
    """What is drawn where nothing is typed; nothing before there is a training to ask."""
    try:
        trained = trained_with(next((found[part] for part in TRAINED if found[part].run), Result()))
        return "\n".join(prompts_of(project.model_copy(update={"prompts": ""}), trained))
    except UserError:
        return ""


def _weights(language: Language) -> list[list[str]]:
    """Named layer weights: [name, name and what it does]."""
    return [[name, f"{name}: {text(preset.key, language)}"] for name, preset in PRESETS.items() if name != "NONE"]


def _name(path: Path | None) -> str:
    return path.name if path is not None else ""
