"""FLUX.1 weights: from the names of Black Forest Labs, or of diffusers, to the ones of our network.

Our network is diffusers' with query, key, value (and, in single blocks, the first layer of the MLP) in one linear layer
each, as Black Forest Labs wrote it: their files need nothing but other names, and a LoRA's layers are real ones. The
shapes say how the networks are built; what no shape says stands in ``bundled/flux``.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lora_core.families.sd_keys import Shapes, State

TRANSFORMER = "model.diffusion_model."
_BUNDLED = Path(__file__).parent / "bundled" / "flux"

_TOP: Mapping[str, str] = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
_DOUBLE: Mapping[str, str] = {
    "img_mod.lin": "norm1.linear",
    "img_attn.qkv": "attn.to_qkv",
    "img_attn.proj": "attn.to_out.0",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mod.lin": "norm1_context.linear",
    "txt_attn.qkv": "attn.to_added_qkv",
    "txt_attn.proj": "attn.to_add_out",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
_SINGLE: Mapping[str, str] = {"linear1": "linear1", "linear2": "proj_out", "modulation.lin": "norm.linear"}
_NORMS: Mapping[str, str] = {
    "img_attn.norm.query_norm.scale": "attn.norm_q.weight",
    "img_attn.norm.key_norm.scale": "attn.norm_k.weight",
    "txt_attn.norm.query_norm.scale": "attn.norm_added_q.weight",
    "txt_attn.norm.key_norm.scale": "attn.norm_added_k.weight",
    "norm.query_norm.scale": "attn.norm_q.weight",
    "norm.key_norm.scale": "attn.norm_k.weight",
}
_BLOCKS = {
    "double_blocks": ("transformer_blocks", _DOUBLE),
    "single_blocks": ("single_transformer_blocks", _SINGLE),
}
_ORIGINAL = {ours: (theirs, table) for theirs, (ours, table) in _BLOCKS.items()}
_SWAPPED = "final_layer.adaLN_modulation.1."
"""Shift before scale there, scale before shift in diffusers."""

_JOINED: Sequence[tuple[str, str, Sequence[str]]] = (
    (r"(transformer_blocks\.\d+)\.attn", "attn.to_qkv", ("attn.to_q", "attn.to_k", "attn.to_v")),
    (
        r"(transformer_blocks\.\d+)\.attn",
        "attn.to_added_qkv",
        ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    ),
    (
        r"(single_transformer_blocks\.\d+)\.attn",
        "linear1",
        ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    ),
)
"""Where, the joined layer, and the layers of diffusers that it is made of, in the order of their rows."""


def bundled_config(part: str) -> dict[str, Any]:
    """Configuration of FLUX.1 dev: transformer, vae or text_encoder_2."""
    return json.loads((_BUNDLED / f"{part}.json").read_text(encoding="utf-8"))


# ---- the transformer -------------------------------------------------------------------------------------------------


def is_original(keys: Mapping[str, Any]) -> bool:
    """Whether a transformer's tensors (without prefix) have the names of Black Forest Labs."""
    return any(key.startswith(("double_blocks.", "single_blocks.", "img_in.")) for key in keys)


def from_original(state: State) -> State:
    """Our names for a transformer in the names of Black Forest Labs. Keys it does not know stay as they are."""
    return {
        _from_original(key): _swapped(tensor) if key.startswith(_SWAPPED) else tensor for key, tensor in state.items()
    }


def _from_original(key: str) -> str:
    if match := re.fullmatch(r"(double_blocks|single_blocks)\.(\d+)\.(.+)", key):
        blocks, table = _BLOCKS[match[1]]
        layer, _, kind = match[3].rpartition(".")
        rest = _NORMS.get(match[3]) or (f"{table[layer]}.{kind}" if layer in table else None)
        return f"{blocks}.{match[2]}.{rest}" if rest else key
    layer, _, kind = key.rpartition(".")
    return f"{_TOP[layer]}.{kind}" if layer in _TOP else key


def _swapped(tensor: torch.Tensor) -> torch.Tensor:
    shift, scale = tensor.chunk(2)
    return torch.cat([scale, shift])


def from_diffusers(state: State) -> State:
    """Our names for a transformer in those of diffusers: what belongs together is joined, the rest stays."""
    state = dict(state)
    for where, joined, parts in _JOINED:
        for block in sorted({match[1] for key in state if (match := re.match(where, key))}):
            for kind in ("weight", "bias"):
                names = [f"{block}.{part}.{kind}" for part in parts]
                if all(name in state for name in names):
                    state[f"{block}.{joined}.{kind}"] = torch.cat([state.pop(name) for name in names])
    return state


def transformer_config(shapes: Shapes) -> dict[str, Any]:
    """Configuration of a transformer with our names. Raises KeyError for a shape that is not there."""
    width, channels = shapes["x_embedder.weight"]
    head = shapes["transformer_blocks.0.attn.norm_q.weight"][0]
    return bundled_config("transformer") | {
        "in_channels": channels,
        "num_layers": _count(shapes, r"transformer_blocks\.(\d+)\."),
        "num_single_layers": _count(shapes, r"single_transformer_blocks\.(\d+)\."),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
        "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in shapes,
        "axes_dims_rope": rope_axes(head),
    }


def rope_axes(head: int) -> list[int]:
    """How many of a head's numbers tell of index, row and column: 16, 56 and 56 of 128, and so in proportion."""
    index = head // 8
    return [index, (head - index) // 2, (head - index) // 2]


def _count(shapes: Shapes, pattern: str) -> int:
    """1 + the largest number that stands at the group of the pattern, 0 if none does."""
    return max((int(m[1]) + 1 for key in shapes if (m := re.match(pattern, key))), default=0)


def original_layer(path: str) -> str | None:
    """The name Black Forest Labs gave a linear layer in a block of ours; None for a layer outside the blocks."""
    match = re.fullmatch(r"(transformer_blocks|single_transformer_blocks)\.(\d+)\.(.+)", path)
    if not match:
        return None
    blocks, table = _ORIGINAL[match[1]]
    theirs = next((theirs for theirs, ours in table.items() if ours == match[3]), None)
    return f"{blocks}.{match[2]}.{theirs}" if theirs else None


# ---- T5 --------------------------------------------------------------------------------------------------------------


def t5_config(shapes: Shapes) -> dict[str, Any]:
    """Configuration of T5's encoder with transformers' names. Raises KeyError for a shape that is not there."""
    buckets, heads = shapes["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    vocabulary, width = shapes["shared.weight"]
    return bundled_config("text_encoder_2") | {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_ff": shapes["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"][0],
        "d_kv": shapes["encoder.block.0.layer.0.SelfAttention.q.weight"][0] // heads,
        "num_heads": heads,
        "num_layers": _count(shapes, r"encoder\.block\.(\d+)\."),
        "relative_attention_num_buckets": buckets,
    }


def rename_t5(state: State) -> State:
    """Both names of the word table, whichever a file has; what only the decoder and the web UIs read is left out."""
    state = {key: t for key, t in state.items() if not key.startswith(("decoder.", "lm_head.", "logit_scale"))}
    words = state.get("shared.weight", state.get("encoder.embed_tokens.weight"))
    return state if words is None else state | {"shared.weight": words, "encoder.embed_tokens.weight": words}
