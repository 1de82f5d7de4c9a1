"""What the Model test tab shows, as plain values by key: how it begins, what is kept, and the job it describes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from app.drafts import of_right_kind, read_draft
from app.folder_view import is_allowed
from app.merge.values import FormError, Term
from lora_core import jobs
from lora_core.errors import UserError
from lora_core.families.source import BUILT_IN
from lora_core.generate.epochs import saved_files
from lora_core.generate.prompts import parse
from lora_core.runs import RunFolder, home, list_runs, read_job_settings
from lora_core.settings import RunSettings
from lora_core.settings.base import clean_path
from lora_core.settings.generate import Axis, AxisKind, GenerateSettings, GridSettings, ProofSettings, SamplerName

Values = Mapping[str, Any]
MODES = ("pictures", "grid")
SAMPLERS: Sequence[str] = get_args(SamplerName)
EPOCHS = "epochs"
ROWS: Sequence[str] = (EPOCHS, *get_args(AxisKind))
"""What the rows of a grid can be: the saved epochs of a run, or what the columns can be, too."""
COLUMNS: Sequence[str] = get_args(AxisKind)
MANY_COMMAS = ("layers", "replace")
"""Axes whose values may hold commas, so that each has a line of its own."""

DEFAULTS: dict[str, Any] = {
    "mode": "pictures",
    "base": "",
    "vae": "",
    "clip_l": "",
    "t5": "",
    "clip_skip": 1,
    "prompts": "",
    "negative": "",
    "lora": "",
    "strength": 1.0,
    "width": None,
    "height": None,
    "steps": 28,
    "guidance": 7.0,
    "sampler": "euler_a",
    "seed": 1,
    "count": 1,
    "run_folder": "",
    "run_name": "",
    "rows": EPOCHS,
    "rows_values": "",
    "columns": "strength",
    "columns_values": "0, 0.5, 0.75, 1",
    "run": "",
}
"""Everything the tab keeps. ``run`` is the folder of the job last started."""
STRENGTHS = "0, 0.4, 0.6, 0.8, 1"
"""Columns of the grid of a run: the base model, and the strengths at which LoRAs are used."""
TWO_WAYS = "-2, -1, 0, 1, 2"
"""The same for LoRAs that are trained in both directions: concept sliders and copiers of two pictures."""
CHOICES: Mapping[str, Sequence[str]] = {"mode": MODES, "sampler": SAMPLERS, "rows": ROWS, "columns": COLUMNS}


def draft_file() -> Path:
    return home() / "model_test.json"


def load_draft(path: Path) -> dict[str, Any]:
    """What the tab showed last time, over the defaults."""
    return checked(read_draft(path))


def checked(kept: Values) -> dict[str, Any]:
    """Values of the right kind for every key of the tab."""
    return of_right_kind(kept, DEFAULTS, CHOICES)


def visible(values: Values) -> dict[str, bool]:
    """Which parts of the tab belong to what was chosen."""
    grid = values["mode"] == "grid"
    return {
        "grid_part": grid,
        "run_folder": grid and values["rows"] == EPOCHS,
        "rows_values": grid and values["rows"] != EPOCHS,
    }


# ---- the job ---------------------------------------------------------------------------------------------------------


def settings_of(values: Values, roots: Sequence[Path] = ()) -> GenerateSettings | GridSettings:
    """The job that the tab describes. Raises FormError for what is missing, out of its limits or not to be touched."""
    lora = _path(values, "lora", roots)
    given = _drawing(values, roots)
    if lora is not None and lora.is_dir():
        given["folders"] = [lora]
    elif lora is not None:
        given |= {"loras": [{"path": lora, "strength": values["strength"]}], "folders": [lora.parent]}
    if values["mode"] == "grid":
        return _made(GridSettings, given | _grid(values, roots))
    return _made(GenerateSettings, given)


def proof_settings_of(values: Values, roots: Sequence[Path] = ()) -> ProofSettings:
    """The proof of the LoRA file that the tab names. Raises FormError as ``settings_of``, and without a file."""
    lora = _path(values, "lora", roots)
    if lora is None or lora.is_dir():
        raise FormError("model_test.needs.lora", missing=True)
    return _made(ProofSettings, _drawing(values, roots) | {"lora": lora, "strength": values["strength"]})


def _drawing(values: Values, roots: Sequence[Path]) -> dict[str, Any]:
    """What all jobs of the tab have in common."""
    given = {
        key: values[key] for key in ("negative", "width", "height", "steps", "guidance", "sampler", "seed", "count")
    }
    given |= {key: _path(values, key, roots) for key in ("vae", "clip_l", "t5")}
    base = clean_path(values["base"])
    given["base"] = BUILT_IN if base in (None, BUILT_IN) else str(_path(values, "base", roots))
    given["clip_skip"] = values["clip_skip"]
    given["prompts"] = [line.strip() for line in values["prompts"].splitlines() if line.strip()]
    return given


def _grid(values: Values, roots: Sequence[Path]) -> dict[str, Any]:
    """Single pictures are kept in one place for all grids; finished grids lie beside the LoRAs of their run."""
    found: dict[str, Any] = {"cache": home() / "cache" / "cells", "columns": _axis(values, "columns", roots)}
    if values["rows"] != EPOCHS:
        return found | {"rows": _axis(values, "rows", roots)}
    folder = _path(values, "run_folder", roots)
    if folder is None:
        raise FormError("model_test.needs.run_folder", missing=True)
    return found | {"run": folder, "run_name": values["run_name"].strip(), "output": folder / "grid"}


def _axis(values: Values, key: str, roots: Sequence[Path]) -> Axis:
    kind, text = values[key], values[f"{key}_values"]
    words = text.splitlines() if kind in MANY_COMMAS or kind == "lora" else text.replace("\n", ",").split(",")
    if kind == "lora" and not all(is_allowed(Path(clean_path(word) or ""), roots) for word in words):
        raise FormError("browse.not_allowed")
    return Axis(kind=kind, values=[word.strip() for word in words])


def _path(values: Values, key: str, roots: Sequence[Path]) -> Path | None:
    cleaned = clean_path(values[key])
    if not cleaned:
        return None
    if "\0" in cleaned or not is_allowed(Path(cleaned), roots):
        raise FormError("browse.not_allowed")
    return Path(cleaned)


def _made(model: type, given: dict[str, Any]) -> Any:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = str(first["loc"][0]) if first["loc"] else ""
        field = Term(f"model_test.{'strength' if where == 'loras' else where}")
        raise FormError("model_test.bad_field", field=field, reason=first["msg"]) from error


# ---- from a run ------------------------------------------------------------------------------------------------------


def of_latest_run() -> dict[str, Any] | None:
    """The values for a grid of the newest training that has saved files, or None."""
    for run in list_runs():
        try:
            settings = read_job_settings(run.settings)
        except (OSError, ValueError):
            continue
        if isinstance(settings, RunSettings) and settings.save.output_dir is not None and _has_files(settings):
            return of_run(settings)
    return None


def _has_files(settings: RunSettings) -> bool:
    folder = settings.save.output_dir
    return folder is not None and any(folder.glob(f"{settings.save.output_name}*.safetensors"))


def of_run_folder(run: RunFolder | None) -> dict[str, Any]:
    """The values for a grid of the training in a run folder. Raises FormError or UserError while there is none."""
    try:
        settings = None if run is None else read_job_settings(run.settings)
    except (OSError, ValueError):
        settings = None
    if not isinstance(settings, RunSettings) or settings.save.output_dir is None:
        raise FormError("model_test.no_run")
    saved_files(settings.save.output_dir, settings.save.output_name)
    return of_run(settings)


def of_run(settings: RunSettings) -> dict[str, Any]:
    """The model, the prompts and the files of a training, ready to be drawn."""
    model, sample = settings.model, settings.sample
    paths = {key: str(getattr(model, key, None) or "") for key in ("vae", "clip_l", "t5")}
    found = {
        "mode": "grid",
        "rows": EPOCHS,
        "base": model.base,
        "clip_skip": getattr(model, "clip_skip", 1),
        "run_folder": str(settings.save.output_dir or ""),
        "run_name": settings.save.output_name,
        "columns": "strength",
        "columns_values": TWO_WAYS if settings.is_two_way else STRENGTHS,
        "lora": "",
        "count": 1,
        "sampler": sample.sampler,
        "steps": sample.steps,
        "guidance": sample.guidance,
        "seed": sample.seed,
        **paths,
    }
    return found | _prompts_of(settings)


def _prompts_of(settings: RunSettings) -> dict[str, Any]:
    """The sample prompts, drawn as the first of them is; without any, the class prompt, or what is on the page."""
    try:
        prompts = parse(settings.sample.prompts)
    except UserError:
        prompts = []
    if not prompts:
        words = settings.validation.class_prompt.strip()
        return {"prompts": words} if words else {}
    first = prompts[0]
    own = {key: getattr(first, key) for key in ("seed", "steps", "guidance", "sampler")}
    found: dict[str, Any] = {"prompts": "\n".join(p.text for p in prompts), "negative": first.negative}
    found |= {"width": first.width, "height": first.height}
    return found | {key: value for key, value in own.items() if value is not None}


def is_busy(name: str) -> bool:
    """Whether the job last started still waits or runs."""
    run = next((run for run in list_runs() if run.path.name == name), None) if name else None
    return run is not None and jobs.state(run) not in jobs.ENDED
