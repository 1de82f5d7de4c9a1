"""The one folder that the page may read files from: small copies of samples, and links to files to download.

Nothing else on the disk is served. The folder is a cache: it can be deleted at any time.
"""

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from PIL import Image, UnidentifiedImageError

from lora_core.runs import home

THUMBNAIL_SIDE = 256
FULL_SIDE = 1536
COPY_LIMIT = 512 * 2**20


def shared_folder() -> Path:
    return home() / "cache" / "page"


def url(path: Path) -> str:
    """The address of a shared file, relative to the page."""
    return "gradio_api/file=" + quote(path.resolve().as_posix())


def thumbnail(picture: Path) -> tuple[str, str] | None:
    """Addresses of a small and a large copy of a picture; None when it can't be read (yet)."""
    try:
        stat = picture.stat()
        name = _name_for(picture, stat.st_size, stat.st_mtime_ns)
        small, large = (shared_folder() / "pictures" / f"{name}-{size}.webp" for size in ("small", "large"))
        if not (small.exists() and large.exists()):
            with Image.open(picture) as image:
                image.load()
                _save_copy(image, large, FULL_SIDE)
                _save_copy(image, small, THUMBNAIL_SIDE)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    return url(small), url(large)


def download(file: Path) -> str | None:
    """The address under which a file can be downloaded; None when it is gone or can't be offered.

    A hard link costs nothing; where the disks differ, a symbolic link, and where that is not allowed, a copy.
    """
    try:
        stat = file.stat()
    except OSError:
        return None
    target = shared_folder() / "files" / _name_for(file, stat.st_size, stat.st_mtime_ns) / file.name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        for offer in (os.link, os.symlink, _copy_if_small):
            with suppress(OSError, NotImplementedError):
                offer(file.resolve(), target)
                break
        else:
            return None
    return "gradio_api/file=" + quote(target.absolute().as_posix())


def _copy_if_small(source: Path, target: Path) -> None:
    if source.stat().st_size > COPY_LIMIT:
        raise OSError(f"{source}: too large to copy")
    shutil.copyfile(source, target)


def _name_for(path: Path, size: int, changed: int) -> str:
    return hashlib.sha256(f"{path.resolve()}|{size}|{changed}".encode()).hexdigest()[:32]


def _save_copy(image: Image.Image, path: Path, side: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    copy = image.convert("RGB")
    copy.thumbnail((side, side))
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    copy.save(temporary, "WEBP", quality=90, lossless=max(copy.size) <= THUMBNAIL_SIDE)
    temporary.replace(path)
