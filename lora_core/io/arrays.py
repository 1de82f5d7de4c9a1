"""Tensors of .safetensors files as numpy arrays, without torch: read one by one from a mapped file, written in a row.

Everything that works on LoRA files goes through here. Loading torch takes longer than merging two LoRAs.
"""

import contextlib
import hashlib
import json
import mmap
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_core.errors import UserError
from lora_core.io.formats import FLOATS, PRECISIONS, Array, Precision, decode, encode, overflows
from lora_core.io.hashes import LEGACY_LENGTH, LEGACY_START
from lora_core.io.headers import read_header
from lora_core.io.tensors import ITEM_SIZES, TensorInfo
from lora_core.io.writing import replacing, write_error

__all__ = [
    "FLOATS",
    "ITEM_SIZES",
    "PRECISIONS",
    "Array",
    "ArrayFile",
    "Chunks",
    "Precision",
    "byte_size",
    "decode",
    "encode",
    "hashes_of",
    "open_arrays",
    "overflows",
    "read_arrays",
    "same_file",
    "save_arrays",
    "write_stream",
    "writing",
]


def byte_size(info: TensorInfo) -> int:
    """Bytes that a tensor takes."""
    return info.elements * ITEM_SIZES[info.dtype]


# ---- reading ---------------------------------------------------------------------------------------------------------


