"""Layers of the FLUX.1 transformer: fused as Black Forest Labs wrote them, in parts as diffusers has them, and XLabs'.

Underscored, without prefix. H is the width, M that of the MLP.
"""

import re
from collections.abc import Mapping, Sequence

Rows = tuple[int, int]

H, M = 3072, 12288
_QKV: tuple[Rows, Rows, Rows] = ((0, H), (H, 2 * H), (2 * H, 3 * H))

DOUBLE: Mapping[str, Sequence[str]] = {
    "img_mod_lin": ("norm1_linear",),
    "img_attn_qkv": ("attn_to_q", "attn_to_k", "attn_to_v"),
    "img_attn_proj": ("attn_to_out_0",),
    "img_mlp_0": ("ff_net_0_proj",),
    "img_mlp_2": ("ff_net_2",),
    "txt_mod_lin": ("norm1_context_linear",),
    "txt_attn_qkv": ("attn_add_q_proj", "attn_add_k_proj", "attn_add_v_proj"),
    "txt_attn_proj": ("attn_to_add_out",),
    "txt_mlp_0": ("ff_context_net_0_proj",),
    "txt_mlp_2": ("ff_context_net_2",),
}
"""Layer of a double block -> its parts in diffusers, in the order of their rows."""
SINGLE: Mapping[str, Sequence[str]] = {
    "modulation_lin": ("norm_linear",),
    "linear1": ("attn_to_q", "attn_to_k", "attn_to_v", "proj_mlp"),
    "linear2": ("proj_out",),
}
TOP: Mapping[str, str] = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in_in_layer": "time_text_embed_timestep_embedder_linear_1",
    "time_in_out_layer": "time_text_embed_timestep_embedder_linear_2",
    "vector_in_in_layer": "time_text_embed_text_embedder_linear_1",
    "vector_in_out_layer": "time_text_embed_text_embedder_linear_2",
    "guidance_in_in_layer": "time_text_embed_guidance_embedder_linear_1",
    "guidance_in_out_layer": "time_text_embed_guidance_embedder_linear_2",
    "final_layer_linear": "proj_out",
    "final_layer_adaLN_modulation_1": "norm_out_linear",
}
SWAPPED = "final_layer_adaLN_modulation_1"
"""Shift before scale; diffusers' ``norm_out.linear`` has scale before shift."""

_XLABS: Mapping[str, tuple[str, Rows | None]] = {
    "processor_qkv_lora1": ("img_attn_qkv", None),
    "processor_qkv_lora2": ("txt_attn_qkv", None),
    "processor_proj_lora1": ("img_attn_proj", None),
    "processor_proj_lora2": ("txt_attn_proj", None),
    "processor_qkv_lora": ("linear1", (0, 3 * H)),
    "processor_proj_lora": ("linear2", None),
}
"""Modules that XLabs puts beside a block: 1 for the picture, 2 for the text, none in single blocks."""

_NUMBER = {"double": r"(1?[0-8]|9)", "single": r"([12]?\d|3[0-7])"}
"""19 and 38 blocks. Distilled models have fewer; none has more."""
_BLOCKS = {kind: re.compile(rf"{kind}_blocks_{number}_(.+)") for kind, number in _NUMBER.items()}
_DIFFUSERS_BLOCKS = {
    "double": re.compile(rf"transformer_blocks_{_NUMBER['double']}_(.+)"),
    "single": re.compile(rf"single_transformer_blocks_{_NUMBER['single']}_(.+)"),
}
_TABLES = {"double": DOUBLE, "single": SINGLE}


def _block(patterns: Mapping[str, re.Pattern[str]], path: str) -> tuple[str, str, str] | None:
    """(double or single, number, rest) of a path in a block."""
    for kind, pattern in patterns.items():
        if match := pattern.fullmatch(path):
            return kind, match[1], match[2]
    return None


def _by_part(kind: str, table: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], tuple[str, int]]:
    return {(kind, part): (layer, i) for layer, parts in table.items() for i, part in enumerate(parts)}


_PARTS = _by_part("double", DOUBLE) | _by_part("single", SINGLE)
_TOP_BACK = {theirs: ours for ours, theirs in TOP.items()}


def original(path: str) -> tuple[str, Rows | None] | None:
    """(layer, rows) of a name of Black Forest Labs or XLabs; None if it is neither."""
    if path in TOP:
        return path, None
    found = _block(_BLOCKS, path)
    if not found:
        return None
    kind, block, rest = found
    layer, rows = _XLABS.get(rest, (rest, None))
    return (f"{kind}_blocks_{block}_{layer}", rows) if layer in _TABLES[kind] else None


def part_of_layer(path: str) -> tuple[str, int] | None:
    """(layer, which of its parts) of a name of diffusers; None if it is none."""
    if path in _TOP_BACK:
        return _TOP_BACK[path], 0
    found = _block(_DIFFUSERS_BLOCKS, path)
    if not found or (found[0], found[2]) not in _PARTS:
        return None
    kind, block, rest = found
    layer, nth = _PARTS[kind, rest]
    return f"{kind}_blocks_{block}_{layer}", nth


def parts(layer: str) -> list[str]:
    """The names diffusers has for a layer, in the order of their rows: one, or several of a fused one.

    Raises ValueError for a layer that is not in the model.
    """
    if layer in TOP:
        return [TOP[layer]]
    found = _block(_BLOCKS, layer)
    if not found or found[2] not in _TABLES[found[0]]:
        raise ValueError(layer)
    kind, block, rest = found
    prefix = "transformer_blocks" if kind == "double" else "single_transformer_blocks"
    return [f"{prefix}_{block}_{part}" for part in _TABLES[kind][rest]]


def part_rows(layer: str, part: int) -> Rows | None:
    """The rows of the real model's layer that its nth part is; None where the part is all of it."""
    if layer.endswith("_qkv"):
        return _QKV[part]
    if layer.endswith("_linear1"):
        return (*_QKV, (3 * H, 3 * H + M))[part]
    return None
