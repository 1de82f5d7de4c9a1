"""IA3: one factor for each output or input of a layer (Liu et al. 2022; LyCORIS)."""

import numpy as np

from lora_core.errors import UserError
from lora_core.merge.algorithms.factors import shape_text
from lora_core.merge.layer import Array, Dense, Layer


def change(layer: Layer, base: Array | None = None) -> Dense:
    """W * weight, along the inputs where ``on_input`` says so, else along the outputs. alpha has no part."""
    assert base is not None
    weight, on_input = layer.tensors["weight"], layer.tensors["on_input"]
    if on_input.size != 1:
        raise UserError("lora.bad_shape", layer=layer.where, tensor="on_input", shape=shape_text(on_input.shape))
    side = 1 if on_input.reshape(-1)[0] else 0
    if weight.size != base.shape[side]:
        found, wanted = shape_text(weight.shape), shape_text(base.shape)
        raise UserError("lora.other_shape", layer=layer.where, found=found, wanted=wanted)
    along = [1] * base.ndim
    along[side] = -1
    return Dense((base * weight.reshape(along)).astype(np.float32), base.shape)
