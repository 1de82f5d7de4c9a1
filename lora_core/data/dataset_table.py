"""A dataset file as a table of its subsets, to be edited on a page and written back.

The table shows what is most often changed; all other options of the file stay as they are. An empty cell is an option
that is not given, and falls back as it does in the file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomlkit

from lora_core.data.dataset_file import entries_of
from lora_core.errors import Problem
from lora_core.settings import DatasetSettings

COLUMNS = ("place", "image_dir", "num_repeats", "class_tokens", "is_reg", "resolution", "batch_size", "loss_weight")
"""``place`` says which subset of the file a row came from ("2-1"); a new row has none."""
OF_DATASET = ("resolution", "batch_size")
_WHOLE = ("num_repeats", "batch_size")

Cells = Sequence[Any]
Tree = dict[str, Any]


@dataclass
class _Group:
    """A dataset being put together."""

    origin: int | None
    options: Tree
    subsets: list[Tree] = field(default_factory=list)


def rows_of(tree: Mapping[str, Any]) -> list[list[Any]]:
    """One row a subset, with what the file says about it at any level."""
    rows = []
    for number, dataset in enumerate(_tables(tree.get("datasets")), 1):
        for index, subset in enumerate(_tables(dataset.get("subsets")), 1):
            given = _given(tree, dataset, subset)
            rows.append([f"{number}-{index}", *(_shown(given.get(name), name) for name in COLUMNS[1:])])
    return rows


def with_rows(tree: Mapping[str, Any], rows: Sequence[Cells]) -> Tree:
    """The file's tables with the rows of an edited table: changed, added, left out or moved to another size.

    A row whose resolution or batch size differs from its dataset's gets a dataset of its own; a new row belongs to the
    dataset of the row above it if it can.
    """
    groups: list[_Group] = []
    for row in rows:
        wanted = _wanted(row)
        if not any(value not in (None, "", False) for name, value in wanted.items() if name != "place"):
            continue
        number, dataset, subset = _origin(tree, str(wanted["place"] or ""))
        if number is None and groups and _joins(groups[-1].options, wanted, tree):
            dataset = groups[-1].options
        given = _given(tree, dataset, subset)
        changed = {name: value for name, value in wanted.items() if value != _read(given.get(name), name)}
        if number is None:  # an empty cell of a new row takes nothing away from the dataset it joins
            changed = {name: value for name, value in changed.items() if value is not None}
        options, own = _with(dataset, changed, OF_DATASET), _with(subset, changed, COLUMNS[1:5])
        if "loss_weight" in changed:
            own = _with_weight(own, changed["loss_weight"])
        fits = bool(groups) and groups[-1].options == options and number in (None, groups[-1].origin)
        if not fits:
            groups.append(_Group(number, options))
        groups[-1].subsets.append(own)
    kept = {key: value for key, value in tree.items() if key != "datasets"}
    return kept | {"datasets": [group.options | {"subsets": group.subsets} for group in groups]}


def _joins(above: Tree, wanted: Mapping[str, Any], tree: Mapping[str, Any]) -> bool:
    """A new row asks for nothing that the dataset above it does not have."""
    given = _given(tree, above, {})
    return all(wanted[name] in (None, _read(given.get(name), name)) for name in OF_DATASET)


def problems_of(tree: Mapping[str, Any]) -> list[Problem]:
    """Why a table can't be written: errors at their rows. Folders need not be there yet."""
    found = [problem for entry in entries_of(tree, DatasetSettings()) for problem in entry.problems]
    return [problem for problem in found if problem.severity == "error"]


def text_of(tree: Mapping[str, Any], path: Path) -> str:
    """The file's new content, in the format of its ending."""
    if path.suffix.lower() == ".json":
        return json.dumps(tree, ensure_ascii=False, indent=2) + "\n"
    return tomlkit.dumps(tree)


# ---- Cells -----------------------------------------------------------------------------------------------------------


def _given(tree: Mapping[str, Any], dataset: Mapping[str, Any], subset: Mapping[str, Any]) -> Tree:
    """What the file says about a subset, from all levels."""
    general = tree.get("general")
    values: Tree = {}
    for level in (general if isinstance(general, Mapping) else {}, dataset, subset):
        values |= level
        attributes = level.get("custom_attributes")
        if isinstance(attributes, Mapping) and "loss_weight" in attributes:
            values["loss_weight"] = attributes["loss_weight"]
    return values


def _wanted(row: Cells) -> Tree:
    cells = [*row, *[None] * len(COLUMNS)]
    return {name: _read(cell, name) for name, cell in zip(COLUMNS, cells, strict=False)}


def _read(cell: Any, name: str) -> Any:
    """A cell as the file has it; None for an empty one. What can't be read stays, to be told."""
    if cell is None or cell != cell or (isinstance(cell, str) and not cell.strip()):
        return None
    if name == "is_reg":
        return True if cell is True or str(cell).strip().lower() in ("true", "1", "yes", "はい") else None
    if name == "resolution":
        sides = cell if isinstance(cell, list | tuple) else str(cell).replace("x", ",").replace("×", ",").split(",")
        numbers = [_number(side) for side in sides]
        return numbers[0] if len(numbers) == 1 else numbers
    if name in _WHOLE or name == "loss_weight":
        return _number(cell)
    return str(cell).strip()


def _number(value: Any) -> Any:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return value
    return int(number) if number.is_integer() else number


def _shown(value: Any, name: str) -> Any:
    if name == "is_reg":
        return value is True
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


# ---- Tables ----------------------------------------------------------------------------------------------------------


def _tables(value: Any) -> list[Mapping[str, Any]]:
    return [table for table in value if isinstance(table, Mapping)] if isinstance(value, list) else []


def _origin(tree: Mapping[str, Any], place: str) -> tuple[int | None, Tree, Tree]:
    """(number of the dataset, its options, the subset) that a row came from; a new row came from nowhere."""
    number, _, index = place.partition("-")
    try:
        dataset = _tables(tree.get("datasets"))[int(number) - 1]
        subset = _tables(dataset.get("subsets"))[int(index) - 1]
    except (ValueError, IndexError):
        return None, {}, {}
    return int(number), {key: value for key, value in dataset.items() if key != "subsets"}, dict(subset)


def _with(table: Mapping[str, Any], changed: Mapping[str, Any], names: Sequence[str]) -> Tree:
    """The table with changed values of some names; an emptied cell takes the option away."""
    new = dict(table)
    for name in names:
        if name in changed and changed[name] is None:
            new.pop(name, None)
        elif name in changed:
            new[name] = changed[name]
    return new


def _with_weight(subset: Mapping[str, Any], weight: Any) -> Tree:
    """sd-scripts refuses options it does not know, but lets custom_attributes pass: files stay good for both."""
    new = {key: value for key, value in subset.items() if key != "loss_weight"}
    attributes = dict(new.pop("custom_attributes", {}))
    attributes.pop("loss_weight", None)
    if weight is not None:
        attributes["loss_weight"] = weight
    return new | ({"custom_attributes": attributes} if attributes else {})
