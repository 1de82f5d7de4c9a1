"""sd-scripts' dataset config: read as it is where training happens, so an import only points at it."""

from collections.abc import Iterator, Mapping
from typing import Any

from lora_core.errors import UserError
from lora_core.settings.kohya.entries import Given

DATASET_KEYS = frozenset({"batch_size", "image_dir", "num_repeats", "class_tokens", "is_reg", "metadata_file"})
"""Keys of a dataset config that sd-scripts' command line does not have."""

REPLACED_BY_FILE = ("train_data_dir", "reg_data_dir", "in_json")
"""What sd-scripts does not look at when there is a dataset config."""


def pointing_at(tree: Mapping[str, Any], name: str) -> dict[str, Given]:
    """A dataset config as the one option that names it, with what it asks for that does nothing here.

    Raises UserError if it has no subset: it would train on nothing.
    """
    tables = list(_tables(tree))
    if len(tables) == 1:
        raise UserError("kohya.no_subset")
    return {"dataset_config": Given("dataset_config", name, "scripts"), **not_here(tree)}


def not_here(tree: Mapping[str, Any]) -> dict[str, Given]:
    """The options anywhere in a dataset config that do nothing here, with the first value that is not neutral."""
    from lora_core.data.dataset_file import NOT_HERE  # imports the settings

    found: dict[str, Given] = {}
    for table in _tables(tree):
        for name in NOT_HERE.keys() & table.keys():
            if table[name] not in (None, "", *NOT_HERE[name]):
                found.setdefault(name, Given(name, table[name], "scripts"))
    return found


def _tables(tree: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """[general], then every dataset with its subsets."""
    general = tree.get("general")
    yield general if isinstance(general, Mapping) else {}
    for dataset in tree.get("datasets") or []:
        subsets = dataset.get("subsets") if isinstance(dataset, Mapping) else None
        if not isinstance(subsets, list) or not all(isinstance(subset, Mapping) for subset in subsets):
            raise UserError("kohya.no_subset")
        yield from (dataset, *subsets)
