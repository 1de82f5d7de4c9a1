"""A diffusers folder written anew: changed weights rewritten, everything else copied, all of it or nothing."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core.errors import UserError
from lora_core.io.folders import read_json
from lora_core.io.writing import write_error
from lora_core.merge.checkpoint import TensorFile

if TYPE_CHECKING:
    from lora_core.merge.apply import Job

COPY_PIECE = 1 << 24
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5")
"""Endings of the same weights in other containers. Their contents would be those before baking."""


def check_folder(output: Path, sources: Sequence[Path]) -> None:
    """Raises UserError for a place inside a source or around one, and for a folder with anything but a model in it."""
    place = output.resolve()
    for source in (path.resolve() for path in sources):
        if place in source.parents or source in place.parents:
            raise UserError("output.is_input", path=output)
    if output.is_file() or (output.is_dir() and any(output.iterdir()) and not (output / "model_index.json").is_file()):
        raise UserError("apply.not_a_model_folder", path=output)


def members(folder: Path) -> list[Path]:
    """All files of a model folder but hidden ones, such as downloads keep beside it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in files if not any(name.startswith(".") for name in path.relative_to(folder).parts)]


def replaced(job: "Job") -> set[Path]:
    """Files left out: the weights of a changed part in containers that are not rewritten."""
    changed = {path.parent for path, _ in job.plan}
    return {path for path in members(job.model.path) if path.parent in changed and path.suffix in _PICKLES}


def _rewritten(job: "Job") -> dict[Path, TensorFile]:
    """Files whose tensors change, or their number format."""
    files = {file.path: file for file in job.model.files}
    if job.settings.precision != "same":
        others = (path for path in members(job.model.path) if path.suffix == ".safetensors" and path not in files)
        files |= {path: TensorFile.of(path) for path in others}
    return {path: file for path, file in files.items() if job.changes(file)}


def folder_size(job: "Job") -> int:
    """Bytes the result will take."""
    rewritten, left_out = _rewritten(job), replaced(job)
    kept = (path for path in members(job.model.path) if path not in rewritten and path not in left_out)
    return sum(path.stat().st_size for path in kept) + sum(job.size_of(file) for file in rewritten.values())


def write_folder(job: "Job", output: Path) -> Iterator[int]:
    """Writes the whole folder, first under a temporary name; yields the bytes of each piece. Raises UserError."""
    temporary = output.with_name(f"{output.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        rewritten, left_out = _rewritten(job), replaced(job)
        for path in members(job.model.path):
            target = temporary / path.relative_to(job.model.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path in rewritten:
                yield from job.write(rewritten[path], target)
            elif path not in left_out:
                yield from _copy(path, target)
        if job.settings.precision != "same":
            _correct_indices(temporary)
        _take_place(temporary, output)
    except OSError as error:
        raise write_error(error, output, folder_size(job)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _copy(source: Path, target: Path) -> Iterator[int]:
    with source.open("rb") as old, target.open("wb") as new:
        while piece := old.read(COPY_PIECE):
            yield new.write(piece)


def _correct_indices(folder: Path) -> None:
    """The total size that the index of a model in several files names."""
    for index in folder.rglob("*.safetensors.index*.json"):
        table = read_json(index)
        files = {index.parent / Path(name).name for name in table.get("weight_map", {}).values()}
        spans = [span for file in files for span in TensorFile.of(file).spans.values()]
        if isinstance(table.get("metadata"), dict):
            table["metadata"]["total_size"] = sum(end - start for start, end in spans)
        index.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def _take_place(new: Path, output: Path) -> None:
    """The new folder in the place of the old one, which is there until the new one is."""
    old = output.with_name(f"{output.name}.{os.getpid()}.old")
    if output.exists():
        output.rename(old)
    try:
        new.rename(output)
    except OSError:
        with contextlib.suppress(OSError):
            old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)
