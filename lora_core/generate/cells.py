"""Pictures kept by what they were drawn from, so that none is drawn twice. Torch-free.

The name of a file is a hash of everything that decides about its pixels: the model's content, the LoRAs' content and
strengths, the prompt, the sampler and its numbers. Whatever else changes (file names of the model, other rows of the
grid) finds the same picture again.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from lora_core.families.source import files_of
from lora_core.generate.picture import Picture, save_png
from lora_core.generate.request import Shot
from lora_core.io.hashes import model_hash
from lora_core.settings import AnyModel

DRAWN_AS = 1
"""Raised when the same settings begin to give other pixels."""
_LARGE = 1 << 20
_PARTS = (".safetensors", ".bin", ".json", ".txt", ".model")


class Cells:
    """The pictures of one model on one kind of device."""

    def __init__(self, folder: Path, model: AnyModel, arithmetic: str):
        """``arithmetic``: device and number format, which decide about the last bits."""
        self.folder = folder
        self._hashes: dict[Path, str] = {}
        self._model = {"drawn_as": DRAWN_AS, "arithmetic": arithmetic, **identity(model)}

    def path(self, shot: Shot) -> Path:
        """Where the picture is, or will be."""
        loras = [asdict(lora) | {"path": self._hash(lora.path)} for lora in shot.loras]
        facts = self._model | asdict(shot) | {"loras": loras}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.png"

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = model_hash(path)
        return self._hashes[path]

    def has(self, shot: Shot) -> bool:
        return is_whole(self.path(shot))

    def keep(self, shot: Shot, picture: Picture) -> Path:
        return save_png(picture, self.path(shot))


def is_whole(path: Path) -> bool:
    """Whether a picture can be read to its end; one that was damaged is drawn again."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):  # Pillow calls a damaged PNG a syntax error
        return False
    return True


def identity(model: AnyModel) -> dict[str, Any]:
    """What tells a model from others: its settings, with the content of files in place of their paths."""
    told = model.model_dump(mode="json", exclude={"allow_download"})
    return told | {name: content_hash(path) for name, path in files_of(model).items()}


def content_hash(path: Path) -> str:
    """sha256 of a file, or of all that decides in a folder; that of large files is remembered until they change."""
    if path.is_file():
        return model_hash(path) if path.stat().st_size > _LARGE else hashlib.sha256(path.read_bytes()).hexdigest()
    whole = hashlib.sha256()
    for part in sorted(p for p in path.rglob("*") if p.suffix in _PARTS and p.is_file()):
        whole.update(f"{part.relative_to(path).as_posix()} {content_hash(part)}\n".encode())
    return whole.hexdigest()
