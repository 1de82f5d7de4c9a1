"""Sweeps that wait or train: their runs are jobs like others, and a file says which belong together."""

from collections.abc import Sequence
from pathlib import Path

from lora_core import jobs
from lora_core.errors import UserError
from lora_core.runs import RunFolder, home, runs_root
from lora_core.sweep import Planned, Result, keep, kept


def folder() -> Path:
    return home() / "sweeps"


def start(planned: Sequence[Planned]) -> tuple[Path, list[tuple[Planned, RunFolder]]]:
    """Put all runs in line; the file of the sweep, and the runs. Raises UserError when nothing can be written."""
    runs = [(one, jobs.start(one.settings)) for one in planned]
    path = folder() / f"{runs[0][1].path.name}.json"
    try:
        keep(path, runs)
    except OSError as error:
        raise UserError("jobs.cannot_write", path=path, error=error.strerror or error) from error
    return path, runs


def newest() -> Path | None:
    """The file of the sweep that was started last."""
    return max(folder().glob("*.json"), key=lambda path: path.stat().st_mtime, default=None)


def results(path: Path) -> list[Result]:
    """What became of the runs so far, after bringing the line of jobs up to date."""
    jobs.advance()
    return kept(path, runs_root())


def under_way(found: Sequence[Result]) -> bool:
    """Whether one of the runs still waits or trains."""
    waiting = {run.path.name for run in jobs.open_runs()}
    return any(one.run in waiting for one in found)
