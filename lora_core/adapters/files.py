"""LoRA files: written whole or not at all, with the hashes by which other programs know them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save
from torch import Tensor

from lora_core.adapters.network import AdapterNetwork
from lora_core.io.hashes import LEGACY_LENGTH, LEGACY_START
from lora_core.io.safetensors import read_tensors, save_atomic

PRECISIONS: dict[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16, "float": torch.float32}


def save_lora(
    network: AdapterNetwork, metadata: Mapping[str, str], path: Path, precision: Literal["fp16", "bf16", "float"]
) -> None:
    """Writes the network as AUTOMATIC1111, Forge, ComfyUI, diffusers and sd-scripts read it.

    Raises UserError when it cannot be written; a file that stood there before is then still whole.
    """
    state = network.state_dict_kohya(PRECISIONS[precision])
    save_atomic(state, {**metadata, **sshs_hashes(state, metadata)}, path)


def load_lora(network: AdapterNetwork, path: Path) -> None:
    """Takes over a file's numbers into a network of the same layers, rank and alpha; else raises UserError."""
    network.load_kohya(read_tensors(path))


def sshs_hashes(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The two hashes of a LoRA in the way of sd-scripts, over the file as it would be with its ss_* metadata alone.

    ``sshs_model_hash`` is the sha256 of the tensors' bytes, so that editing metadata keeps it; ``sshs_legacy_hash`` is
    that of 64 KiB at 1 MiB, header included.
    """
    file = save(dict(state), {key: value for key, value in metadata.items() if key.startswith("ss_")})
    tensors = 8 + int.from_bytes(file[:8], "little")
    legacy = file[LEGACY_START : LEGACY_START + LEGACY_LENGTH]
    return {
        "sshs_model_hash": hashlib.sha256(memoryview(file)[tensors:]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(legacy).hexdigest()[:8],
    }
