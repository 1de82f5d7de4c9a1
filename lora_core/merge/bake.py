"""Which tensors of a checkpoint LoRAs change, and by how much: planned from names, computed tensor by tensor.

W' = W + sum_i ratio_i x block weight_i x change_i, summed in float64 and rounded once into the file's number format.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_core.errors import UserError
from lora_core.io.arrays import Array
from lora_core.merge.checkpoint import Checkpoint, Network, Spot
from lora_core.merge.combine import Weighted
from lora_core.merge.deltas import needs_base
from lora_core.merge.layer import Change
from lora_core.merge.lowrank import LowRank, concat, flat_shape

WEIGHT = "weight"
NORM = "w_norm"
"""The other vectors, b_norm and diff_b, are added to biases."""


Given = tuple[Weighted, Array | None]
"""A LoRA, and its vector where it is one that is added."""


@dataclass(frozen=True)
class Edit:
    """Something to add to (rows of) a tensor."""

    layer: str
    given: Sequence[Given]
    spot: Spot
    network: Network


Plan = Mapping[tuple[Path, str], Sequence[Edit]]
"""File and key of every tensor that changes."""


def plan(model: Checkpoint, sources: Sequence[Weighted]) -> Plan:
    """What is to be done where. Raises UserError for layers the checkpoint does not have."""
    edits: dict[tuple[Path, str], list[Edit]] = {}
    missing: dict[Path, list[str]] = {}
    for (layer, kind), given in _wanted(sources).items():
        found = [Edit(layer, given, spot, net) for net in model.networks for spot in _spots(net, layer, kind)]
        if not found:
            missing.setdefault(given[0][0].file.path, []).append(layer if kind == WEIGHT else f"{layer}.{kind}")
        for edit in found:
            edits.setdefault((edit.spot.file.path, edit.spot.key), []).append(edit)
    for lora, layers in missing.items():
        raise UserError("apply.no_layer", lora=lora.name, path=model.path, layer=layers[0], count=len(layers))
    return edits


def _wanted(sources: Sequence[Weighted]) -> dict[tuple[str, str], list[Given]]:
    """(layer, kind) of everything that counts -> the LoRAs that have it."""
    wanted: dict[tuple[str, str], list[Given]] = {}
    for source in sources:
        file = source.file
        own: list[tuple[str, str, Array | None]] = [(layer, WEIGHT, None) for layer in file.names()]
        own += [(layer, kind, v) for layer, vectors in file.vectors().items() for kind, v in vectors.items()]
        for layer, kind, vector in own:
            if source.weight(layer):
                wanted.setdefault((layer, kind), []).append((source, vector))
    return wanted


def _spots(network: Network, layer: str, kind: str) -> list[Spot]:
    return network.spots(layer) if kind in (WEIGHT, NORM) else network.bias_spots(layer)


def irreversible(sources: Sequence[Weighted]) -> tuple[Weighted, str] | None:
    """A LoRA, and its layer, whose change was computed from a weight that baking has overwritten."""
    for source in sources:
        for name in source.file.needs_base():
            if source.weight(name):
                return source, name
    return None


# ---- the numbers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Addition:
    """up @ down, (rows, columns) in float64, for some rows of a tensor; a change written out has no ``down``."""

    first: int
    up: Array
    down: Array | None

    def add_to(self, weight: Array, start: int) -> None:
        """Adds what falls on a tensor's rows from ``start`` on, (rows, columns) float64, in place."""
        low, high = max(self.first, start), min(self.first + len(self.up), start + len(weight))
        if low < high:
            own = self.up[low - self.first : high - self.first]
            weight[low - start : high - start] += own if self.down is None else own @ self.down


def changed(edits: Sequence[Edit], sign: int) -> Iterator[Array]:
    """A tensor with its changes, in pieces of rows (rows, columns) float64; ``sign`` -1 takes them away."""
    file, key = edits[0].spot.file, edits[0].spot.key
    additions = [addition for edit in edits for addition in _additions(edit, sign)]
    for start, stop in file.pieces(key):
        weight = file.rows(key, start, stop).reshape(stop - start, -1).astype(np.float64)
        for addition in additions:
            addition.add_to(weight, start)
        yield weight


def _additions(edit: Edit, sign: int) -> Iterator[Addition]:
    first = edit.spot.rows[0]
    rows = slice(*edit.spot.slot.rows_in_layer) if edit.spot.slot.rows_in_layer else slice(None)
    weights = [sign * source.weight(edit.layer) for source, _ in edit.given]
    if edit.given[0][1] is not None:
        vectors = [_vector(edit, source, vector) for source, vector in edit.given if vector is not None]
        total = sum(weight * vector for weight, vector in zip(weights, vectors, strict=True))
        yield Addition(first, np.asarray(total)[rows, None], None)
        return
    yield from _joined([_change(edit, source) for source, _ in edit.given], weights, first, rows)


def _joined(changes: Sequence[Change], weights: Sequence[float], first: int, rows: slice) -> Iterator[Addition]:
    """Factors side by side, for one product; changes written out by themselves."""
    factors = [(change, weight) for change, weight in zip(changes, weights, strict=True) if isinstance(change, LowRank)]
    if factors:
        shape = factors[0][0].shape
        whole = concat([LowRank(c.up, c.down, shape) for c, _ in factors], [weight for _, weight in factors])
        yield Addition(first, whole.up[rows].astype(np.float64), whole.down.astype(np.float64))
    for change, weight in zip(changes, weights, strict=True):
        if not isinstance(change, LowRank):
            yield Addition(first, change.array.reshape(flat_shape(change.shape))[rows] * np.float64(weight), None)


def _change(edit: Edit, source: Weighted) -> Change:
    """A LoRA's change of a layer, computed on the checkpoint's own weight where it depends on it."""
    dependent = any(needs_base(layer.tensors) for layer in source.file.layers[edit.layer])
    change = source.file.change(edit.layer, edit.network.read(edit.layer) if dependent else None)
    shape = edit.network.weights.shape(edit.layer)
    if flat_shape(change.shape) != flat_shape(shape):
        _refuse_shape(edit, source, change.shape, shape)
    return change


def _vector(edit: Edit, source: Weighted, vector: Array) -> Array:
    """What a LoRA adds to a norm or a bias, (C,) float64."""
    length = edit.network.weights.shape(edit.layer)[0]
    if vector.shape != (length,):
        _refuse_shape(edit, source, vector.shape, (length,))
    return vector.astype(np.float64)


def _refuse_shape(edit: Edit, source: Weighted, found: Sequence[int], wanted: Sequence[int]) -> None:
    raise UserError(
        "apply.other_shape",
        lora=source.file.path.name,
        layer=edit.layer,
        found=" x ".join(map(str, found)),
        wanted=" x ".join(map(str, wanted)),
    )
