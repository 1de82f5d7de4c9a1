"""Stable Diffusion weights: from the names of the original (LDM, SAI) code to those of diffusers and transformers.

The shapes say how the networks are built; what no shape says (groups, activation, the VAE's scale) is taken from a
model of the family, whose configurations stand in ``bundled``: Stable Diffusion 1.5, 2.1 and SDXL base 1.0.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]
State = dict[str, Tensor]
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
_BUNDLED = Path(__file__).parent / "bundled"
_HEAD = 64
"""Width of one attention head in every CLIP, and in the U-Nets from Stable Diffusion 2 on."""


def bundled_config(part: str, family: str = "sd1") -> dict[str, Any]:
    """Configuration of a family's model: unet, vae, text_encoder, text_encoder_2 or scheduler."""
    return json.loads((_BUNDLED / family / f"{part}.json").read_text(encoding="utf-8"))


_UNUSED = ("position_ids", "logit_scale")
"""Found in files of some tools beside the text encoder: a count from 0 to 76, and the picture side of CLIP."""
_PROJECTION = "text_projection.weight"


def part_keys(keys: Iterable[str], prefix: str, *, projection: bool = False) -> list[str]:
    """Keys of one network, without what nothing reads: the text's projection only where asked for.

    EMA copies have other prefixes.
    """
    unused = _UNUSED if projection else (*_UNUSED, _PROJECTION)
    return [key for key in keys if key.startswith(prefix) and not key.endswith(unused)]


def _count(shapes: Shapes, pattern: str) -> int:
    """1 + the largest number that stands at the group of the pattern, 0 if none does."""
    return max((int(m[1]) + 1 for key in shapes if (m := re.match(pattern, key))), default=0)


def layer_count(names: Iterable[str], prefix: str) -> int:
    """How many numbered layers there are behind a prefix."""
    return _count(dict.fromkeys(names, ()), re.escape(prefix) + r"(\d+)\.")


def unet_config(shapes: Shapes, family: str = "sd1", *, pooled: int = 0) -> dict[str, Any]:
    """Configuration of a U-Net with LDM names (without prefix).

    ``pooled``: width of the text as a whole that SDXL's reads beside the six numbers of the picture's frame.
    """
    inputs = _count(shapes, r"input_blocks\.(\d+)\.")
    downsamplers = [i for i in range(inputs) if f"input_blocks.{i}.0.op.weight" in shapes]
    layers = (downsamplers[0] if downsamplers else inputs) - 1
    firsts = range(1, inputs, layers + 1)
    channels = [shapes[f"input_blocks.{i}.0.out_layers.3.weight"][0] for i in firsts]
    depths = [_count(shapes, rf"input_blocks\.{i}\.1\.transformer_blocks\.(\d+)\.") for i in firsts]
    to_k = next((s for key, s in shapes.items() if key.endswith("attn2.to_k.weight")), (0, 768))
    found = bundled_config("unet", family) | {
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "cross_attention_dim": to_k[1],
        "transformer_layers_per_block": [max(1, depth) for depth in depths] if max(depths) > 1 else 1,
    }
    if family != "sd1":
        found["attention_head_dim"] = [max(1, width // _HEAD) for width in channels]
    if family == "sdxl":
        embedded = shapes["label_emb.0.0.weight"][1]
        found |= {
            "projection_class_embeddings_input_dim": embedded,
            "addition_time_embed_dim": (embedded - pooled) // FRAME_NUMBERS,
        }
    return found


FRAME_NUMBERS = 6
"""What SDXL is told of a picture's frame: original height and width, crop's top and left, target height and width."""


def vae_config(shapes: Shapes, family: str = "sd1") -> dict[str, Any]:
    """Configuration of an autoencoder with LDM names (without prefix)."""
    levels = _count(shapes, r"encoder\.down\.(\d+)\.")
    return bundled_config("vae", family) | {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": [shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels)],
        "layers_per_block": _count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def text_config(shapes: Shapes, family: str = "sd1", part: str = "text_encoder") -> dict[str, Any]:
    """Configuration of a CLIP text encoder with transformers' names (without ``text_model.``)."""
    vocabulary, width = shapes["embeddings.token_embedding.weight"]
    found = bundled_config(part, family) | {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes["encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": _count(shapes, r"encoder\.layers\.(\d+)\."),
        "num_attention_heads": max(1, width // _HEAD),
        "max_position_embeddings": shapes["embeddings.position_embedding.weight"][0],
    }
    projection = shapes.get("text_projection.weight")
    return found | ({"projection_dim": projection[0]} if projection else {})


def convert_unet(state: State, config: Mapping[str, Any]) -> State:
    """diffusers' names for a U-Net in LDM names without prefix. Keys it does not know stay as they are."""
    converted = convert_ldm_unet_checkpoint({UNET + key: tensor for key, tensor in state.items()}, config)
    return converted | _left_over(state, converted)


def convert_vae(state: State, config: Mapping[str, Any]) -> State:
    """diffusers' names for an autoencoder in LDM names without prefix. Keys it does not know stay as they are.

    Attention that is written as 1x1 convolutions becomes linear layers.
    """
    converted = convert_ldm_vae_checkpoint(state, config)
    return converted | _left_over(state, converted)


def _left_over(state: State, converted: State) -> State:
    """Tensors that the conversion passed over: the strict loading names them instead of dropping them."""
    used = {tensor.data_ptr() for tensor in converted.values()}
    return {key: tensor for key, tensor in state.items() if tensor.data_ptr() not in used}


def rename_text(state: State) -> State:
    """One of the two spellings of CLIP, with and without ``text_model.``: the one without."""
    return {key.removeprefix("text_model."): tensor for key, tensor in state.items()}


_OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def rename_old_vae(state: State) -> State:
    """The names that diffusers gave the VAE's attention before 2023, as in the folder of Stable Diffusion 1.5."""
    pattern = r"(attentions\.0\.)(query|key|value|proj_attn)\."
    return {re.sub(pattern, lambda m: f"{m[1]}{_OLD_VAE_ATTENTION[m[2]]}.", k): tensor for k, tensor in state.items()}


def diffusers_vae_config(shapes: Shapes, family: str = "sd1") -> dict[str, Any]:
    """Configuration of an autoencoder with diffusers names."""
    levels = _count(shapes, r"encoder\.down_blocks\.(\d+)\.")
    return bundled_config("vae", family) | {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": [shapes[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels)],
        "layers_per_block": _count(shapes, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }
