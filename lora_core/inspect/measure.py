"""The change each layer of a LoRA makes, as numbers: norm, singular values, or why there are none.

A NaN or a broken layer is a result here, not an error.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lora_core.errors import UserError
from lora_core.inspect.header_findings import halves_fit
from lora_core.inspect.layers import VECTORS, FileLayer, Layers
from lora_core.io.arrays import ArrayFile
from lora_core.merge.deltas import change_of, check_layer, needs_base
from lora_core.merge.layer import Array, Change, Dense, Layer
from lora_core.merge.lowrank import LowRank, flat_shape

State = Literal["measured", "not_finite", "needs_base", "incomplete", "broken"]

DENSE_BUDGET = 6e10
"""Multiplications spent on singular values of changes that are written out (LoKr, full): a few seconds in all."""


@dataclass(frozen=True)
class Measured:
    """One layer of the file with what was found."""

    layer: FileLayer
    state: State
    norm: float = 0.0
    """Frobenius norm of the change at strength 1."""
    values: Array | None = None
    """Singular values, falling, float64; None where they were not computed."""
    shape: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Canonical name, with the rows where the layer is a part of a fused one."""
        rows = self.layer.rows
        return f"{self.layer.name} [{rows[0]}:{rows[1]}]" if rows else self.layer.name

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) if self.shape else 0

    @property
    def spatial(self) -> bool:
        """Whether it is a convolution larger than 1x1."""
        return any(side > 1 for side in self.shape[2:])


def measure(file: ArrayFile, layers: Layers) -> Iterator[Measured]:
    """Every layer of a file, one after the other; memory holds one."""
    spent = 0.0
    for layer in layers.layers:
        change = read_change(file, layer, layers)
        if isinstance(change, str):
            yield Measured(layer, change)
        elif isinstance(change, LowRank):
            spectrum = singular_values(change)
            yield Measured(layer, "measured", float(np.linalg.norm(spectrum)), spectrum, change.shape)
        else:
            spent += _cost(change)
            values = _dense_values(change) if spent <= DENSE_BUDGET else None
            yield Measured(layer, "measured", change.norm(), values, change.shape)


def read_change(file: ArrayFile, layer: FileLayer, layers: Layers) -> Change | State:
    """The change a layer makes by itself (a part of a fused layer: of its own rows), or why it can't be told.

    Of DoRA it is the change before the magnitudes are applied, which need the base model.
    """
    if layer.missing or not halves_fit(layer):
        return "incomplete"
    tensors = {tensor: file.read(key) for tensor, key in layer.keys.items()}
    if not all(np.isfinite(values).all() for values in tensors.values()):
        return "not_finite"
    tensors.pop("dora_scale", None)
    if layer.algorithm == "norm":
        return _vectors(tensors)
    whole = Layer(layer.name, layer.spelled, tensors)
    try:
        check_layer(whole)
        if needs_base(tensors) or layer.algorithm == "oft":
            return "needs_base"
        return change_of(whole, shape=own_shape(layer, layers))
    except UserError:
        return "broken"


def own_shape(layer: FileLayer, layers: Layers) -> tuple[int, ...] | None:
    """Shape of the rows a layer changes, where the model's or the file's is known."""
    shape = layers.weight_shape(layer)
    if shape and layer.rows and layer.name in layers.table:
        return (layer.rows[1] - layer.rows[0], *shape[1:])
    return shape


def singular_values(change: LowRank) -> Array:
    """Singular values of up @ down, falling, float64: right to 1e-3 of the largest (lowrank.svd: to 1e-10), at a third
    of the time.

    Their squares are the eigenvalues of (up' up)(down down'), or of L' (down down') L with up' up = L L' (Cholesky).
    """
    if not (change.rank and np.any(change.up) and np.any(change.down)):
        return np.zeros(1)
    gram, other = change.up.T @ change.up, (change.down @ change.down.T).astype(np.float64)
    try:
        root = np.linalg.cholesky(gram.astype(np.float64))
    except np.linalg.LinAlgError:  # columns that depend on each other
        return change.svd.values
    return np.sqrt(np.maximum(np.linalg.eigvalsh(root.T @ other @ root)[::-1], 0.0))


def _vectors(tensors: Mapping[str, Array]) -> Change | State:
    """A norm's vectors as one column, so that they have a norm like any other change."""
    parts = [values.reshape(-1) for name, values in tensors.items() if name in (*VECTORS, "diff")]
    column = np.concatenate(parts) if parts else np.empty(0)
    return Dense(column.reshape(-1, 1), (column.size, 1)) if column.size else "broken"


def _cost(change: Dense) -> float:
    small, large = sorted(flat_shape(change.shape))
    return 1.0 * small * small * large + 4.0 * small**3


def _dense_values(change: Dense) -> Array:
    """Singular values by the Gram matrix of the smaller side, float64: right to 1e-8 of the largest."""
    rows, columns = flat_shape(change.shape)
    matrix = change.array.reshape(rows, columns).astype(np.float64)
    gram = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    return np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0))
