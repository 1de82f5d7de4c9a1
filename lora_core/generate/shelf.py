"""The studio that is kept from job to job, so that a model is read once for many. Torch-free until one is asked for."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core.errors import Stopped, UserError
from lora_core.families.source import BUILT_IN, files_of
from lora_core.settings import AnyModel, TrainSettings

if TYPE_CHECKING:
    import torch

    from lora_core.generate.studio import Studio

Stamp = tuple[tuple[str, int, int], ...]
"""Path, size in bytes and time of change (ns) of every file that a model is read from."""


class Shelf:
    """Lends the studio of a model. It stays in memory until another model is asked for, or it is dropped.

    A process that does one job has one, too: it lends once.
    """

    def __init__(self, on_change: Callable[[str | None], object] = lambda name: None):
        """``on_change`` is told the name of the model that is in memory from now on, or None."""
        self._on_change = on_change
        self.stops: Callable[[], bool] = lambda: False
        """Whether the person wants the job that borrows to stop; asked after every step of a picture."""
        self.is_broken = False
        """Whether the process should not be drawn with any more: a card that failed once fails at everything."""
        self._kept: Studio | None = None
        self._key: tuple[str, str, str, Stamp] | None = None

    @contextmanager
    def studio(
        self, model: AnyModel, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Iterator[Studio]:
        """The base model, without any LoRA, and so it is left. The one kept before is freed before another is read.

        Whoever fails with the model in hand, out of memory for one, leaves it in a state that nobody knows: it is
        dropped. Who is stopped leaves it as it was. Raises UserError for files that can't be read.
        """
        from lora_core.generate.studio import Studio, drawing_dtype
        from lora_core.train.device import choose_device

        device = device or choose_device(TrainSettings())
        dtype = dtype or drawing_dtype(model, device)
        key = (model.model_dump_json(exclude={"allow_download"}), str(device), str(dtype), stamp(model))
        if self._kept is None or key != self._key:
            self.drop()
            self._kept, self._key = Studio(model, device, dtype), key
            self._on_change(BUILT_IN if model.base.strip() == BUILT_IN else self._kept.components.source.name)
        self._kept.stops = self.stops
        try:
            yield self._kept
            self._kept.rest()
        except (GeneratorExit, Stopped):
            self._kept.rest()
            raise
        except BaseException as error:
            self.is_broken = not isinstance(error, UserError)
            self.drop()
            raise

    def drop(self) -> None:
        """Give the model's memory back."""
        if self._kept is not None:
            self._kept, self._key = None, None
            self._on_change(None)
        free_memory()


def stamp(model: AnyModel) -> Stamp:
    """What changes when a file of the model does. Files that can't be looked at are left to the one who reads them."""
    return tuple(one for path in files_of(model).values() for one in _stamps(path))


def _stamps(path: Path) -> Iterator[tuple[str, int, int]]:
    for part in sorted(path.rglob("*")) if path.is_dir() else [path]:
        try:
            found = part.stat()
        except OSError:
            continue
        if not part.is_dir():
            yield str(part), found.st_size, found.st_mtime_ns


def free_memory() -> None:
    """Give back what nobody uses any more: networks in reference cycles, and what torch holds in reserve for later."""
    gc.collect()
    torch = sys.modules.get("torch")
    for backend in ("cuda", "xpu", "mps") if torch else ():
        module = getattr(torch, backend, None)
        if module is not None and module.is_available():
            module.empty_cache()
