"""The LoRA files that a run saved along the way. Torch-free."""

import re
from pathlib import Path

from lora_core.errors import UserError

SAVED = re.compile(r"(?P<run>.+)-(?:(?P<epoch>\d{6})|step(?P<step>\d{8}))")
"""usu-000003 is epoch 3, usu-step00000100 step 100."""


def saved_files(folder: Path, run: str = "") -> list[Path]:
    """The files saved by epoch or by step, in order, and the finished one behind them.

    ``run`` is the output name, needed where the folder holds several runs. Raises UserError where there is no folder,
    nothing was saved along the way, or it can't be told which run is meant.
    """
    if not folder.is_dir():
        raise UserError("grid.no_folder", folder=folder)
    files = sorted(path for path in folder.glob("*.safetensors") if not path.stem.endswith("-ema"))
    runs: dict[str, list[Path]] = {}
    for path in files:
        if found := SAVED.fullmatch(path.stem):
            runs.setdefault(found["run"], []).append(path)
    if run and run not in runs:
        raise UserError("grid.no_epochs_of", folder=folder, run=run)
    if not runs:
        raise UserError("grid.no_epochs", folder=folder)
    if not run and len(runs) > 1:
        raise UserError("grid.several_runs", folder=folder, runs=", ".join(sorted(runs)))
    name = run or next(iter(runs))
    last = folder / f"{name}.safetensors"
    return [*sorted(runs[name], key=_place), *([last] if last in files else [])]


def _place(path: Path) -> tuple[bool, int]:
    """Epochs by number, then steps by number."""
    found = SAVED.fullmatch(path.stem)
    assert found
    return found["step"] is not None, int(found["step"] or found["epoch"])


def run_of(path: Path) -> str:
    """The output name of the run that saved a LoRA; the name of a file that was not saved along the way."""
    found = SAVED.fullmatch(path.stem)
    return found["run"] if found else path.stem


def is_numbered(stem: str) -> bool:
    """Whether a run gives such names to what it saves along the way."""
    return SAVED.fullmatch(stem) is not None


def labels(paths: list[Path]) -> list[str]:
    """Short names of LoRA files: "epoch 2" while they are all of one run, else the names of the files."""
    found = [SAVED.fullmatch(path.stem) for path in paths]
    runs = {match["run"] if match else path.stem for match, path in zip(found, paths, strict=True)}
    if len(runs) > 1 or not any(found):
        return [path.stem for path in paths]
    return [_label(match) for match in found]


def _label(match: re.Match | None) -> str:
    if match is None:
        return "final"
    return f"epoch {int(match['epoch'])}" if match["epoch"] else f"step {int(match['step'])}"
