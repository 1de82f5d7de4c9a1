"""LoRA (Hu et al. 2021) and LoCon, the same for convolutions, also with a convolution in the middle (Tucker)."""

import numpy as np

from lora_core.merge.algorithms.factors import afford, differ, flat, scale, tucker
from lora_core.merge.layer import Array, Layer
from lora_core.merge.lowrank import LowRank

DOWN, UP, MID, BIAS = "lora_down.weight", "lora_up.weight", "lora_mid.weight", "lora_up.bias"


def change(layer: Layer, base: Array | None = None) -> LowRank:
    """alpha / R up @ down; down (R, I) or (R, I, h, w), up (O, R) or (O, R, 1, 1).

    With mid (R, R, h, w) and down (R, I, 1, 1): alpha / R sum_nm up[o, n] mid[n, m, h, w] down[m, i]. The factors keep
    the file's numbers as they are where alpha / R is 1.
    """
    up, down = flat(layer, UP), flat(layer, DOWN)
    factor = scale(layer, down.shape[0])
    shape = (up.shape[0], *layer.tensors[DOWN].shape[1:])
    if MID in layer.tensors:
        if down.shape[1] != shape[1]:
            raise differ(layer, MID, DOWN)
        up, down = tucker(layer, MID, up, down, (UP, DOWN))
        shape = (up.shape[0], shape[1], *layer.tensors[MID].shape[2:])
    elif up.shape[1] != down.shape[0]:
        raise differ(layer, UP, DOWN)
    afford(layer, *shape)
    return LowRank(up if factor == 1 else up.astype(np.float64) * factor, down, shape)


def bias(layer: Layer) -> Array:
    """alpha / R b, what PEFT's lora_bias adds to the layer's bias: up down x + b is scaled as a whole."""
    return layer.tensors[BIAS] * np.float32(scale(layer, flat(layer, DOWN).shape[0]))
