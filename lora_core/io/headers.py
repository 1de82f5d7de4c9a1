"""What is this file? Names, shapes and metadata of the tensors in a model file, without torch and without running code.

The content decides, not the ending of the name: many a .safetensors is a web page or a renamed .ckpt.
"""

import json
import struct
from os.path import isdir  # False, not an error, for a name the system cannot hold
from pathlib import Path

from lora_core.errors import UserError
from lora_core.io.folders import identify_folder
from lora_core.io.kinds import FileKind, classify
from lora_core.io.pickles import read_pickle_header
from lora_core.io.tensors import ITEM_SIZES, Header, TensorInfo

__all__ = ["FileKind", "Header", "TensorInfo", "identify", "read_header"]

_LENGTH = 8
_LARGEST_HEADER = 100_000_000
"""Limit of the safetensors format itself, in bytes."""
_MOST_SIDES = 32
"""No tensor has more; the product of a million huge numbers would take hours."""


def identify(path: Path) -> FileKind:
    """What a model file or diffusers folder is, from its header alone.

    Raises UserError for what is missing, broken, or no model at all.
    """
    if isdir(path):
        return identify_folder(path, read_header)
    return classify(path, read_header(path))


def read_header(path: Path) -> Header:
    """Header of a .safetensors or .ckpt file, judged by its first bytes.

    Raises UserError for a file that is missing, empty, cut short, damaged, or something else altogether.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except FileNotFoundError:
        raise UserError("model.missing", path=path) from None
    except (OSError, ValueError) as error:  # no permission, a name the system cannot hold
        if isdir(path):
            raise UserError("model.is_folder", path=path) from None
        raise UserError("model.cannot_read", path=path, reason=getattr(error, "strerror", None) or error) from error
    _refuse_non_models(path, start)
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")) and not _may_be_safetensors(start):
        return read_pickle_header(path)
    return _read_safetensors(path)


def _may_be_safetensors(start: bytes) -> bool:
    """Whether a length and JSON stand there. A length of 640 bytes looks like the beginning of a pickle."""
    return start[_LENGTH : _LENGTH + 1] == b"{" and int.from_bytes(start[:_LENGTH], "little") <= _LARGEST_HEADER


def _refuse_non_models(path: Path, start: bytes) -> None:
    if not start:
        raise UserError("model.empty", path=path)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        raise UserError("model.is_web_page", path=path)
    if text.startswith(b"version https://git-lfs"):
        raise UserError("model.is_lfs_pointer", path=path)
    if start.startswith(b"GGUF"):
        raise UserError("model.is_gguf", path=path)


def _read_safetensors(path: Path) -> Header:
    size = path.stat().st_size
    with path.open("rb") as file:
        length_bytes = file.read(_LENGTH)
        if len(length_bytes) < _LENGTH:
            raise UserError("model.no_model", path=path)
        (length,) = struct.unpack("<Q", length_bytes)
        raw = file.read(min(length, _LARGEST_HEADER, size))
    if length > _LARGEST_HEADER or not raw.startswith(b"{"):
        raise UserError("model.no_model", path=path)
    if len(raw) < length:
        raise UserError("model.truncated", path=path, missing=_readable(length - len(raw)))
    header = _parsed(path, raw, _LENGTH + length)
    end = max((end for _, end in header.spans.values()), default=_LENGTH + length)
    if end > size:
        raise UserError("model.truncated", path=path, missing=_readable(end - size))
    if end < size or not _in_a_row(header, _LENGTH + length):
        raise UserError("model.damaged", path=path)
    return header


def _parsed(path: Path, raw: bytes, data_start: int) -> Header:
    """The JSON of a header. Raises UserError for whatever the format does not allow."""
    try:
        table = json.loads(raw.decode(), object_pairs_hook=_without_repeats)
        metadata = table.pop("__metadata__", None) or {}
        "".join(table).encode()  # a name that is no text would fail wherever it is shown
        tensors = {name: _info(row) for name, row in table.items()}
        spans = {name: _span(row["data_offsets"], data_start) for name, row in table.items()}
        return Header(tensors, {_text(k): _text(v) for k, v in metadata.items()}, spans=spans)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError("model.damaged", path=path) from error


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands twice")
    return table


def _info(row: dict) -> TensorInfo:
    if not isinstance(row["dtype"], str) or not isinstance(row["shape"], list) or len(row["shape"]) > _MOST_SIDES:
        raise TypeError("no tensor")
    return TensorInfo(row["dtype"], tuple(_count(side) for side in row["shape"]))


def _count(value: object) -> int:
    if type(value) is not int or value < 0:  # True is an int too
        raise ValueError("no count")
    return value


def _span(offsets: list, data_start: int) -> tuple[int, int]:
    start, end = map(_count, offsets)
    return data_start + start, data_start + end


def _text(value: object) -> str:
    """A text that can be written in UTF-8: JSON allows halves of surrogate pairs."""
    return str(value).encode(errors="replace").decode()


def _in_a_row(header: Header, start: int) -> bool:
    """Whether the tensors lie one behind the other, each as long as its format and shape say."""
    for name, (first, end) in sorted(header.spans.items(), key=lambda item: item[1]):
        info = header.tensors[name]
        size = ITEM_SIZES.get(info.dtype)
        if first != start or end < first or (size and end - first != info.elements * size):
            return False
        start = end
    return True


def _readable(count: int) -> str:
    """1234567 bytes as "1.2 MB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
