"""Names inside a LoRA file: the ones AUTOMATIC1111, Forge, ComfyUI, diffusers and sd-scripts read.

A layer's name is its place in the model with ``_`` for ``.`` and a prefix for the part of the model; behind it, after
a dot, stands which of the layer's tensors it is.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor

from lora_core.errors import UserError

DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"


def key(layer: str, tensor: str) -> str:
    """``key("lora_unet_mid_block_...", "alpha")`` is the key in the file."""
    return f"{layer}.{tensor}"


def by_layer(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of a LoRA file, layer by layer."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        layer, _, kind = name.partition(".")
        layers.setdefault(layer, {})[kind] = tensor
    return layers


def check_same_layers(found: Iterable[str], wanted: Iterable[str]) -> None:
    """Raises UserError naming a layer that is in the file but not in the model, or the other way round."""
    found, wanted = set(found), set(wanted)
    if extra := sorted(found - wanted):
        raise UserError("adapter.unexpected_layer", layer=extra[0], count=len(extra))
    if missing := sorted(wanted - found):
        raise UserError("adapter.missing_layer", layer=missing[0], count=len(missing))
