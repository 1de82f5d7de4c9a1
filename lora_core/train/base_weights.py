"""Merging LoRAs into the model before training starts, so that the new one is learned on top of them."""

import torch

from lora_core import base_weights
from lora_core.adapters import AdapterNetwork
from lora_core.errors import UserError
from lora_core.families.base import Components, ModelFamily
from lora_core.families.compact import write_weight
from lora_core.io.safetensors import read_tensors


@torch.no_grad()
def merge_base_weights(text: str, family: ModelFamily, components: Components) -> None:
    """Writes each file's change into the weights, one file after the other, in float32 with one rounding each.

    Text encoders are read only for files that change them. Raises UserError naming a file that does not fit.
    """
    for source in base_weights.parse(text):
        state = read_tensors(source.path)
        text_parts = family.trainable_text_parts if any(key.startswith("lora_te") for key in state) else ()
        targets = family.adapter_targets(components, text_parts=text_parts, convolutions=True)
        try:
            network = AdapterNetwork.from_kohya(targets, state)
        except UserError as error:
            raise UserError("base_weights.does_not_fit", path=source.path, error=str(error)) from error
        network.multiplier = source.multiplier
        for adapter in network:
            write_weight(adapter.layer, adapter.apply_to(adapter.layer.weight))
        for part in {adapter.part for adapter in network}:
            components.keep(part)
