"""DoRA: the changed weight brought to a trained length (Liu et al. 2024), on top of any other algorithm."""

import numpy as np

from lora_core.errors import UserError
from lora_core.merge.algorithms.factors import shape_text
from lora_core.merge.layer import Array, Change, Dense, Layer
from lora_core.merge.lowrank import LowRank

MAGNITUDE = "dora_scale"


def decompose(layer: Layer, inner: Change, base: Array) -> Dense:
    """W' - W with W' = m (W + D) / |W + D| (equation 5 of the paper); D is the inner algorithm's change.

    The shape of m says over what lengths are taken: (O, 1, ...) or (O,) each output, as PEFT and newer LyCORIS have it,
    (1, I, ...) each input, as older LyCORIS. With s = m / |W + D| it is s D + (s - 1) W, which cancels nothing.
    """
    weight = base.astype(np.float64).reshape(inner.shape)
    delta = _written_out(inner)
    changed = weight + delta
    magnitude = _magnitude(layer, inner.shape)
    others = tuple(axis for axis in range(changed.ndim) if magnitude.shape[axis] == 1)
    length = np.sqrt(np.square(changed).sum(axis=others, keepdims=True))
    s = np.divide(magnitude, length, out=np.ones_like(magnitude), where=length > 0)
    return Dense((s * delta + (s - 1) * weight).astype(np.float32), inner.shape)


def _written_out(change: Change) -> Array:
    if isinstance(change, LowRank):
        return (change.up.astype(np.float64, copy=False) @ change.down).reshape(change.shape)
    return change.array.astype(np.float64, copy=False).reshape(change.shape)


def _magnitude(layer: Layer, shape: tuple[int, ...]) -> Array:
    """m as (O, 1, ...) or (1, I, 1, ...), float64."""
    m = layer.tensors[MAGNITUDE].astype(np.float64, copy=False)
    if m.size == shape[0] and (m.ndim <= 1 or m.shape[0] == shape[0]):
        return m.reshape(-1, *[1] * (len(shape) - 1))
    if m.size == shape[1] and m.shape[:2] == (1, shape[1]):
        return m.reshape(1, -1, *[1] * (len(shape) - 2))
    found, wanted = f"{MAGNITUDE} {shape_text(m.shape)}", shape_text(shape)
    raise UserError("lora.other_shape", layer=layer.where, found=found, wanted=wanted)
