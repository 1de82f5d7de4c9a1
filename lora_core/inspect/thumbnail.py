"""The picture of a LoRA: in its metadata, or beside it as web UIs keep it."""

import base64
import binascii
import re
from pathlib import Path

from lora_core.inspect.report import Thumbnail

LARGEST = 8_000_000
"""Characters of a picture in the metadata that is shown."""
BESIDE = (".preview.png", ".preview.jpg", ".preview.jpeg", ".preview.webp", ".png", ".jpg", ".jpeg", ".webp")
"""Endings that AUTOMATIC1111, Forge and Civitai's helpers give the picture of name.safetensors."""
_STARTS = {"png": (b"\x89PNG\r\n\x1a\n",), "jpeg": (b"\xff\xd8\xff",), "jpg": (b"\xff\xd8\xff",), "webp": (b"RIFF",)}


def thumbnail(path: Path, metadata_value: str) -> Thumbnail | None:
    """The picture, that in the metadata first."""
    if url := checked_url(metadata_value):
        return Thumbnail(data_url=url)
    beside = (path.with_name(path.stem + ending) for ending in BESIDE)
    found = next((file for file in beside if _is_file(file)), None)
    return Thumbnail(path=found) if found else None


def checked_url(value: str) -> str:
    """A data: URL that holds a PNG, JPEG or WebP by its first bytes too, written anew; "" for anything else."""
    if len(value) > LARGEST:
        return ""
    found = re.fullmatch(r"data:image/(png|jpeg|jpg|webp);base64,([A-Za-z0-9+/\s]+={0,2})\s*", value)
    if not found:
        return ""
    try:
        data = base64.b64decode("".join(found[2].split()), validate=True)
    except (binascii.Error, ValueError):
        return ""
    kind = "jpeg" if found[1] == "jpg" else found[1]
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}" if data.startswith(_STARTS[kind]) else ""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
