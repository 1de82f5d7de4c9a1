"""Find the training and regularisation images: folders named "20_usu bear" (20 repeats, words "usu bear").

The layout is Kohya's. Beyond it, a plain folder of images works, and the usual wrong choices (the child, the
grandparent) are recognised and answered with the right one.
"""

import unicodedata
from pathlib import Path
from typing import Literal

from lora_core.data import layout
from lora_core.data.dataset_file import scan_file
from lora_core.data.image_list import scan_list
from lora_core.data.listing import ImageFile, Listing, caption_beside, list_folder
from lora_core.data.pair import scan_pair
from lora_core.data.picture_sets import are_folders, scan_sets
from lora_core.data.subsets import Scan, Subset
from lora_core.errors import Problem, UserError
from lora_core.settings import DatasetSettings

__all__ = ["ImageFile", "Scan", "Subset", "scan"]


def scan(dataset: DatasetSettings) -> Scan:
    """Find all images of the settings. Opens no image; never raises for what the user can put right.

    A dataset file takes the place of the folders, a caption list that of folder names and caption files, and the two
    pictures (or folders) of a copier LoRA that of everything else.
    """
    if dataset.has_pair:
        return scan_sets(dataset) if are_folders(dataset) else scan_pair(dataset)
    if dataset.config is not None:
        return scan_file(dataset.config, dataset)
    if dataset.metadata_file is not None:
        return _scan_listed(dataset)
    found = _scan_root(dataset.train_dir, "dataset.train_dir", dataset)
    if dataset.reg_dir is not None:
        found += _scan_root(dataset.reg_dir, "dataset.reg_dir", dataset)
    return found + Scan(problems=(*_in_both(found), *_words_not_used(found, dataset)))


def _scan_listed(dataset: DatasetSettings) -> Scan:
    assert dataset.metadata_file is not None
    if problem := layout.not_a_folder(dataset.train_dir, "dataset.train_dir"):
        return Scan(problems=(problem,))
    subset, problems = scan_list(dataset.metadata_file, dataset.train_dir, dataset, "dataset.metadata_file")
    return Scan((subset,) if subset.images else (), tuple(problems))


def _scan_root(root: Path | None, setting: str, dataset: DatasetSettings) -> Scan:
    """Scan what one folder setting points at."""
    if problem := layout.not_a_folder(root, setting):
        return Scan(problems=(problem,))
    assert root is not None
    try:
        listing = list_folder(root.absolute())
        numbered = {child: list_folder(child) for child in listing.folders if layout.numbered(child.name)}
    except UserError as error:
        return Scan(problems=(Problem.of(setting, error),))
    filled = [child for child in numbered.values() if child.images]
    if filled:
        return _numbered_children(listing, list(numbered.values()), setting, dataset)
    if listing.images:
        return _single_folder(listing, setting, dataset)
    return Scan(problems=(layout.nothing_found(listing, setting),))


def _numbered_children(root: Listing, children: list[Listing], setting: str, dataset: DatasetSettings) -> Scan:
    """The layout as it should be: every numbered child with images is a subset."""
    problems = layout.unused_beside_numbered(root, setting)
    problems += [
        Problem(setting, "data.folder_empty", {"path": child.folder}, "warning")
        for child in children
        if not child.images
    ]
    found = Scan(problems=tuple(problems))
    for child in children:
        if child.images:
            found += _subset(child, setting, dataset, layout.numbered(child.folder.name))
    return found


def _single_folder(root: Listing, setting: str, dataset: DatasetSettings) -> Scan:
    """Images lie directly in the chosen folder: a numbered child chosen by mistake, or a plain folder."""
    number = layout.numbered(root.folder.name)
    if number is None or "_" not in root.folder.name:
        return _subset(root, setting, dataset, layout.FolderName(1, ""))
    found = _subset(root, setting, dataset, number)
    other = dataset.reg_dir if setting == "dataset.train_dir" else dataset.train_dir
    if other is not None and other.absolute().parent == root.folder.parent:
        return found  # two numbered neighbours, one to train and one to regularise: meant as it is
    return found + Scan(problems=(layout.child_chosen(root.folder, number, setting),))


def _subset(listing: Listing, setting: str, dataset: DatasetSettings, name: layout.FolderName | None) -> Scan:
    """One subset and what is odd about its folder."""
    assert name is not None
    is_reg = setting == "dataset.reg_dir"
    words = name.words or ("" if is_reg else dataset.trigger_words.strip())
    images = tuple(ImageFile(path, caption_beside(path, listing, dataset.caption_extension)) for path in listing.images)
    subset = Subset(listing.folder, name.repeats, unicodedata.normalize("NFC", words), is_reg, images, dataset)
    problems = [
        *layout.odd_in_folder(listing, subset.captions, setting, dataset.caption_extension),
        *layout.odd_repeats(listing.folder, name.repeats, setting),
        *_words_missing(subset),
    ]
    return Scan((subset,), tuple(problems))


def _words_missing(subset: Subset) -> list[Problem]:
    """Images with neither caption nor words teach a look that nothing calls up."""
    missing = len(subset.images) - subset.captions
    if subset.class_tokens or not missing:
        return []
    values = {"path": subset.folder, "missing": missing, "images": len(subset.images)}
    severity: Literal["error", "warning"] = "error" if missing == len(subset.images) else "warning"
    if subset.is_reg:
        return [Problem("dataset.reg_dir", "data.reg_words_missing", values, severity)]
    return [Problem("dataset.trigger_words", "data.trigger_words_missing", values, severity)]


def _words_not_used(found: Scan, dataset: DatasetSettings) -> list[Problem]:
    words = dataset.trigger_words.strip()
    if not words or not found.train or any(subset.class_tokens == words for subset in found.train):
        return []
    values = {"words": words, "folder": found.train[0].name, "used": found.train[0].class_tokens}
    return [Problem("dataset.trigger_words", "data.trigger_words_not_used", values, "warning")]


def _in_both(found: Scan) -> list[Problem]:
    """A folder that is training and regularisation at once would work against itself."""
    train = {subset.folder.resolve() for subset in found.train}
    return [
        Problem("dataset.reg_dir", "data.reg_is_train", {"path": subset.folder})
        for subset in found.reg
        if subset.folder.resolve() in train
    ]
