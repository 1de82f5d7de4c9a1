"""From a layer's tensors in a LoRA file to the change of its weight, for every algorithm people train with."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from lora_core.errors import UserError
from lora_core.merge.algorithms import oft, plain
from lora_core.merge.algorithms.dora import MAGNITUDE, decompose
from lora_core.merge.algorithms.factors import shape_text
from lora_core.merge.algorithms.table import ALGORITHMS, EVERYWHERE, VECTORS, Algorithm, Ways
from lora_core.merge.layer import Array, Change, Dense, Layer
from lora_core.merge.lowrank import LowRank, flat_shape, zero

__all__ = [
    "Change",
    "Dense",
    "Layer",
    "algorithm_of",
    "bias_of",
    "change_of",
    "check_layer",
    "needs_base",
    "vectors_of",
]


class Shaped(Protocol):
    """An array, or what a header says of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def algorithm_of(tensors: Mapping[str, Shaped]) -> str:
    """Which algorithm wrote these tensors of one layer (canonical names -> Array or TensorInfo).

    "lora" (linear and 1x1), "locon" (3x3 or Tucker), "loha", "lokr", "dora" (any of them with dora_scale), "glora",
    "ia3", "full" (.diff), "norm" (only vectors: w_norm, b_norm, diff_b), "oft" (and BOFT), "unknown".
    """
    row = _row(tensors)
    if row is None:
        vectors = set(tensors) & {*VECTORS, "diff"}
        return "norm" if vectors else "unknown"
    if MAGNITUDE in tensors:
        return "dora"
    return "locon" if row == "lora" and _is_convolution(tensors) else row


def _row(tensors: Mapping[str, Shaped]) -> str | None:
    """The row of ALGORITHMS; a layer with vectors only has none."""
    for name, row in ALGORITHMS.items():
        own = tensors.keys() & row.tensors
        if own and not (name == "full" and len(tensors["diff"].shape) < 2):
            return name
    return None


def _is_convolution(tensors: Mapping[str, Shaped]) -> bool:
    return plain.MID in tensors or (plain.DOWN in tensors and any(side > 1 for side in tensors[plain.DOWN].shape[2:]))


def needs_base(tensors: Mapping[str, Shaped]) -> bool:
    """Whether the change can only be told with the base model's weight at hand."""
    row = _row(tensors)
    return row is not None and (MAGNITUDE in tensors or ALGORITHMS[row].needs_base)


def check_layer(layer: Layer) -> None:
    """Raises UserError for a missing half, and for tensors of no known algorithm or of two. Reads no numbers."""
    name = _row(layer.tensors)
    if name is None:
        if algorithm_of(layer.tensors) == "unknown" or layer.tensors.keys() - EVERYWHERE - {"diff"}:
            raise _unknown(layer, layer.tensors)
        return
    row = ALGORITHMS[name]
    for half in row.halves:
        if missing := _missing(half, layer.tensors):
            raise UserError("lora.missing_half", layer=layer.where, tensor=missing)
    if strangers := layer.tensors.keys() - row.tensors - EVERYWHERE:
        raise _unknown(layer, strangers)
    if "hada_t1" in layer.tensors or "hada_t2" in layer.tensors:
        for core in ("hada_t1", "hada_t2"):
            if core not in layer.tensors:
                raise UserError("lora.missing_half", layer=layer.where, tensor=core)


def _missing(half: Ways, tensors: Mapping[str, object]) -> str | None:
    """The first tensor that is not there of the way that is furthest along; None if one way is complete."""
    gaps = [[name for name in way if name not in tensors] for way in half]
    if not all(gaps):
        return None
    begun = [gap for gap, way in zip(gaps, half, strict=True) if len(gap) < len(way)]
    return (begun or gaps)[0][0]


def _unknown(layer: Layer, names) -> UserError:
    return UserError("lora.unknown_tensors", layer=layer.where, tensors=", ".join(sorted(names)[:3]))


def change_of(layer: Layer, base: Array | None = None, shape: Sequence[int] | None = None) -> Change:
    """The change of the canonical layer's weight at strength 1, alpha / rank included.

    ``base`` is the whole canonical weight, which DoRA, GLoRA, IA3 and OFT need; ``shape`` is that weight's shape where
    it is known: the shape of the answer (else that of base, else as the file has it: convolutions of LoHa and LoKr may
    then be (O, inputs x height x width)). A part of a fused layer comes embedded in the whole layer, zero elsewhere.

    Raises UserError: a missing half, shapes that do not fit, rank 0, NaN or infinity, base needed ("lora.needs_base"),
    a way of turning that is not read ("lora.not_linear": BOFT, older OFT), an unknown one. Of vectors only it is a
    zero change.
    """
    check_layer(layer)
    _check_numbers(layer)
    shape = tuple(shape) if shape is not None else base.shape if base is not None else None
    name = _row(layer.tensors)
    if name is None:
        vector = next(iter(vectors_of(layer).values()))
        return zero(shape or vector.shape)
    part = None if shape is None else (_part_rows(layer, shape[0]), *shape[1:])
    with np.errstate(over="ignore", invalid="ignore"):
        change = _part_change(layer, ALGORITHMS[name], base)
    if not all(map(_finite, [change.array] if isinstance(change, Dense) else [change.up, change.down])):
        raise UserError("lora.overflow", layer=layer.where)
    return _embed(_in_shape(layer, change, part), layer, shape)


