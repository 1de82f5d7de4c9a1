"""The first half of a layer's name: which network of the model it is in, and where in it.

Everything is compared with ``_`` for ``.``, so that dotted and underscored spellings are one. ``dotted`` goes back.
"""

import re
from typing import Literal

Part = Literal["unet", "te1", "te2", "te3"]
"""Denoiser and text encoders; te3 is T5 wherever it is."""

_WRAPPERS = re.compile(r"(?:base_model_model_|lycoris_|lora_)+")
"""In front of anything: PEFT's model classes, the prefixes of LyCORIS and kohya."""

_PREFIXES: tuple[tuple[Part, re.Pattern[str]], ...] = (
    ("te3", re.compile(r"(?:te3|text_encoder_3|(?:text_encoders_)?t5xxl(?:_transformer)?)_")),
    (
        "te2",
        re.compile(r"(?:te2|text_encoder_2|(?:text_encoders_)?clip_g(?:_transformer)?|conditioner_embedders_1_model)_"),
    ),
    (
        "te1",
        re.compile(
            r"(?:te1?|text_encoder|(?:text_encoders_)?clip_[lh](?:_transformer)?"
            r"|conditioner_embedders_0_transformer|cond_stage_model_(?:transformer|model))_"
        ),
    ),
    ("unet", re.compile(r"(?:unet|(?:model_)?diffusion_model|transformer(?!_blocks_\d|_resblocks_))_")),
)
_BARE: tuple[tuple[Part, re.Pattern[str]], ...] = (
    ("te3", re.compile(r"encoder_block_\d")),
    ("te1", re.compile(r"text_model_|encoder_layers_\d|transformer_resblocks_\d")),
)
"""Without a prefix: by what comes first. All else is the denoiser's."""


def split_part(spelled: str) -> tuple[Part, str]:
    """(network, path in it with underscores) of a layer or weight in any spelling.

    Never fails: the path may be nonsense.
    """
    path = spelled.replace(".", "_")
    if wrapper := _WRAPPERS.match(path):
        path = path[wrapper.end() :]
    for part, prefix in _PREFIXES:
        if match := prefix.match(path):
            path = path[match.end() :].removeprefix("base_model_model_")
            return ("te3" if path.startswith("encoder_block_") else part), path
    return next((part for part, start in _BARE if start.match(path)), "unet"), path


_WORDS = (
    # blocks of diffusers' U-Net
    "down_blocks|up_blocks|mid_block|transformer_blocks|to_q|to_k|to_v|to_out|proj_in|proj_out|time_emb_proj"
    "|conv_shortcut|conv_in|conv_out|conv_norm_out|time_embedding|add_embedding|linear_1|linear_2"
    # FLUX in diffusers
    "|single_transformer_blocks|norm1_context|ff_context|norm_out|add_q_proj|add_k_proj|add_v_proj|to_add_out|proj_mlp"
    "|x_embedder|context_embedder|time_text_embed|timestep_embedder|text_embedder|guidance_embedder"
    # text encoders
    "|text_model|self_attn|q_proj|k_proj|v_proj|out_proj|layer_norm1|layer_norm2|final_layer_norm|text_projection"
    "|wi_0|wi_1"
)
_WORD = re.compile("(?:" + "|".join(sorted(_WORDS.split("|"), key=len, reverse=True)) + r")(?=_|$)|[^_]+")


def dotted(path: str) -> str:
    """A path of diffusers or transformers with dots again: ``mid_block_attentions_0`` -> ``mid_block.attentions.0``.

    No rule tells which underscores are part of a word, so the words that have some are listed.
    """
    return ".".join(_WORD.findall(path))
