"""Open any image as the upright sRGB picture a person sees, or say which file cannot be opened and why."""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from lora_core.errors import UserError

# What Pillow's readers raise for broken files: most only say OSError, some fall over the data.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    RuntimeError,
    EOFError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
)

# EXIF orientation -> the turn that sets the picture upright (EXIF 2.32, tag 0x0112).
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112

# Formats that are opened, whatever the file's name: Pillow knows many more, some of which start other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "AVIF", "GIF")

# Beginnings of files that are pictures and often bear a wrong name; offset 4 for the ISO media ones.
_FOREIGN = {b"ftyphei": "HEIC", b"ftyphev": "HEIC", b"ftypmif": "HEIC", b"ftypmsf": "HEIC", b"JXL ": "JPEG XL"}
_FOREIGN_OFFSET = 4

# (kind of image, colour space of its profile) -> the mode in which the profile reads it. Other pairs are mistakes.
_PROFILE_MODES = {("RGB", "RGB"): "RGB", ("L", "RGB"): "RGB", ("L", "GRAY"): "L", ("CMYK", "CMYK"): "CMYK"}


def open_image(path: Path) -> Image.Image:
    """The picture as seen: mode RGB, upright, in sRGB, transparency on white, the first frame of animations.

    Raises UserError naming the file if it is missing, no image, truncated, corrupt or too large to be safe.
    """
    with _speaking_of(path), Image.open(path, formats=_FORMATS) as image:
        turn = _TURNS.get(_orientation(image))
        image.load()
        picture = on_white(to_srgb(image))
    return picture if turn is None else picture.transpose(turn)


def open_alpha(path: Path) -> Image.Image:
    """The transparency of the picture that open_image gives, mode L: 255 where it is opaque, as all of it is if it has
    none. Raises UserError as open_image does.
    """
    with _opened(path) as image:
        if not image.has_transparency_data:
            return _upright(Image.new("L", image.size, 255), image)
        return _upright(_eight_bit(image).convert("RGBA").getchannel("A"), image)


def open_mask(path: Path) -> Image.Image:
    """A mask picture as mode L: its red, upright, transparency as black. Raises UserError as open_image does."""
    with _opened(path) as image:
        picture = _eight_bit(image).convert("RGBA")
        black = Image.new("RGBA", image.size, "black")
        return _upright(Image.alpha_composite(black, picture).getchannel("R"), image)


def has_transparency(path: Path) -> bool:
    """Whether the picture has an alpha channel or a transparent colour, from the file's header alone."""
    with _speaking_of(path), Image.open(path, formats=_FORMATS) as image:
        return image.has_transparency_data


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with _speaking_of(path), Image.open(path, formats=_FORMATS) as image:
        image.load()
        yield image


def _upright(picture: Image.Image, source: Image.Image) -> Image.Image:
    turn = _TURNS.get(_orientation(source))
    return picture if turn is None else picture.transpose(turn)


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of the upright picture, from the file's header alone. Raises UserError as open_image does."""
    with _speaking_of(path):
        stat = path.stat()
        return _size(path, stat.st_mtime_ns, stat.st_size)


def check_image(path: Path) -> None:
    """Read the whole file as open_image would, but as fast as can be. Raises the same UserError."""
    with _speaking_of(path), Image.open(path, formats=_FORMATS) as image:
        # A JPEG decoded at an eighth of its size has still been read to its last byte.
        image.draft("RGB", (1, 1))
        image.load()


def to_srgb(image: Image.Image) -> Image.Image:
    """Convert from the embedded colour profile to sRGB; RGB, or RGBA if there is transparency.

    Without a profile, or with a broken one, the colours are taken for sRGB.
    """
    image = _eight_bit(image)
    profile = image.info.get("icc_profile")
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    picture = (_apply_profile(image, profile) if profile else None) or image.convert("RGB")
    if alpha is not None:
        picture.putalpha(alpha)
    return picture


def on_white(image: Image.Image) -> Image.Image:
    """Lay transparency on white: what most viewers show, and what the captions describe."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey: 65535 is 255. (Pillow reads 16-bit colour as 8-bit by itself.)"""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    grey = Image.fromarray(((values.clip(0, 65535) + 128) // 257).astype(np.uint8))
    grey.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return grey


def _apply_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The image's colours taken from its profile to sRGB; None if that is sRGB, broken or not for such images."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if (source.profile.profile_description or "").startswith("sRGB"):
            return None
        mode = _PROFILE_MODES[_kind(image), source.profile.xcolor_space.strip()]
        target = ImageCms.createProfile("sRGB")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        return ImageCms.profileToProfile(image.convert(mode), source, target, intent, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, KeyError, ValueError, TypeError):
        return None


def _kind(image: Image.Image) -> str:
    return {"CMYK": "CMYK", "1": "L", "L": "L", "LA": "L"}.get(image.mode, "RGB")


def _orientation(image: Image.Image) -> int:
    # The base class's method: PNG's own would decode the whole image to look for late EXIF data.
    try:
        return Image.Image.getexif(image).get(_ORIENTATION, 1)
    except _BROKEN:
        return 1


@lru_cache(maxsize=50_000)
def _size(path: Path, _modified_ns: int, _bytes: int) -> tuple[int, int]:
    with Image.open(path, formats=_FORMATS) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def _unidentified(path: Path) -> UserError:
    """Which sentence fits a file that is none of the formats read."""
    with path.open("rb") as file:
        head = file.read(_FOREIGN_OFFSET + 8)
    if not head:
        return UserError("data.image_empty", path=path)
    for mark, name in _FOREIGN.items():
        if head[_FOREIGN_OFFSET:].startswith(mark):
            return UserError("data.image_format", path=path, format=name)
    return UserError("data.not_an_image", path=path)


@contextmanager
def _speaking_of(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file into a sentence with its name."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError("data.image_missing", path=path) from error
    except (PermissionError, IsADirectoryError) as error:
        raise UserError("data.image_unreadable", path=path, reason=error.strerror) from error
    except Image.DecompressionBombError as error:
        raise UserError("data.image_too_large", path=path) from error
    except UnidentifiedImageError as error:
        raise _unidentified(path) from error
    except _BROKEN as error:
        key = "data.image_truncated" if "truncated" in str(error).lower() else "data.image_broken"
        raise UserError(key, path=path, reason=error) from error