def _check_numbers(layer: Layer) -> None:
    for tensor, values in layer.tensors.items():
        if not _finite(values):
            raise UserError("lora.not_finite", layer=layer.where, tensor=tensor)


def _finite(values: Array) -> bool:
    return bool(np.isfinite(values).all())


def _part_rows(layer: Layer, rows: int) -> int:
    return layer.rows[1] - layer.rows[0] if layer.rows else rows


def _part_change(layer: Layer, row: Algorithm, base: Array | None) -> Change:
    """The change of the rows that the file's layer is, in the order the file has them."""
    if not needs_base(layer.tensors):
        return row.change(layer, None)
    if row.change is oft.change:
        oft.check(layer)
    title = "DoRA" if MAGNITUDE in layer.tensors else row.title
    if base is None:
        raise UserError("lora.needs_base", layer=layer.where, algorithm=title)
    own = _swapped(base[slice(*layer.rows)] if layer.rows else base, layer)
    change = row.change(layer, own)
    if MAGNITUDE not in layer.tensors:
        return change
    return decompose(layer, _in_shape(layer, change, own.shape), own)


def _in_shape(layer: Layer, change: Change, shape: tuple[int, ...] | None) -> Change:
    """The same numbers under the weight's own shape. Raises UserError if these are of another weight."""
    if shape is None or change.shape == shape:
        return change
    if flat_shape(change.shape) != flat_shape(shape):
        found, wanted = shape_text(change.shape), shape_text(shape)
        raise UserError("lora.other_shape", layer=layer.where, found=found, wanted=wanted)
    if isinstance(change, LowRank):
        return LowRank(change.up, change.down, shape)
    return Dense(change.array.reshape(shape), shape)


def _swapped(rows: Array, layer: Layer) -> Array:
    """Rows of the weight in the file's order, or the other way round: the exchange of two halves is its own reverse."""
    return np.roll(rows, rows.shape[0] // 2, axis=0) if layer.swapped else rows


def _embed(change: Change, layer: Layer, shape: tuple[int, ...] | None) -> Change:
    """The change of some rows as a change of the whole weight."""
    rows = layer.rows
    if rows is None and not layer.swapped:
        return change
    total = shape[0] if shape else layer.total_rows or (rows[1] if rows else change.shape[0])
    rows = rows or (0, total)
    if change.shape[0] != rows[1] - rows[0] or rows[1] > total:
        found = shape_text(change.shape)
        wanted = shape_text((rows[1] - rows[0], *change.shape[1:]))
        raise UserError("lora.other_shape", layer=layer.where, found=found, wanted=wanted)
    whole = (total, *change.shape[1:])
    values = change.up if isinstance(change, LowRank) else change.array.reshape(change.shape)
    wide = np.zeros((total, *values.shape[1:]), values.dtype)
    wide[slice(*rows)] = _swapped(values, layer)
    return LowRank(wide, change.down, whole) if isinstance(change, LowRank) else Dense(wide, whole)


def vectors_of(layer: Layer) -> dict[str, Array]:
    """The plain vectors: "w_norm", "b_norm" and "diff_b" -> (C,), added to the layer's weight, bias and bias.

    A ``diff`` with one side is a norm's, as extraction tools write it. A part's vector comes embedded in the whole.
    """
    found = {name: layer.tensors[name] for name in VECTORS if name in layer.tensors}
    if "diff" in layer.tensors and layer.tensors["diff"].ndim < 2:
        found["w_norm"] = layer.tensors["diff"]
    if plain.BIAS in layer.tensors and plain.DOWN in layer.tensors:
        bias = plain.bias(layer)
        if found.setdefault("diff_b", np.zeros_like(bias)).shape != bias.shape:
            raise UserError("lora.bad_shape", layer=layer.where, tensor=plain.BIAS, shape=shape_text(bias.shape))
        found["diff_b"] = found["diff_b"] + bias
    return {name: _embedded_vector(layer, name, values) for name, values in found.items()}


def _embedded_vector(layer: Layer, name: str, values: Array) -> Array:
    if values.ndim != 1 or not values.size:
        raise UserError("lora.bad_shape", layer=layer.where, tensor=name, shape=shape_text(values.shape))
    if not _finite(values):
        raise UserError("lora.not_finite", layer=layer.where, tensor=name)
    as_column = Dense(values.reshape(-1, 1), (values.size, 1))
    whole = _embed(as_column, layer, None)
    assert isinstance(whole, Dense)
    return whole.array.reshape(-1)


def bias_of(layer: Layer) -> Array | None:
    """What is added to the layer's bias (diff_b, or b_norm of a norm), (O,)."""
    vectors = vectors_of(layer)
    return vectors.get("diff_b", vectors.get("b_norm"))
