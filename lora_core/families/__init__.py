"""Model families: everything the trainer needs to know of each.

Importing this package loads no torch; taking a family out of ``FAMILIES`` does.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_core.families.base import ModelFamily


class _Families(Mapping[str, "ModelFamily"]):
    """A table whose rows are modules until they are asked for."""

    def __init__(self, rows: dict[str, tuple[str, str]]):
        self._rows = rows

    def __getitem__(self, name: str) -> "ModelFamily":
        module, cls = self._rows[name]
        return getattr(import_module(module), cls)()

    def __contains__(self, name: object) -> bool:
        """Without the family itself, which brings torch along: the page asks this."""
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


FAMILIES: Mapping[str, "ModelFamily"] = _Families(
    {
        "sd1": ("lora_core.families.sd", "StableDiffusion1"),
        "sd2": ("lora_core.families.sd2", "StableDiffusion2"),
        "sdxl": ("lora_core.families.sdxl", "StableDiffusionXl"),
        "flux": ("lora_core.families.flux", "Flux1"),
    }
)
