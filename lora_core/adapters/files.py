"""LoRA files: written whole or not at all, with the hashes by which other programs know them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from lora_core.adapters.network import AdapterNetwork
from lora_core.io.safetensors import read_tensors, save_atomic, with_lora_hashes

PRECISIONS: dict[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16, "float": torch.float32}


def save_lora(
    network: AdapterNetwork, metadata: Mapping[str, str], path: Path, precision: Literal["fp16", "bf16", "float"]
) -> None:
    """Writes the network as AUTOMATIC1111, Forge, ComfyUI, diffusers and sd-scripts read it.

    Raises UserError when it cannot be written; a file that stood there before is then still whole.
    """
    state = network.state_dict_kohya(PRECISIONS[precision])
    save_atomic(state, with_lora_hashes(state, metadata), path)


def load_lora(network: AdapterNetwork, path: Path) -> None:
    """Takes over a file's numbers into a network of the same layers, rank and alpha; else raises UserError."""
    network.load_kohya(read_tensors(path))
