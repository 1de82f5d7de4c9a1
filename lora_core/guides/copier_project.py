"""Copier LoRA (コピー機LoRA) by the difference of two LoRAs, as one project. Torch-free.

A learns the picture before the change by heart; B goes on from A and learns the one after it; B minus A is the change.
(Two trainings from nothing end in two places that differ in much besides: benchmarks/copier_pair.py has the numbers.)
The project remembers the two pictures, what was chosen on the way, and the run of each part; what came of it is read
from the run folders.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError

from lora_core.data.pair import Alignment, compare
from lora_core.errors import Problem, UserError
from lora_core.events import CheckpointSaved, FileSaved, RunFailed, RunFinished, RunStarted, StepDone
from lora_core.generate.axes import pages
from lora_core.generate.keep import ENDING, checked_name, copied
from lora_core.generate.prompts import parse as parse_prompts
from lora_core.guides import copier, projects
from lora_core.guides.offers import settings_for_source, source_of
from lora_core.io.headers import identify
from lora_core.io.kinds import FAMILY_NAMES, Family
from lora_core.merge.blocks import parse as parse_weights
from lora_core.runs import RunFolder, home, list_runs, read_job_settings
from lora_core.settings import RunSettings
from lora_core.settings.base import UserPath
from lora_core.settings.files import write_text
from lora_core.settings.generate import Axis, GridSettings, LoraUse
from lora_core.settings.overlay import with_values
from lora_core.settings.presets import apply_preset, find_preset
from lora_core.settings.tools import LoraSource, MergeSettings
from lora_core.train.files import final_file, free_name

PRESET = "copier"
Part = Literal["before", "after", "difference", "grid"]
PARTS: tuple[Part, ...] = get_args(Part)
TRAINED: tuple[Part, ...] = ("before", "after")
"""A and B."""
FILE_NAMES: Mapping[Part, str] = MappingProxyType({"before": "A", "after": "B"})
State = Literal["to_do", "running", "done", "failed", "stopped"]

STRENGTHS = ("-1", "-0.5", "0", "0.5", "1")
SEEDS = (1, 2)
USUAL_PROMPTS: Mapping[bool, str] = MappingProxyType({True: "bear", False: "1girl, upper body"})
"""Drawn where nobody says what: by the built-in model, by any other."""
LAYERS: Mapping[Family, str] = MappingProxyType(
    {
        "sd1": "BASE=0, IN00-02=0",
        "sd2": "BASE=0, IN00-02=0",
        "sdxl": "BASE=0, IN00-04=0",
        "flux": "BASE=0, D00-02=0",
    }
)
"""Proposed for the difference: no words, and not the layers nearest to the picture on its way in, which hold the style.

SDXL's first blocks with attention are IN04 and IN05; FLUX has double blocks in their place."""
MOST_STEPS = 100_000
_NO_DATA = ("reg_dir", "config", "mask_dir", "cache_dir", "pair_before", "pair_after")
_DRAWN_AS = ("steps", "guidance", "sampler")
"""How samples and the grid are drawn: as the page says, where the model does not want it otherwise."""
_NO_WORDS = ("trigger_words", "caption_prefix", "caption_suffix")


class Project(projects.Project):
    """Two pictures on their way to the LoRA that makes one the other."""

    before: UserPath = None
    after: UserPath = None
    steps: int | None = Field(None, ge=1, le=MOST_STEPS)
    """Of each training; empty: as the preset says."""
    rank: int | None = Field(None, ge=1, le=4096)
    """Of the difference; empty: all that A and B differ in."""
    layers: str | None = Field(None, max_length=2000)
    """Layer weights of the difference; None: as proposed."""
    prompts: str = Field("", max_length=4000)
    """One a line; empty: as proposed."""
    runs: dict[Part, str] = Field(default_factory=dict)
    """Run folder of each part, the latest."""
    saved: list[Path] = Field(default_factory=list)
    """Where the result was saved to."""


PROJECTS = projects.Projects("copier", Project)


@dataclass(frozen=True)
class Result:
    """What came of a part, from its run alone."""

    state: State = "to_do"
    run: RunFolder | None = None
    path: Path | None = None
    """The LoRA that was made."""
    pages: tuple[Path, ...] = ()
    """Finished grids."""
    done: int = 0
    total: int = 0
    """Steps."""
    failed: RunFailed | None = None

    @property
    def is_done(self) -> bool:
        return self.state == "done"


