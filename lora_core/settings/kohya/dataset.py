"""sd-scripts' dataset config, as far as one set of folders can say it."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PureWindowsPath
from typing import Any

from lora_core.errors import UserError
from lora_core.settings.kohya.entries import Given
from lora_core.settings.kohya.table import ALIASES, ROWS

DATASET_KEYS = frozenset({"batch_size", "image_dir", "num_repeats", "class_tokens", "is_reg", "metadata_file"})
"""Keys of a dataset config that sd-scripts' command line does not have."""

_OWN = {"batch_size": "train_batch_size"}


def read_dataset(tree: Mapping[str, Any]) -> dict[str, Given]:
    """The values of a dataset config under Kohya's keys; what one set of folders can't say stays under its own name.

    A value of a subset counts before that of its dataset, and that before [general], as in sd-scripts.
    """
    subsets = list(_subsets(tree))
    if not subsets:
        raise UserError("kohya.no_subset")
    given: dict[str, Given] = {}
    train = [subset for subset in subsets if subset.get("is_reg") is not True]
    reg = [subset for subset in subsets if subset.get("is_reg") is True]
    for name, value in (train or subsets)[0].items():
        if name not in DATASET_KEYS or name in _OWN:
            key = _OWN.get(name, ALIASES.get(name, name))
            given[key if key in ROWS else f"dataset {name}"] = Given(name, value, "scripts")
    given |= _folders(train, "train_data_dir")
    given |= _folders(reg, "reg_data_dir")
    for number, subset in enumerate(train[1:], 2):
        first = train[0]
        for name, value in subset.items():
            if name not in DATASET_KEYS and value != first.get(name):
                given[f"dataset {number} {name}"] = Given(f"subset {number}: {name}", value, "scripts")
    return given


def _folders(subsets: list[dict[str, Any]], key: str) -> dict[str, Given]:
    """One folder as it is; several that follow the names of folders ("20_usu bear") as the folder they lie in."""
    if not subsets:
        return {}
    folders = [str(subset.get("image_dir") or "") for subset in subsets]
    if len(subsets) > 1:
        parents = {str(_path(folder).parent) for folder in folders}
        if len(parents) == 1 and all(map(_says_by_name, subsets)):
            return {key: Given("image_dir", _parent(folders[0]), "scripts")}
    given = {key: Given("image_dir", folders[0], "scripts")}
    is_train = key == "train_data_dir"
    for number, subset in enumerate(subsets):
        of = f"subset {number + 1}: " if number else ""
        if number:
            given[f"dataset {key} {number}"] = Given(f"{of}image_dir", folders[number], "scripts")
        if "metadata_file" in subset:
            given["in_json"] = Given(f"{of}metadata_file", subset["metadata_file"], "scripts")
        if not _says_by_name(subset):
            if is_train and not number and subset.get("class_tokens"):
                given["class_tokens"] = Given("class_tokens", subset["class_tokens"], "scripts")
            elif subset.get("class_tokens"):
                given[f"dataset words {key} {number}"] = Given(f"{of}class_tokens", subset["class_tokens"], "scripts")
            given[f"num_repeats {key} {number}"] = Given(f"{of}num_repeats", subset.get("num_repeats", 1), "scripts")
    return given


def _says_by_name(subset: Mapping[str, Any]) -> bool:
    """The folder is named as its repeats and words are, so that reading it by name gives the same."""
    found = re.match(r"(\d+)_(.*)", _path(str(subset.get("image_dir") or "")).name)
    if found is None:
        return False
    return int(found[1]) == subset.get("num_repeats", 1) and subset.get("class_tokens", found[2]) == found[2]


def named_repeats(folder: str) -> int:
    """How often a folder's images are shown by its name: 20 for "20_usu bear", 1 for any other."""
    found = re.match(r"(\d+)_", _path(folder).name)
    return int(found[1]) if found else 1


def _subsets(tree: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    general = tree.get("general") if isinstance(tree.get("general"), Mapping) else {}
    for dataset in tree.get("datasets") or []:
        if not isinstance(dataset, Mapping):
            raise UserError("kohya.no_subset")
        shared = {name: value for name, value in dataset.items() if name != "subsets"}
        found = dataset.get("subsets")
        for subset in found if isinstance(found, list) else []:
            if not isinstance(subset, Mapping):
                raise UserError("kohya.no_subset")
            yield {**general, **shared, **subset}  # type: ignore[dict-item]


def _path(folder: str) -> PureWindowsPath:
    return PureWindowsPath(folder)  # understands / as well


def _parent(folder: str) -> str:
    return re.sub(r"[\\/][^\\/]+[\\/]*$", "", folder)
