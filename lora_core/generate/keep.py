"""The epoch that was chosen: a copy of its file under a name to use, and a note of the choice. Torch-free."""

import math
import shutil
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lora_core.errors import UserError
from lora_core.events import EpochKept, append
from lora_core.generate.epochs import is_numbered, run_of
from lora_core.io.writing import replacing, write_error
from lora_core.runs import RunFolder, list_runs, read_job_settings
from lora_core.settings import RunSettings
from lora_core.settings.base import FileName

ENDING = ".safetensors"
LONGEST = 120
"""Of a name, as for output names."""
CLOCKS_DIFFER = 2.0
"""Seconds by which a file system's clock may be ahead of ours, or round up."""
_NAME: TypeAdapter[str] = TypeAdapter(FileName)


def keep(lora: Path, name: str, job: RunFolder | None = None, strength: float | None = None) -> Path:
    """Copies a LoRA beside itself as ``name``.safetensors, and notes that in its training's folder and the job's.

    ``strength``: at which it was chosen in a grid of strengths. 0 shows the source model and recommends nothing.
    Raises UserError for a name that can't be used, that a file has already, or that the training itself will write.
    """
    training = training_of(lora)
    path = lora.with_name(f"{checked_name(name)}{ENDING}")
    if path.exists():
        raise UserError("keep.exists", path=path)
    if is_written_by_the_run(path, None if training is None else training[1]):
        raise UserError("keep.name_of_run", name=path.stem)
    copied(lora, path)
    choice = EpochKept(source=lora, path=path, strength=strength or None)
    note(choice, (run for run in (job, training and training[0]) if run))
    return path


def checked_name(name: str) -> str:
    """A file name without its ending. Raises UserError for an empty one and what systems refuse."""
    stem = name.strip().removesuffix(ENDING).strip()
    if not stem or len(stem) > LONGEST:
        raise UserError("keep.no_name", longest=LONGEST)
    try:
        return _NAME.validate_python(stem)
    except ValidationError as error:
        raise error.errors()[0]["ctx"]["error"] from error  # the UserError that says what is wrong with it


def proposed_name(lora: Path) -> str:
    """``<output name>-best``, or with -2, -3 ... behind it where that file is there already."""
    best = f"{run_of(lora)}-best"
    names = (best, *(f"{best}-{number}" for number in range(2, 1000)))
    return next((name for name in names if not lora.with_name(name + ENDING).exists()), best)


def recommended_strength(lora: Path) -> float | None:
    """The strength at which a LoRA was last chosen, itself or as a copy; None where nobody chose one.

    A file that was written after the choice is another one under the same name.
    """
    path = lora.absolute()
    written = path.stat().st_mtime if path.is_file() else math.inf
    noted = (kept for run in list_runs() if run.kept.is_file() for kept in run.kept_reader().read())
    own = [
        kept
        for kept in noted
        if kept.strength is not None
        and path in (kept.path.absolute(), kept.source.absolute())
        and written <= kept.time + CLOCKS_DIFFER
    ]
    return max(own, key=lambda kept: kept.time).strength if own else None


def training_of(lora: Path) -> tuple[RunFolder, RunSettings] | None:
    """The newest training that saves files of this name here; None for a file from elsewhere."""
    name = run_of(lora)
    for run in list_runs():
        try:
            settings = read_job_settings(run.settings)
        except (OSError, ValueError):
            continue
        if not isinstance(settings, RunSettings) or settings.save.output_dir is None:
            continue
        if settings.save.output_name == name and settings.save.output_dir.absolute() == lora.parent.absolute():
            return run, settings
    return None


def is_written_by_the_run(path: Path, settings: RunSettings | None) -> bool:
    """Whether a training may write over a file of this name later: its result, its epochs, its best."""
    if is_numbered(path.stem):
        return True
    if settings is None:
        return False
    name, keeps_best = settings.save.output_name, settings.validation.keep_best
    return path.stem in {name, f"{name}-ema", *([f"{name}-best"] if keeps_best else [])}


def copied(source: Path, path: Path) -> None:
    """The whole file or none. Raises UserError when it is gone or can't be written."""
    if not source.is_file():
        raise UserError("keep.gone", path=source)
    try:
        with replacing(path) as temporary:
            shutil.copyfile(source, temporary)
    except OSError as error:
        raise write_error(error, path, source.stat().st_size) from error


def note(choice: EpochKept, runs: Iterable[RunFolder]) -> None:
    for run in runs:
        append(run.kept, choice)