# ---- the project -----------------------------------------------------------------------------------------------------


def begin(name: str, before: Path | None, after: Path | None) -> Project:
    """A new project of two pictures. Raises UserError for a bad name and for pictures that are no pair."""
    before, after = pair_of(before, after)
    return PROJECTS.new(name, before=before, after=after)


def other_pictures(project: Project, before: Path | None, after: Path | None) -> Project:
    """The project with other pictures, and everything to do again. Raises UserError as ``begin``."""
    before, after = pair_of(before, after)
    return PROJECTS.save(project.model_copy(update={"before": before, "after": after, "runs": {}}))


def pair_of(before: Path | None, after: Path | None) -> tuple[Path, Path]:
    """The two pictures, if they are a pair. Raises UserError: one alone, the same twice, of different sizes, gone."""
    problems = problems_of(before, after)
    error = next((problem for problem in problems if problem.severity == "error"), None)
    if error is not None:
        raise UserError(error.key, **error.values)
    assert before is not None
    assert after is not None
    return before.absolute(), after.absolute()


def problems_of(before: Path | None, after: Path | None) -> list[Problem]:
    """What keeps two pictures from being a pair, errors and warnings."""
    if before is None and after is None:
        return [Problem("dataset.pair_before", "guides.no_pair")]
    return copier.problems_of(before, after)


def difference_of(project: Project) -> Alignment | None:
    """How the two pictures differ; None where they can't be read any more."""
    if project.before is None or project.after is None:
        return None
    try:
        return compare(project.before, project.after)
    except (UserError, OSError):
        return None


def chosen(project: Project, **values: Any) -> Project:
    """The project with what was filled in, saved; what was made with other values is to do again.

    Raises UserError for a number out of its limits.
    """
    try:
        new = Project.model_validate(project.model_dump() | values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"guides.copier_bad_{first['loc'][0]}", value=str(first["input"])[:80]) from error
    if new == project:
        return project
    changed = {name for name in values if getattr(new, name) != getattr(project, name)}
    first_part: Part | None = "difference" if changed & {"rank", "layers"} else "grid" if "prompts" in changed else None
    return PROJECTS.save(new if first_part is None else without(new, PARTS[PARTS.index(first_part) :]))


def without(project: Project, parts: Sequence[Part]) -> Project:
    """The project as if these parts had not been made."""
    return project.model_copy(update={"runs": {p: run for p, run in project.runs.items() if p not in parts}})


def remember(project: Project, part: Part, run: RunFolder) -> Project:
    """The project with the run of a part, saved; what was made from an earlier one is to do again."""
    kept = without(project, PARTS[PARTS.index(part) + 1 :])
    return PROJECTS.save(kept.model_copy(update={"runs": kept.runs | {part: run.path.name}}))


def folder_of(project: Project) -> Path:
    """Where the project keeps what it makes."""
    return PROJECTS.folder / project.name


# ---- what came of it -------------------------------------------------------------------------------------------------


def results(project: Project, root: Path | None = None) -> dict[Part, Result]:
    """What came of every part."""
    known = {run.path.name: run for run in list_runs(root)} if project.runs else {}
    return {part: result_of(known.get(project.runs.get(part, ""))) for part in PARTS}


def result_of(run: RunFolder | None) -> Result:
    """What a run came to. A file that is gone is to be made again."""
    if run is None:
        return Result()
    events = run.read_events()
    ended = projects.ending(events)
    saved = [event.path for event in events if isinstance(event, CheckpointSaved)]
    files = [event for event in events if isinstance(event, FileSaved)]
    pictures = tuple(event.path for event in files if event.facts.get("grid") and event.path.is_file())
    started = next((event for event in events if isinstance(event, RunStarted)), None)
    step = next((event.step for event in reversed(events) if isinstance(event, StepDone)), 0)
    path = ended.path if isinstance(ended, RunFinished) and ended.path else next(reversed(saved), None)
    path = path if path is not None and path.is_file() and path.suffix == ENDING else None
    state = _state(ended, is_there=bool(path or pictures))
    failed = ended if isinstance(ended, RunFailed) else None
    return Result(state, run, path, pictures, step, started.total_steps if started else 0, failed)


