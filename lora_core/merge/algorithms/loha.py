"""LoHa: the elementwise product of two low-rank matrices (Hyeon-Woo et al. 2022, FedPara; LyCORIS)."""

import math

import numpy as np

from lora_core.merge.algorithms.factors import afford, differ, factored, matrix, scale, tucker
from lora_core.merge.layer import Array, Change, Dense, Layer
from lora_core.merge.lowrank import LowRank


def change(layer: Layer, base: Array | None = None) -> Change:
    """alpha / R (w1_a w1_b) * (w2_a w2_b); w_a (O, R), w_b (R, C).

    The product of factors a (O, P) b (P, C) and a' (O, Q) b' (Q, C) has the factors a[o, p] a'[o, q] and
    b[p, c] b'[q, c], of rank P Q (row-wise Khatri-Rao product); those are the answer while P Q is less than the sides.
    """
    factor = scale(layer, matrix(layer, "hada_w1_b").shape[0])
    (up1, down1), (up2, down2) = _factors(layer, "1"), _factors(layer, "2")
    rows, columns = up1.shape[0], down1.shape[1]
    if (rows, columns) != (up2.shape[0], down2.shape[1]):
        raise differ(layer, "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    shape = _shape(layer, rows, columns)
    afford(layer, rows, columns)
    rank = up1.shape[1] * up2.shape[1]
    if not factored(rank, rows, columns):
        return Dense(((up1 @ down1) * (up2 @ down2) * factor).astype(np.float32), shape)
    up = (up1[:, :, None] * up2[:, None, :]).reshape(rows, rank)
    down = (down1[:, None, :] * down2[None, :, :]).reshape(rank, columns)
    return LowRank(up * factor, down, shape)


def _factors(layer: Layer, side: str) -> tuple[Array, Array]:
    """(O, R) and (R, C) of one of the two matrices; Tucker: w_a (R, O), w_b (R, I), t (R, R, h, w)."""
    names = f"hada_w{side}_a", f"hada_w{side}_b"
    a, b = (matrix(layer, name) for name in names)
    if f"hada_t{side}" in layer.tensors:
        return tucker(layer, f"hada_t{side}", a.T, b, names)
    if a.shape[1] != b.shape[0]:
        raise differ(layer, *names)
    return a, b


def _shape(layer: Layer, rows: int, columns: int) -> tuple[int, ...]:
    """With Tucker the file tells the kernel; else a convolution looks like a linear layer."""
    if "hada_t1" not in layer.tensors:
        return rows, columns
    kernel = layer.tensors["hada_t1"].shape[2:]
    return rows, columns // math.prod(kernel), *kernel
