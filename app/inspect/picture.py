"""The picture of a LoRA: a file beside it or inside its metadata, shown only when it is small enough to be drawn."""

from base64 import b64decode
from io import BytesIO

from PIL import Image

from app.i18n import say
from app.inspect.html import tag
from app.shared_files import thumbnail
from lora_core.i18n import Language
from lora_core.inspect.report import Thumbnail

LARGEST_SIDE = 4096
"""Pixels of a picture in the metadata that is shown."""


def picture_html(picture: Thumbnail | None, language: Language) -> str:
    address = picture_address(picture)
    return tag("img", "", "in-picture", src=address, alt=say("inspector.picture", language)) if address else ""


def picture_address(picture: Thumbnail | None) -> str:
    """Of the small copy of a file beside the LoRA, else the picture inside it (checked by the report to be one)."""
    if picture is None:
        return ""
    if picture.path is not None:
        found = thumbnail(picture.path)
        return found[1] if found else ""
    return picture.data_url if is_small(picture.data_url) else ""


def is_small(data_url: str) -> bool:
    """Whether a picture has a size that every browser can draw: a few bytes may unfold to gigabytes."""
    try:
        with Image.open(BytesIO(b64decode(data_url.partition(",")[2]))) as picture:
            return max(picture.size) <= LARGEST_SIDE
    except (OSError, ValueError, Image.DecompressionBombError):
        return False
