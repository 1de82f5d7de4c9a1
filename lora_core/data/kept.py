"""Tensors kept on disk for the next run: whole or not at all, and never trusted without their checksum.

A file is the SHA-256 of what follows (32 bytes), then the tensors as safetensors.
"""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import safetensors
import safetensors.torch
from torch import Tensor

from lora_core.errors import UserError


def read_kept(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a file; None for one that is not there or not whole."""
    try:
        data = path.read_bytes()
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            return None
        return safetensors.torch.load(data[32:])
    except (OSError, safetensors.SafetensorError, ValueError):
        return None


def write_kept(path: Path, tensors: Mapping[str, Tensor], error_key: str) -> None:
    """Raises UserError of that key (path, reason) if the folder cannot be written."""
    data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(hashlib.sha256(data).digest() + data)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(error_key, path=path.parent, reason=error.strerror or error) from error
