"""Layers of the text encoders: CLIP as transformers and OpenCLIP name it, and T5. Underscored, without prefix."""

import re

_CLIP = re.compile(
    r"(?:text_model_)?(encoder_layers_\d+_(?:self_attn_(?:[qkv]|out)_proj|mlp_fc[12]|layer_norm[12])|final_layer_norm)"
)
_OLD_ATTENTION = re.compile(r"_self_attn(?:_processor)?_to_(q|k|v|out)(?:_lora|_0)?$")
_T5 = re.compile(r"encoder_block_\d+_layer_\d_(?:SelfAttention_[qkvo]|DenseReluDense_(?:wi_[01]|wo))")


def clip_layer(path: str) -> str | None:
    """The name in CLIPTextModel with ``text_model_`` in front, which transformers dropped in 5.6; None if no layer."""
    path = _OLD_ATTENTION.sub(r"_self_attn_\1_proj", path)
    if path == "text_projection":
        return path
    match = _CLIP.fullmatch(path)
    return f"text_model_{match[1]}" if match else None


def t5_layer(path: str) -> str | None:
    """The name in T5EncoderModel; None if there is no such layer."""
    return path if _T5.fullmatch(path) else None


_OPEN_CLIP = re.compile(r"transformer_resblocks_(\d+)_(attn_in_proj|attn_out_proj|mlp_c_fc|mlp_c_proj|ln_1|ln_2)")
_OPEN_CLIP_NAMES = {
    "attn_in_proj": ("self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj"),
    "attn_out_proj": ("self_attn_out_proj",),
    "mlp_c_fc": ("mlp_fc1",),
    "mlp_c_proj": ("mlp_fc2",),
    "ln_1": ("layer_norm1",),
    "ln_2": ("layer_norm2",),
}


def open_clip_layers(path: str) -> list[str]:
    """The layers of CLIPTextModel that one of OpenCLIP's is: three where query, key and value are one matrix.

    Their rows are equal parts of it, in this order. Empty for what is no layer. ``text_projection`` is none: OpenCLIP
    keeps it transposed.
    """
    if path == "ln_final":
        return ["text_model_final_layer_norm"]
    match = _OPEN_CLIP.fullmatch(path)
    return [f"text_model_encoder_layers_{match[1]}_{name}" for name in _OPEN_CLIP_NAMES[match[2]]] if match else []
