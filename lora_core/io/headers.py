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
from lora_core.io.tensors import Header, TensorInfo

__all__ = ["FileKind", "Header", "TensorInfo", "identify", "read_header"]

_LENGTH = 8
_LARGEST_HEADER = 100_000_000
"""Limit of the safetensors format itself, in bytes."""


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
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")):
        return read_pickle_header(path)
    return _read_safetensors(path)


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
    try:
        table = json.loads(raw)
        metadata = table.pop("__metadata__", {})
        tensors = {name: TensorInfo(row["dtype"], tuple(row["shape"])) for name, row in table.items()}
        end = max((row["data_offsets"][1] for row in table.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError("model.damaged", path=path) from error
    missing = _LENGTH + length + end - size
    if missing > 0:
        raise UserError("model.truncated", path=path, missing=_readable(missing))
    if missing < 0:
        raise UserError("model.damaged", path=path)
    return Header(tensors, {str(k): str(v) for k, v in (metadata or {}).items()})


def _readable(count: int) -> str:
    """1234567 bytes as "1.2 MB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