def _state(ended: RunFinished | RunFailed | None, *, is_there: bool) -> State:
    """A training that was stopped and saved counts: somebody saw that the picture was learned.

    Its file then has the step in its name, so a B that waited for the last file of A is to be started again.
    """
    if ended is None:
        return "running"
    if isinstance(ended, RunFailed):
        return "failed"
    if is_there:
        return "done"
    return "stopped" if ended.reason == "stopped" else "to_do"


def next_part(found: Mapping[Part, Result]) -> Part | None:
    """The first part that is not done; None when all are."""
    return next((part for part in PARTS if not found[part].is_done), None)


# ---- A and B ---------------------------------------------------------------------------------------------------------


def trainings(
    project: Project, found: Mapping[Part, Result], page: RunSettings, *, anew: bool = False
) -> dict[Part, RunSettings]:
    """The settings of A and B; of B alone where A is there, unless ``anew``.

    A decides on the settings of B: only what was trained alike can be subtracted. Raises UserError while one of the two
    runs, and for a source model that can't be trained.
    """
    if any(found[part].state == "running" for part in TRAINED):
        raise UserError("guides.copier_running")
    before, after = pair_of(project.before, project.after)
    a = found["before"]
    if anew or not a.is_done:
        first = _of_picture(project, "before", before, laid_out(project, page))
        return {"before": first, "after": _going_on(project, after, first, final_file(first.save))}
    assert a.path is not None
    return {} if found["after"].is_done else {"after": _going_on(project, after, trained_with(a), a.path)}


def _going_on(project: Project, picture: Path, first: RunSettings, a: Path) -> RunSettings:
    """B: as A was trained, from where A ended."""
    return with_values(_of_picture(project, "after", picture, first), {"network.network_weights": a})


def trained_with(result: Result) -> RunSettings:
    """The settings of a training. Raises UserError where its folder can't be read."""
    settings = None
    if result.run is not None:
        try:
            settings = read_job_settings(result.run.settings)
        except (OSError, ValueError):
            settings = None
    if not isinstance(settings, RunSettings):
        raise UserError("guides.copier_no_run")
    return settings


def laid_out(project: Project, page: RunSettings) -> RunSettings:
    """The preset for the model of the page, with nothing of another training left; no picture yet."""
    source = source_of(page.model, page.model.family)
    preset = find_preset(PRESET)
    steps = project.steps or preset.steps
    changes: dict[str, Any] = {
        **{f"sample.{name}": getattr(page.sample, name) for name in _DRAWN_AS},
        **settings_for_source(source),
        "model.base": page.model.base,
        **{f"dataset.{name}": None for name in _NO_DATA},
        **{f"dataset.{name}": "" for name in _NO_WORDS},
        "network.network_weights": None,
        "save.resume": None,
        "train.epochs": steps,
        "train.max_train_steps": None,
        "save.save_every_n_epochs": None,
        "save.output_dir": folder_of(project),
    }
    if not page.sample.prompts.strip():  # samples tell when the picture is learned
        changes["sample.prompts"] = project.prompts.strip() or USUAL_PROMPTS[source.built_in]
    return with_values(apply_preset(page, preset), changes)


def _of_picture(project: Project, part: Part, picture: Path, like: RunSettings) -> RunSettings:
    """The training of one picture, where it is, under a name that is free."""
    changes = {
        "dataset.train_dir": picture.parent,
        "dataset.metadata_file": _listed(project, part, picture),
        "save.output_dir": folder_of(project),
        "save.output_name": f"{project.name}-{FILE_NAMES[part]}",
    }
    named = with_values(like, changes)
    return with_values(named, {"save.output_name": free_name(named.save)})


def _listed(project: Project, part: Part, picture: Path) -> Path:
    """A list of pictures with this one alone, which says that it has no caption on purpose."""
    path = folder_of(project) / f"{FILE_NAMES[part]}.json"
    write_text(path, json.dumps({picture.as_posix(): {"caption": None}}, ensure_ascii=False, indent=2) + "\n")
    return path


# ---- B - A -----------------------------------------------------------------------------------------------------------


