"""What a header says of a file's tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Container = Literal["safetensors", "pickle", "folder"]


@dataclass(frozen=True)
class TensorInfo:
    """Number format as safetensors writes it (F16, BF16, F32, ...) and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        count = 1
        for side in self.shape:
            count *= side
        return count


@dataclass(frozen=True)
class Header:
    """The tensors of one file by name, and its metadata."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str] = field(default_factory=dict)
    container: Container = "safetensors"
