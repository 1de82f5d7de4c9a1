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
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Of a .safetensors: first byte of each tensor in the file, and the byte after its last."""


ITEM_SIZES: Mapping[str, int] = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 1),
}
"""Bytes of one number in the formats that model files have."""