@dataclass
class ArrayFile:
    """An open .safetensors file. Nothing is read before it is asked for."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    _spans: Mapping[str, tuple[int, int]]
    _data: Array | None

    def raw(self, name: str) -> Array:
        """The bytes of a tensor as they stand in the file (uint8, read-only), not copied.

        They keep the file mapped for as long as they are held, even after it was closed.
        """
        assert self._data is not None, f"{self.path} is closed"
        start, end = self._spans[name]
        return self._data[start:end]

    def read(self, name: str) -> Array:
        """The numbers of a tensor as a copy; float32 (float64 for F64) whatever the file has."""
        info = self.tensors[name]
        return decode(self.raw(name).copy(), info.dtype, info.shape)

    def read_rows(self, name: str, start: int, stop: int) -> Array:
        """Rows ``start`` to ``stop`` (of the first side) of a tensor, as ``read``."""
        info = self.tensors[name]
        row = (self._spans[name][1] - self._spans[name][0]) // max(info.shape[0], 1)
        return decode(self.raw(name)[start * row : stop * row].copy(), info.dtype, (stop - start, *info.shape[1:]))


@contextmanager
def open_arrays(path: Path) -> Iterator[ArrayFile]:
    """Opens a .safetensors file. Raises UserError for a broken one, a pickle, and number formats not known."""
    header = read_header(path)
    if header.container != "safetensors":
        raise UserError("model.not_safetensors", path=path)
    for name, info in header.tensors.items():
        if info.dtype not in ITEM_SIZES:
            raise UserError("tensor.unknown_format", path=path, tensor=name, dtype=info.dtype)
    opened = ArrayFile(path, header.tensors, header.metadata, header.spans, _mapped(path))
    try:
        yield opened
    finally:
        opened._data = None


def _mapped(path: Path) -> Array:
    """The bytes of a file, which the system reads where they are looked at. Unmapped when nobody holds them."""
    try:
        with path.open("rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except (OSError, ValueError) as error:  # a network drive that went away; a file emptied just now
        raise UserError("model.cannot_read", path=path, reason=getattr(error, "strerror", None) or error) from error


def read_arrays(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """All tensors of a file, and its metadata."""
    with open_arrays(path) as file:
        return {name: file.read(name) for name in file.tensors}, dict(file.metadata)


# ---- writing ---------------------------------------------------------------------------------------------------------

Chunks = Iterable[Array]
"""The bytes of one tensor (uint8), in order, in pieces of any size."""


def save_arrays(tensors: Mapping[str, Array], metadata: Mapping[str, str], path: Path, precision: Precision) -> None:
    """Writes a LoRA, all numbers in one precision, with its sshs_* hashes, whole or not at all.

    Raises UserError for a number too large for the precision, and when the file cannot be written.
    """
    dtype = PRECISIONS[precision]
    for name, values in tensors.items():
        if overflows(values, dtype):
            raise UserError("tensor.overflow", path=path, tensor=name, precision=precision)
    encoded = {name: (dtype, values.shape, encode(values, dtype)) for name, values in tensors.items()}
    own = {key: value for key, value in metadata.items() if not key.startswith("sshs_")}
    write_stream(
        {name: TensorInfo(d, tuple(shape)) for name, (d, shape, _) in encoded.items()},
        lambda name: [encoded[name][2]],
        own | hashes_of(encoded, own),
        path,
    )


def hashes_of(encoded: Mapping[str, tuple[str, tuple[int, ...], Array]], metadata: Mapping[str, str]) -> dict[str, str]:
    """sshs_model_hash and sshs_legacy_hash of tensors given as (format, shape, bytes); see io.hashes."""
    infos = {name: TensorInfo(dtype, tuple(shape)) for name, (dtype, shape, _) in encoded.items()}
    header, order = _header(infos, {k: v for k, v in metadata.items() if k.startswith("ss_")})
    body, window = hashlib.sha256(), bytearray()
    position = len(header)
    wanted = (LEGACY_START, LEGACY_START + LEGACY_LENGTH)
    window += header[wanted[0] : wanted[1]]
    for name in order:
        raw = encoded[name][2]
        body.update(np.ascontiguousarray(raw).data)
        low, high = max(wanted[0] - position, 0), min(wanted[1] - position, raw.size)
        if low < high:
            window += raw[low:high].tobytes()
        position += raw.size
    return {
        "sshs_model_hash": body.hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(bytes(window)).hexdigest()[:8],
    }


def write_stream(
    tensors: Mapping[str, TensorInfo], chunks: Callable[[str], Chunks], metadata: Mapping[str, str], path: Path
) -> None:
    """Writes a .safetensors file of known names and shapes, asking for each tensor's bytes when its turn comes.

    Memory holds one piece at a time. Under a temporary name until it is whole; whoever reads ``path`` sees the old file
    or the new one. Raises UserError when it cannot be written.
    """
    for _ in writing(tensors, chunks, metadata, path):
        pass


def writing(
    tensors: Mapping[str, TensorInfo], chunks: Callable[[str], Chunks], metadata: Mapping[str, str], path: Path
) -> Iterator[int]:
    """``write_stream`` in steps: yields the number of bytes after each piece.

    When the steps are not taken to the end nothing is left behind.
    """
    header, order = _header(tensors, metadata or None)
    needed = len(header) + sum(map(byte_size, tensors.values()))
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(header)
            for name in order:
                expected = file.tell() + byte_size(tensors[name])
                for piece in chunks(name):
                    yield file.write(np.ascontiguousarray(piece).data)
                assert file.tell() == expected, f"{name}: not as long as its shape says"
    except OSError as error:
        raise write_error(error, path, needed) from error


def _header(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str] | None) -> tuple[bytes, list[str]]:
    """Length and JSON of a file, and the order of the tensors in it: as the safetensors library orders them.

    That is by size of one number, largest first (which aligns them), then by name. Metadata, which the library writes
    in any order, is sorted: the same file has the same bytes.
    """
    order = sorted(tensors, key=lambda name: (_FORMATS.index(tensors[name].dtype), name.encode()))
    table: dict[str, object] = {} if metadata is None else {"__metadata__": dict(sorted(metadata.items()))}
    position = 0
    for name in order:
        info = tensors[name]
        end = position + byte_size(info)
        table[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, order


_FORMATS = (
    *("U64", "I64", "F64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16"),
    *("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"),
)
"""In the library's order."""


def same_file(a: Path, b: Path) -> bool:
    """Whether two paths are one file on this disk."""
    with contextlib.suppress(OSError):
        return a.samefile(b)
    return False
