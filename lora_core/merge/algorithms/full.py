"""Full: the change itself, as LyCORIS' "full" and extraction tools write it. alpha has no part."""

from lora_core.merge.algorithms.factors import afford, flat
from lora_core.merge.layer import Array, Dense, Layer


def change(layer: Layer, base: Array | None = None) -> Dense:
    """diff (O, I) or (O, I, h, w)."""
    flat(layer, "diff")
    diff = layer.tensors["diff"]
    afford(layer, *diff.shape)
    return Dense(diff, diff.shape)
