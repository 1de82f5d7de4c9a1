"""Fine-tuning datasets: one JSON file with the captions and tags of all images (``in_json`` of sd-scripts).

``{"bears/01": {"caption": "a bear", "tags": "hat, snow", "train_resolution": [512, 512]}}``: a key is the path of an
image, or its name in the image folder with or without ending. "caption": null says that an image is to have no caption,
while one that is empty or missing was forgotten. train_resolution is not read: the image's own size and
the dataset's resolution give the same bucket, and stay right when the resolution is changed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_core.data.captions import separator_of
from lora_core.data.listing import ImageFile, Listing, list_folder
from lora_core.data.subsets import Subset
from lora_core.data.wording import enumerated
from lora_core.errors import Problem, UserError
from lora_core.settings import DatasetSettings


def scan_list(path: Path, folder: Path | None, options: DatasetSettings, setting: str) -> tuple[Subset, list[Problem]]:
    """The images a list names, with their captions. Problems are told at ``setting``; nothing is raised."""
    empty = Subset(folder or path.parent, 1, "", False, (), options)
    try:
        tree = read_json(path)
        listing = list_folder(folder.absolute()) if folder is not None else None
    except UserError as error:
        return empty, [Problem.of(setting, error)]
    images, missing, odd = [], [], []
    by_name = _by_name(listing)
    for key, entry in tree.items():
        found = _image(key, path, listing, by_name)
        if found is None:
            missing.append(key)
        elif not isinstance(entry, Mapping):
            odd.append(key)
        else:
            images.append(ImageFile(found, caption=caption_of(entry, options)))
    problems = [*_not_found(path, missing, odd, options, setting), *_without_caption(path, images, setting)]
    if not images and not problems:
        problems.append(Problem(setting, "data.list_empty", {"path": path}))
    return Subset(folder or path.parent, 1, "", False, tuple(images), options), problems


def read_json(path: Path) -> Mapping[str, Any]:
    """The table of a list of captions. Raises UserError naming file and line."""
    from lora_core.settings.files import read_tree  # which knows about Kohya's files, and so about this package

    if path.suffix.lower() != ".json":
        raise UserError("data.list_kind", path=path)
    return read_tree(path)


def caption_of(entry: Mapping[str, Any], options: DatasetSettings) -> str | None:
    """Caption and tags of one image, joined as sd-scripts does; None if it has neither, and nobody says that it is so.

    With wildcards a caption may have several lines, each of which gets the tags.
    """
    caption, tags = (_text(entry.get(name)) for name in ("caption", "tags"))
    if not caption and not tags:
        return "" if "caption" in entry and entry["caption"] is None else None
    if not caption or not tags:
        return caption or tags
    separator = separator_of(options)
    if not options.enable_wildcard:
        return f"{caption}{separator}{tags}"
    tags = tags.replace("\n", separator)
    return "\n".join(f"{line}{separator}{tags}" for line in caption.split("\n") if line.strip())


def _text(value: Any) -> str:
    if isinstance(value, list):  # some taggers write a list
        return ", ".join(str(part) for part in value)
    return str(value).strip() if isinstance(value, str | int | float) else ""


def _by_name(listing: Listing | None) -> dict[str, Path]:
    """Images of the folder by name and by name without ending; of two with one stem the first counts."""
    images = listing.images if listing else ()
    return {image.stem: image for image in reversed(images)} | {image.name: image for image in images}


def _image(key: str, path: Path, listing: Listing | None, by_name: Mapping[str, Path]) -> Path | None:
    """The image a key means: by its path, else by its name in the folder."""
    given = Path(key.replace("\\", "/"))
    places = [given] if given.is_absolute() else [*([listing.folder / given] if listing else []), path.parent / given]
    for place in places:
        if place.suffix and place.is_file():
            return place
    if given.is_absolute() and listing is None:
        return None
    # A list made on another machine names folders that are not here: the name is what counts, as in sd-scripts.
    return by_name.get(given.name)


def _not_found(path: Path, missing: list[str], odd: list[str], options: DatasetSettings, setting: str) -> list[Problem]:
    problems = []
    if missing:
        values = {"path": path, "count": len(missing), "files": enumerated(missing)}
        severity, fix = ("warning", {}) if options.skip_bad_images else ("error", {"dataset.skip_bad_images": True})
        problems.append(Problem(setting, "data.list_missing", values, severity, fix))
    if odd:
        problems.append(Problem(setting, "data.list_odd", {"path": path, "files": enumerated(odd)}))
    return problems


def _without_caption(path: Path, images: list[ImageFile], setting: str) -> list[Problem]:
    without = [image.path.name for image in images if image.caption is None]
    if not without:
        return []
    values = {"path": path, "count": len(without), "files": enumerated(without)}
    return [Problem(setting, "data.list_no_caption", values, "error" if len(without) == len(images) else "warning")]
