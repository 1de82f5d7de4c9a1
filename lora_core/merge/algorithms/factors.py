"""What the algorithms share: a layer's tensors as matrices, its scale, and sentences for what does not fit.

Letters: O rows of the weight, I its inputs, K kernel height x width, C = I K its columns, R rank.
"""

import math
from collections.abc import Sequence

import numpy as np

from lora_core.errors import UserError
from lora_core.merge.layer import Array, Change, Dense, Layer
from lora_core.merge.lowrank import LowRank

MAX_ELEMENTS = 2**27
"""Numbers in the largest weight that is believed: twice that of FLUX's linear1 (21504 x 3072).

A file of a few kilobytes can describe a matrix of terabytes; it is refused before anything is allocated.
"""


def matrix(layer: Layer, tensor: str) -> Array:
    """A tensor (A, B, ...) as float64 (A, B ...). Raises UserError for one that is empty or no matrix."""
    return flat(layer, tensor).astype(np.float64, copy=False)


def flat(layer: Layer, tensor: str) -> Array:
    """As ``matrix``, in the tensor's own number format and without a copy."""
    values = layer.tensors[tensor]
    if values.ndim < 2:
        raise UserError("lora.bad_shape", layer=layer.where, tensor=tensor, shape=shape_text(values.shape))
    if not values.size:
        raise UserError("lora.rank_zero", layer=layer.where, tensor=tensor, shape=shape_text(values.shape))
    return values.reshape(values.shape[0], -1)


def scale(layer: Layer, rank: int) -> float:
    """alpha / rank; 1 without alpha (Hu et al. 2021, 4.1). Raises UserError for an alpha that is not one number."""
    if "alpha" not in layer.tensors:
        return 1.0
    alpha = layer.tensors["alpha"]
    if alpha.size != 1:
        raise UserError("lora.bad_alpha", layer=layer.where, shape=shape_text(alpha.shape))
    return float(alpha.reshape(-1)[0]) / rank


def differ(layer: Layer, *tensors: str) -> UserError:
    """The error for tensors whose sides do not fit together."""
    shapes = ", ".join(f"{tensor} {shape_text(layer.tensors[tensor].shape)}" for tensor in tensors)
    return UserError("lora.halves_differ", layer=layer.where, shapes=shapes)


def shape_text(shape: Sequence[int]) -> str:
    """(320, 8, 1, 1) as "320 x 8 x 1 x 1"."""
    return " x ".join(map(str, shape)) or "1"


def afford(layer: Layer, *sides: int) -> None:
    """Raises UserError before an array of such sides would be allocated that no model has."""
    if math.prod(sides) > MAX_ELEMENTS:
        raise UserError("lora.too_large", layer=layer.where, shape=shape_text(sides))


def factored(rank: int, rows: int, columns: int) -> bool:
    """Whether factors of a rank say more than the matrix written out."""
    return rank < min(rows, columns)


def tucker(layer: Layer, core: str, left: Array, right: Array, names: tuple[str, str]) -> tuple[Array, Array]:
    """Factors (O, A) and (A, I K) of sum_ab left[o, a] core[a, b, k] right[b, i], a convolution's Tucker form.

    ``names`` are the tensors behind ``left`` (O, A) and ``right`` (B, I), for errors.
    """
    values = layer.tensors[core]
    if values.ndim < 3 or not values.size:
        raise UserError("lora.bad_shape", layer=layer.where, tensor=core, shape=shape_text(values.shape))
    a, b = values.shape[:2]
    if left.shape[1] != a or right.shape[0] != b:
        raise differ(layer, names[0], core, names[1])
    kernel = math.prod(values.shape[2:])
    afford(layer, a, right.shape[1], kernel)
    by_kernel = values.reshape(a, b, kernel).astype(np.float64, copy=False).transpose(0, 2, 1)  # (A, K, B)
    down = (by_kernel @ right).transpose(0, 2, 1)  # (A, I, K)
    return left, down.reshape(a, -1)


def product(up: Array, down: Array, shape: Sequence[int]) -> Change:
    """up @ down as factors, or written out (float32) where these are no smaller."""
    if factored(up.shape[1], up.shape[0], down.shape[1]):
        return LowRank(up, down, tuple(shape))
    return Dense((up @ down).astype(np.float32), tuple(shape))
