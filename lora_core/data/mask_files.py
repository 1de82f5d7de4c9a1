"""Masks for the loss: which part of a picture is trained, from its own transparency or from a second picture.

White (255) is trained, black is not. Torch-free.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal

from PIL import Image

from lora_core.data.folders import Scan, Subset
from lora_core.data.images import has_transparency, image_size, open_alpha, open_mask
from lora_core.data.listing import list_folder
from lora_core.errors import Problem, UserError
from lora_core.settings import RunSettings

MaskSource = Literal["alpha", "folder"]
ASPECT_TOLERANCE = 0.02
"""A mask whose width / height differs by more (relatively) is not of this picture."""


class MaskFiles:
    """The mask of each picture of a scan."""

    def __init__(self, source: MaskSource, masks: Mapping[Path, Path] | None = None):
        self.source = source
        self.masks = masks or {}
        """Picture -> mask, for masks from a folder."""

    @classmethod
    def of(cls, settings: RunSettings, scan: Scan) -> "MaskFiles | None":
        """What the settings ask for; None when masks are off. Raises UserError for a folder that can't be read."""
        source = settings.loss.masked_loss
        if source == "off":
            return None
        return cls(source, find_masks(settings.dataset.mask_dir, scan) if source == "folder" else None)

    def file(self, image: Path) -> Path | None:
        """The file that holds a picture's mask; None: all of the picture is trained."""
        return image if self.source == "alpha" else self.masks.get(image)

    def open(self, image: Path) -> Image.Image | None:
        """The mask, mode L and upright, in a size of its own; None: all of the picture is trained.

        Raises UserError naming the file if it cannot be read.
        """
        file = self.file(image)
        if file is None:
            return None
        return open_alpha(file) if self.source == "alpha" else open_mask(file)


def find_masks(folder: Path | None, scan: Scan) -> dict[Path, Path]:
    """Picture -> the picture of the same name in ``folder``, or in a folder there with the name of the picture's own.

    Regularisation pictures only have masks of the second kind: their names are often those of training pictures.
    """
    found: dict[Path, Path] = {}
    for place in {subset.options.mask_dir or folder: None for subset in scan.subsets}:
        if place is not None:
            listing = list_folder(place.absolute())
            flat = _by_stem(listing.images)
            below = {child.name: _by_stem(list_folder(child).images) for child in listing.folders}
            own = [subset for subset in scan.subsets if (subset.options.mask_dir or folder) == place]
            found |= {image: mask for subset in own for image, mask in _of_subset(subset, flat, below)}
    return found


def _of_subset(
    subset: Subset, flat: Mapping[str, Path], below: Mapping[str, Mapping[str, Path]]
) -> Iterator[tuple[Path, Path]]:
    own = below.get(subset.name, {})
    for image in subset.images:
        mask = own.get(image.path.stem) or (None if subset.is_reg else flat.get(image.path.stem))
        if mask is not None:
            yield image.path, mask


def _by_stem(paths: tuple[Path, ...]) -> dict[str, Path]:
    return {path.stem: path for path in paths}


# ---- what is wrong with them -----------------------------------------------------------------------------------------


def mask_problems(settings: RunSettings, scan: Scan) -> Iterator[Problem]:
    """What keeps masks from doing what was meant, from names and headers alone."""
    images = [image.path for subset in scan.train for image in subset.images]
    if settings.loss.masked_loss == "alpha":
        yield from _alpha_problems(images)
    elif settings.loss.masked_loss == "folder":
        yield from _folder_problems(settings, scan, images)


def _alpha_problems(images: list[Path]) -> Iterator[Problem]:
    try:
        opaque = sum(not _is_transparent(image, image.stat().st_mtime_ns) for image in images)
    except (OSError, UserError):
        return  # said of the picture itself
    if images and opaque == len(images):
        fix = {"loss.masked_loss": "off"}
        yield Problem("loss.masked_loss", "data.no_transparency", {"count": opaque}, "error", fix)
    elif opaque:
        values = {"count": opaque, "images": len(images)}
        yield Problem("loss.masked_loss", "data.some_opaque", values, "warning")


@lru_cache(maxsize=50_000)
def _is_transparent(path: Path, _modified_ns: int) -> bool:
    return has_transparency(path)


def _folder_problems(settings: RunSettings, scan: Scan, images: list[Path]) -> Iterator[Problem]:
    folders = [settings.dataset.mask_dir, *(subset.options.mask_dir for subset in scan.subsets)]
    folder = next((place for place in folders if place is not None), None)
    if folder is None:
        yield Problem("dataset.mask_dir", "data.no_mask_folder", {}, "error", {"loss.masked_loss": "off"})
        return
    try:
        masks = find_masks(settings.dataset.mask_dir, scan)
        wrong = [image for image, mask in masks.items() if _other_shape(image, mask)]
    except UserError as error:
        yield Problem.of("dataset.mask_dir", error)
        return
    without = [image for image in images if image not in masks]
    if images and len(without) == len(images):
        yield Problem("dataset.mask_dir", "data.no_masks", {"path": folder, "example": images[0].stem})
    elif without:
        values = {"path": folder, "count": len(without), "images": len(images), "example": without[0].name}
        yield Problem("dataset.mask_dir", "data.masks_missing", values, "warning")
    if wrong:
        values = {"path": masks[wrong[0]], "image": wrong[0].name, "count": len(wrong)}
        yield Problem("dataset.mask_dir", "data.mask_shape", values, "warning")


def _other_shape(image: Path, mask: Path) -> bool:
    (width, height), (mask_width, mask_height) = image_size(image), image_size(mask)
    return abs(mask_width * height / (mask_height * width) - 1) > ASPECT_TOLERANCE
