"""LoKr: the Kronecker product of a small and a larger matrix (Edalati et al. 2022, KronA; LyCORIS)."""

from dataclasses import dataclass

import numpy as np

from lora_core.merge.algorithms.factors import afford, differ, factored, matrix, scale, tucker
from lora_core.merge.layer import Array, Change, Dense, Layer
from lora_core.merge.lowrank import LowRank


@dataclass(frozen=True)
class _Side:
    """One of the two matrices as factors (A, R) and (R, B); of a full one a factor is the identity."""

    left: Array
    right: Array
    kernel: tuple[int, ...] = ()

    @property
    def rank(self) -> int:
        return self.left.shape[1]


def change(layer: Layer, base: Array | None = None) -> Change:
    """scale w1 (x) w2; w1 (A, B), w2 (C, D) or (C, D, h, w), each full or as factors w_a w_b, w2 also as Tucker.

    scale is alpha / R if a matrix is given as factors, R being the rank of w2's (of w1's if w2 is full). If both are
    full, alpha counts for nothing: LyCORIS then sets scale to 1, and ComfyUI reads files that way.
    kron(a b, a' b') = kron(a, a') kron(b, b'): the answer is factors while their rank is less than the sides.
    """
    first, second = _side(layer, "1"), _side(layer, "2")
    factor = _scale(layer)
    rows = first.left.shape[0] * second.left.shape[0]
    columns = first.right.shape[1] * second.right.shape[1]
    afford(layer, rows, columns)
    shape = _shape(rows, columns, second.kernel)
    if factored(first.rank * second.rank, rows, columns):
        return LowRank(np.kron(first.left, second.left) * factor, np.kron(first.right, second.right), shape)
    product = np.kron((first.left @ first.right) * factor, second.left @ second.right)
    return Dense(product.astype(np.float32), shape)


def _scale(layer: Layer) -> float:
    for side in ("lokr_w2", "lokr_w1"):
        if side not in layer.tensors:
            return scale(layer, layer.tensors[f"{side}_b"].shape[0])
    return 1.0


def _side(layer: Layer, side: str) -> _Side:
    full, names = f"lokr_w{side}", (f"lokr_w{side}_a", f"lokr_w{side}_b")
    if full in layer.tensors:
        return _full(matrix(layer, full), layer.tensors[full].shape[2:])
    a, b = (matrix(layer, name) for name in names)
    core = f"lokr_t{side}"
    if core in layer.tensors:
        return _Side(*tucker(layer, core, a.T, b, names), layer.tensors[core].shape[2:])
    if a.shape[1] != b.shape[0]:
        raise differ(layer, *names)
    return _Side(a, b)


def _full(values: Array, kernel: tuple[int, ...]) -> _Side:
    rows, columns = values.shape
    if rows <= columns:
        return _Side(np.eye(rows), values, kernel)
    return _Side(values, np.eye(columns), kernel)


def _shape(rows: int, columns: int, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """A convolution given as w2_a w2_b looks like a linear layer."""
    return (rows, columns // int(np.prod(kernel)), *kernel) if kernel else (rows, columns)
