"""Where a result may go: never over a source, never over a file that nobody agreed to lose, never half."""

from collections.abc import Iterable
from pathlib import Path

from lora_core.errors import UserError
from lora_core.io.arrays import same_file
from lora_core.io.writing import free_space
from lora_core.settings.tools import Target

MARGIN = 1.02
"""Room asked for beyond the result's own size: the header, and what else is written meanwhile."""


def check_output(target: Target, sources: Iterable[Path], needed: int = 0, *, folder: bool = False) -> Path:
    """The path to write. ``needed`` is the expected size in bytes; ``folder`` when the result is a diffusers folder.

    Raises UserError when none is given, it is a source, it exists and may not be replaced, or it does not fit.
    """
    path = target.output
    if path is None:
        raise UserError("output.not_given")
    if not folder and path.suffix.lower() != ".safetensors":
        if path.suffix.lower() in (".ckpt", ".pt", ".pth", ".bin"):
            raise UserError("output.not_safetensors", path=path)
        path = path.with_name(f"{path.name}.safetensors")
    for source in sources:
        if same_file(path, source):
            raise UserError("output.is_input", path=path)
    if not folder and path.is_dir():
        raise UserError("output.is_folder", path=path)
    if path.exists() and not target.overwrite:
        raise UserError("output.exists", path=path)
    free = free_space(path.parent)
    if needed and free < needed * MARGIN:
        raise UserError("file.disk_full", path=path, needed=f"{needed / 1e6:.0f} MB", free=f"{free / 1e6:.0f} MB")
    return path
