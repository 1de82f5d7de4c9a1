"""GLoRA: a low-rank change, and one that passes through the weight itself (Chavan et al. 2023; LyCORIS)."""

import math

import numpy as np

from lora_core.errors import UserError
from lora_core.merge.algorithms.factors import differ, factored, matrix, product, scale, shape_text, tucker
from lora_core.merge.layer import Array, Change, Dense, Layer

A1, A2, B1, B2, BM = "a1.weight", "a2.weight", "b1.weight", "b2.weight", "bm.weight"


def change(layer: Layer, base: Array | None = None) -> Change:
    """alpha / R (b1 b2 + W a1 a2), with a1 (I, R), a2 (R, I), b1 (O, R), b2 (R, C), and bm between b1 and b2 (Tucker).

    Older files have alpha / R (b2 b1 + W a2 a1), with a1 (R, C), a2 (C, R), b1 (R, C), b2 (O, R). The shapes tell
    which; where they allow both (R = O = I), it is the newer one, as ComfyUI reads it.
    """
    assert base is not None
    a1, a2, b1, b2 = (matrix(layer, name) for name in (A1, A2, B1, B2))
    if BM not in layer.tensors and not _newer(a1, a2, b1, b2, base) and _older(a1, a2, b1, b2, base):
        weight = base.reshape(base.shape[0], -1).astype(np.float64)
        factor = scale(layer, a1.shape[0])
        return product(np.hstack([b2, weight @ a2]) * factor, np.vstack([b1, a1]), base.shape)
    if BM in layer.tensors:
        b1, b2 = tucker(layer, BM, b1, b2, (B1, B2))
    if not _newer(a1, a2, b1, b2, base):
        raise _misfit(layer, a1, b1, b2, base)
    return _through_weight(base, a1, a2, b1 * (factor := scale(layer, a1.shape[1])), b2, factor)


def _newer(a1: Array, a2: Array, b1: Array, b2: Array, base: Array) -> bool:
    rows, inputs = base.shape[:2]
    sides = (a1.shape[0], a2.shape[1], b1.shape[0], b2.shape[1])
    fits = sides == (inputs, inputs, rows, inputs * math.prod(base.shape[2:]))
    return fits and a1.shape[1] == a2.shape[0] and b1.shape[1] == b2.shape[0]


def _older(a1: Array, a2: Array, b1: Array, b2: Array, base: Array) -> bool:
    columns = base.size // base.shape[0]
    fits = (a1.shape[1], a2.shape[0], b1.shape[1], b2.shape[0]) == (columns, columns, columns, base.shape[0])
    return fits and a1.shape[0] == a2.shape[1] and b1.shape[0] == b2.shape[1]


def _misfit(layer: Layer, a1: Array, b1: Array, b2: Array, base: Array) -> UserError:
    """The four do not fit each other, or do but are of another weight."""
    for rows, columns, inputs in ((b1.shape[0], b2.shape[1], a1.shape[0]), (b2.shape[0], b1.shape[1], a1.shape[1])):
        if columns % inputs == 0 and (rows, columns) != (base.shape[0], base.size // base.shape[0]):
            found, wanted = shape_text((rows, columns)), shape_text(base.shape)
            return UserError("lora.other_shape", layer=layer.where, found=found, wanted=wanted)
    return differ(layer, A1, A2, B1, B2)


def _through_weight(base: Array, a1: Array, a2: Array, b1: Array, b2: Array, factor: float) -> Change:
    """b1 b2 + factor W a1 a2; of a convolution a1 a2 mixes the inputs and leaves the kernel's places alone.

    Its factors are sum_i W[o, i, k] a1[i, r] and a2[r, j] at equal k, of rank R K.
    """
    rows, inputs = base.shape[:2]
    kernel = math.prod(base.shape[2:])
    weight = base.reshape(rows, inputs, kernel).astype(np.float64)
    inside = np.einsum("oik,ir->ork", weight, a1, optimize=True) * factor
    rank = b1.shape[1] + a1.shape[1] * kernel
    if factored(rank, rows, inputs * kernel):
        up = np.hstack([b1, inside.reshape(rows, -1)])
        return product(up, np.vstack([b2, np.kron(a2, np.eye(kernel))]), base.shape)
    written = b1 @ b2 + np.einsum("ork,rj->ojk", inside, a2, optimize=True).reshape(rows, -1)
    return Dense(written.astype(np.float32), base.shape)
