"""What lies in a folder: images, folders, captions, in an order that is the same on every system."""

import os
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lora_core.errors import UserError

IMAGE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif"})
UNREAD_PICTURE_ENDINGS = frozenset(
    {".gif", ".tif", ".tiff", ".heic", ".heif", ".jxl", ".jfif", ".jp2", ".psd", ".svg", ".tga", ".ico", ".dng"}
)
"""Pictures that are not read: said, so that nobody wonders where they went."""
CAPTION_ENDINGS = (".txt", ".caption")


@dataclass(frozen=True)
class ImageFile:
    """An image and the file beside it that holds its caption, if there is one."""

    path: Path
    caption_path: Path | None = None
    caption: str | None = None
    """Its caption where a list of captions gives it; may have several lines."""

    @property
    def has_caption(self) -> bool:
        return self.caption is not None or self.caption_path is not None


@dataclass(frozen=True)
class Listing:
    """The visible contents of one folder, each kind sorted by name."""

    folder: Path
    folders: tuple[Path, ...]
    images: tuple[Path, ...]
    unread_pictures: tuple[Path, ...]
    captions: Mapping[tuple[str, str], Path]
    """Caption files by (stem, lower-case ending)."""


def list_folder(folder: Path) -> Listing:
    """List a folder, leaving out hidden entries (``.kumakobo``, ``._bear.png``). Endings may be in any case.

    Raises UserError if the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            found = [(Path(entry.path), entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError("data.folder_unreadable", path=folder, reason=error.strerror or error) from error
    found.sort(key=lambda entry: name_order(entry[0]))
    files = [path for path, is_dir in found if not is_dir]
    return Listing(
        folder=folder,
        folders=tuple(path for path, is_dir in found if is_dir),
        images=_ending_with(files, IMAGE_ENDINGS),
        unread_pictures=_ending_with(files, UNREAD_PICTURE_ENDINGS),
        captions={(path.stem, path.suffix.lower()): path for path in _ending_with(files, CAPTION_ENDINGS)},
    )


def has_images(folder: Path) -> bool:
    """True if there is an image directly inside; a folder that cannot be read has none."""
    try:
        return bool(list_folder(folder).images)
    except UserError:
        return False


def name_order(path: Path) -> tuple[str, str]:
    """Sorts names alike on systems that write "が" as one character and on those that write it as two."""
    return unicodedata.normalize("NFC", path.name), path.name


def caption_beside(image: Path, listing: Listing, ending: str) -> Path | None:
    """The caption file of an image, e.g. ``bear.txt`` of ``bear.png``.

    Falls back to the name without its last four ``_`` parts: face-cropping tools append those to the image only.
    """
    parts = image.stem.split("_")
    stems = [image.stem, "_".join(parts[:-4])] if len(parts) >= 5 else [image.stem]
    return next((listing.captions[stem, ending] for stem in stems if (stem, ending) in listing.captions), None)


def _ending_with(files: Iterable[Path], endings: Iterable[str]) -> tuple[Path, ...]:
    endings = frozenset(endings)
    return tuple(path for path in files if path.suffix.lower() in endings)
