"""Encoded captions on disk, for the next run too. What they depend on is their key, so they cannot be stale.

The text encoders themselves are part of the key by what is in their files, so that a run that finds all its captions
never loads them.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lora_core.data.kept import read_kept, write_kept
from lora_core.data.latents import CACHE_FOLDER
from lora_core.families.base import Conditioning
from lora_core.families.encoded import Key

FORMAT = 1
"""Part of every key: raise it when the way from text to conditioning changes."""
_BLOCKS, _BLOCK = 64, 1 << 16


class TextsOnDisk:
    """One file per text in ``folder``: the SHA-256 of what follows (32 bytes), then the tensors as safetensors."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]):
        """``facts`` are all that the encoding of a text depends on beside the text, as JSON values."""
        self.folder = folder
        self._facts = json.dumps(dict(facts), sort_keys=True)

    def path(self, key: Key) -> Path:
        name = hashlib.sha256(json.dumps([FORMAT, self._facts, *key]).encode()).hexdigest()
        return self.folder / f"{name}.text"

    def read(self, key: Key) -> Conditioning | None:
        tensors = read_kept(self.path(key))
        return None if tensors is None else Conditioning(tensors)

    def write(self, key: Key, conditioning: Conditioning) -> None:
        """Whole or not at all. Raises UserError if the folder cannot be written."""
        write_kept(self.path(key), conditioning.tensors, "data.texts_unwritable")


def text_folder(cache_dir: Path | None, train_dir: Path | None) -> Path:
    """Where a run keeps encoded texts: in the cache folder, else in one beside the folders of pictures."""
    return cache_dir or (train_dir or Path()) / CACHE_FOLDER


def files_identity(paths: Iterable[Path]) -> str:
    """A hash of files and folders by what is in them, wherever they lie.

    64 blocks of each file, evenly spread, and its length: whoever trains or merges a model changes all its weights,
    and reading ten gigabytes to save loading them would be no saving.
    """
    digest = hashlib.sha256()
    for path in paths:
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and _is_of_a_model(p))
        for file in files:
            digest.update(_sampled(file))
    return digest.hexdigest()


def _is_of_a_model(path: Path) -> bool:
    return path.suffix.lower() in (".safetensors", ".bin", ".ckpt", ".json", ".txt", ".model")


def _sampled(path: Path) -> bytes:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(_BLOCKS):
            file.seek(number * max(0, size - _BLOCK) // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
            if size <= _BLOCK:
                break
    return digest.digest()
