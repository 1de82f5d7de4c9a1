"""Two LoRAs side by side: how alike their changes are, and in which settings they differ."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lora_core.errors import UserError
from lora_core.inspect import bounded
from lora_core.inspect.header import inspect_header
from lora_core.inspect.layers import FileLayer, Layers, block_order, group
from lora_core.inspect.measure import read_change
from lora_core.inspect.report import BlockComparison, Comparison, Difference, HeaderReport, RecipeEntry
from lora_core.inspect.weights import hashes
from lora_core.io.arrays import ArrayFile, open_arrays
from lora_core.io.metadata import SETTINGS_KEY
from lora_core.merge import lowrank
from lora_core.merge.layer import Change
from lora_core.merge.lowrank import LowRank, flat_shape

OF_EVERY_RUN = frozenset(
    {
        "ss_session_id",
        "ss_training_started_at",
        "ss_training_finished_at",
        "sshs_model_hash",
        "sshs_legacy_hash",
        "modelspec.date",
        "modelspec.hash_sha256",
    }
)
"""Entries that differ between any two runs and so tell nothing."""
MOST_DIFFERENCES = 500


def compare(a: Path, b: Path) -> Comparison:
    """Cosine by block and overall, layers that only one has, and settings that differ.

    Raises UserError for files that can't be read, are no LoRA, or are for different kinds of model.
    """
    headers = [inspect_header(path) for path in (a, b)]
    _check(*headers)
    with open_arrays(a) as file_a, open_arrays(b) as file_b:
        sides = [Side.of(file, header) for file, header in zip((file_a, file_b), headers, strict=True)]
        sums = _compared(*sides)
        hash_a, hash_b = (hashes(side.file)[1] for side in sides)
        differences = tuple(_differences(*(_settings(side, h) for side, h in zip(sides, headers, strict=True))))
    total = sums.of(None)
    names = [side.names.keys() for side in sides]
    return Comparison(
        a=headers[0],
        b=headers[1],
        cosine=total.cosine,
        norm_a=float(np.sqrt(total.square_a)),
        norm_b=float(np.sqrt(total.square_b)),
        distance=float(np.sqrt(max(total.square_a + total.square_b - 2 * total.inner, 0.0))),
        blocks=_blocks(sums, sides[0].layers),
        common=len(names[0] & names[1]),
        only_a=tuple(name for name in names[0] if name not in names[1]),
        only_b=tuple(name for name in names[1] if name not in names[0]),
        unmeasured=tuple(sums.unmeasured),
        differences=differences[:MOST_DIFFERENCES],
        same_hash=hash_a == hash_b,
        hash_a=hash_a,
        hash_b=hash_b,
    )


def _check(a: HeaderReport, b: HeaderReport) -> None:
    for header in (a, b):
        if header.kind != "lora":
            raise UserError("inspect.compare_not_lora", path=header.path)
    if a.family != b.family and "unknown" not in (a.family, b.family):
        raise UserError(
            "inspect.compare_family",
            a=a.path.name,
            b=b.path.name,
            family_a=a.family_name,
            family_b=b.family_name,
        )


@dataclass(frozen=True)
class Side:
    """One of the two files."""

    file: ArrayFile
    layers: Layers
    names: Mapping[str, Sequence[FileLayer]]
    """Canonical layer -> the file's layers that make it up."""

    @classmethod
    def of(cls, file: ArrayFile, header: HeaderReport) -> "Side":
        layers = group(file.tensors, header.family)
        names: dict[str, list[FileLayer]] = {}
        for layer in layers.layers:
            names.setdefault(layer.name, []).append(layer)
        return cls(file, layers, names)

    def pieces(self, name: str) -> "list[Piece] | None":
        """The change of a canonical layer in row pieces; [] for a layer it has not, None where it can't be told."""
        found = []
        for layer in self.names.get(name, ()):
            change = read_change(self.file, layer, self.layers)
            if isinstance(change, str):
                return None
            found.append(Piece.of(change, layer))
        return found