def merge_settings(project: Project, found: Mapping[Part, Result]) -> MergeSettings:
    """B minus A, by SVD, with the layer weights of the project, into a file of its own.

    Raises UserError while A or B is missing, where they are for different model types, and for weights that are none.
    """
    paths = [_file_of(part, found[part]) for part in TRAINED][::-1]
    family = _same_family(paths)
    layers = proposed_layers(family) if project.layers is None else project.layers
    parse_weights(layers, family)
    loras = [
        LoraSource(path=path, ratio=ratio, block_weights=layers) for path, ratio in zip(paths, (1, -1), strict=True)
    ]
    return MergeSettings(
        loras=loras, method="svd", rank=project.rank, output=free_file(folder_of(project), project.name)
    )


def proposed_layers(family: str) -> str:
    """The layer weights that keep a difference from touching the style; nothing for an unknown family."""
    return next((layers for known, layers in LAYERS.items() if known == family), "")


def family_of(found: Mapping[Part, Result]) -> Family:
    """The model type of the trainings; "unknown" before there are any."""
    for part in TRAINED:
        try:
            if (path := found[part].path) is not None:
                return identify(path).family
        except UserError:
            continue
    return "unknown"


def _file_of(part: Part, result: Result) -> Path:
    name = FILE_NAMES[part]
    if result.state == "failed":
        raise UserError("guides.copier_failed", name=name)
    if result.state == "running":
        raise UserError("guides.copier_running")
    if result.path is None:
        raise UserError("guides.copier_missing", name=name)
    return result.path


def _same_family(paths: Sequence[Path]) -> Family:
    families = [identify(path).family for path in paths]
    if families[0] != families[1]:
        named = [FAMILY_NAMES[family] for family in families]
        raise UserError("guides.copier_families", after=named[0], before=named[1])
    return families[0]


# ---- the grid --------------------------------------------------------------------------------------------------------


def grid_settings(project: Project, found: Mapping[Part, Result]) -> GridSettings:
    """A table for each prompt: seeds by strengths from -1 to 1. Raises UserError while there is no difference yet."""
    lora = found["difference"].path
    if lora is None:
        raise UserError("guides.copier_no_difference")
    trained = trained_with(next((found[part] for part in TRAINED if found[part].is_done), Result()))
    model, sample = trained.model, trained.sample
    named = {key: getattr(model, key, None) for key in ("vae", "clip_l", "t5")}
    settings = GridSettings(
        base=model.base,
        clip_skip=getattr(model, "clip_skip", 1),
        prompts=prompts_of(project, trained),
        loras=[LoraUse(path=lora)],
        rows=Axis(kind="seed", values=[str(seed) for seed in SEEDS]),
        columns=Axis(kind="strength", values=list(STRENGTHS)),
        steps=sample.steps,
        guidance=sample.guidance,
        sampler=sample.sampler,
        cache=home() / "cache" / "cells",
        **named,
    )
    pages(settings)  # what can't be drawn is said now
    return settings


def prompts_of(project: Project, trained: RunSettings) -> list[str]:
    """Those chosen, else the sample prompts of the training, else one that the model knows."""
    typed = [line.strip() for line in project.prompts.splitlines() if line.strip()]
    if typed:
        return typed
    try:
        sampled = [prompt.text for prompt in parse_prompts(trained.sample.prompts)]
    except UserError:
        sampled = []
    return sampled[:2] or [USUAL_PROMPTS[source_of(trained.model, trained.model.family).built_in]]


# ---- saving ----------------------------------------------------------------------------------------------------------


def save_result(project: Project, found: Mapping[Part, Result], name: str, folder: Path) -> tuple[Project, Path]:
    """Copies the difference into a folder under a name, or the next free one; the project remembers where.

    Raises UserError while there is none, for a name that is none, and where it can't be written.
    """
    lora = found["difference"].path
    if lora is None:
        raise UserError("guides.copier_no_difference")
    path = free_file(folder, checked_name(name or project.name))
    copied(lora, path)
    return PROJECTS.save(project.model_copy(update={"saved": [*project.saved, path]})), path


def saved_file(project: Project) -> Path | None:
    """The newest of the saved files that is still there."""
    return next((path for path in reversed(project.saved) if path.is_file()), None)


def free_file(folder: Path, stem: str) -> Path:
    """A LoRA file of this name that is not there, with -2, -3 ... behind it where one is."""
    names = (stem, *(f"{stem}-{number}" for number in range(2, 10_000)))
    return next(path for name in names if not (path := folder / f"{name}{ENDING}").exists())