@dataclass(frozen=True)
class Piece:
    """The change of some rows of a weight, the first of them being ``start``."""

    change: Change
    start: int

    @classmethod
    def of(cls, change: Change, layer: FileLayer) -> "Piece":
        if layer.swapped and isinstance(change, LowRank):
            change = LowRank(np.roll(change.up, change.up.shape[0] // 2, axis=0), change.down, change.shape)
        return cls(change, layer.rows[0] if layer.rows else 0)

    @property
    def stop(self) -> int:
        return self.start + self.change.shape[0]

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Factors (rows, R) and (R, columns) of some rows, or those rows written out and None."""
        part = slice(start - self.start, stop - self.start)
        if isinstance(self.change, LowRank):
            return self.change.up[part], self.change.down
        return self.change.array.reshape(flat_shape(self.change.shape))[part], None


def inner(a: Piece, b: Piece) -> float:
    """<a, b> over the rows both have, float64. ValueError where their columns differ."""
    start, stop = max(a.start, b.start), min(a.stop, b.stop)
    if start >= stop:
        return 0.0
    columns = flat_shape(a.change.shape)[1]
    if columns != flat_shape(b.change.shape)[1]:
        raise ValueError("changes of different weights")
    (up_a, down_a), (up_b, down_b) = a.rows(start, stop), b.rows(start, stop)
    if down_a is not None and down_b is not None:
        shape = (stop - start, columns)
        return lowrank.inner(LowRank(up_a, down_a, shape), LowRank(up_b, down_b, shape))
    if down_a is None and down_b is None:
        return float(np.sum(up_a * up_b, dtype=np.float64))
    up, down, dense = (up_a, down_a, up_b) if down_a is not None else (up_b, down_b, up_a)
    return float(np.sum((up.T.astype(np.float64) @ dense) * down))


@dataclass
class Sum:
    """Sums over layers."""

    inner: float = 0.0
    square_a: float = 0.0
    square_b: float = 0.0
    layers: int = 0

    def add(self, inner: float, square_a: float, square_b: float, common: bool) -> None:
        self.inner += inner
        self.square_a += square_a
        self.square_b += square_b
        self.layers += common

    @property
    def cosine(self) -> float | None:
        """None where one of them is nothing."""
        lengths = float(np.sqrt(self.square_a) * np.sqrt(self.square_b))
        return max(-1.0, min(1.0, self.inner / lengths)) if lengths else None


@dataclass
class Sums:
    """Sums by block, None being the whole file, and layers that could not be measured."""

    by_block: dict[str | None, Sum] = field(default_factory=dict)
    unmeasured: list[str] = field(default_factory=list)

    def of(self, block: str | None) -> Sum:
        return self.by_block.setdefault(block, Sum())


def _compared(a: Side, b: Side) -> Sums:
    sums = Sums()
    for name in dict.fromkeys([*a.names, *b.names]):
        pieces_a, pieces_b = a.pieces(name), b.pieces(name)
        block = (a.names.get(name) or b.names[name])[0].block
        try:
            numbers = _numbers(pieces_a, pieces_b)
        except ValueError:
            sums.unmeasured.append(name)
            continue
        for key in (None, block):
            sums.of(key).add(*numbers, common=name in a.names and name in b.names)
    return sums


def _numbers(a: list[Piece] | None, b: list[Piece] | None) -> tuple[float, float, float]:
    """<a, b>, |a|^2, |b|^2 of one layer. ValueError where they can't be told."""
    if a is None or b is None:
        raise ValueError("not measurable")
    square_a, square_b = (sum(piece.change.norm() ** 2 for piece in pieces) for pieces in (a, b))
    return sum(inner(x, y) for x in a for y in b), square_a, square_b


def _blocks(sums: Sums, layers: Layers) -> tuple[BlockComparison, ...]:
    ordered = [block for block in block_order(layers.family) if block in sums.by_block]
    return tuple(
        BlockComparison(
            block,
            row.layers,
            row.cosine if row.layers else None,
            float(np.sqrt(row.square_a)),
            float(np.sqrt(row.square_b)),
        )
        for block in ordered
        for row in [sums.of(block)]
    )


# ---- settings --------------------------------------------------------------------------------------------------------


def _settings(side: Side, header: HeaderReport) -> dict[str, RecipeEntry]:
    """Entries of the metadata and of our own settings, by key."""
    tree = bounded.mapping(bounded.bounded(bounded.parse(side.file.metadata.get(SETTINGS_KEY, ""))))
    own = {path: RecipeEntry(path, "other", value, False, "setting") for path, value in _leaves(tree)}
    return {entry.key: entry for entry in header.recipe if entry.key not in OF_EVERY_RUN} | own


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _differences(a: Mapping[str, RecipeEntry], b: Mapping[str, RecipeEntry]) -> Iterable[Difference]:
    for key in dict.fromkeys([*a, *b]):
        one, other = a.get(key), b.get(key)
        if (one.value if one else None) != (other.value if other else None):
            yield Difference(one, other)
