"""Layers of the Stable Diffusion U-Nets: blocks as diffusers and as the original code (LDM, SAI) count them.

Underscored, without prefix. L is layers per block, 2 in every real model. A level of the original code is L + 1 entries
of ``input_blocks`` (L pairs of resnet and transformer, then a downsampler) and as many of ``output_blocks``.
"""

import re

_TOP = {
    "input_blocks_0_0": "conv_in",
    "out_0": "conv_norm_out",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
}
_RESNET = {
    "in_layers_0": "norm1",
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_0": "norm2",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
}
_TOP_BACK = {ours: theirs for theirs, ours in _TOP.items()}
_RESNET_BACK = {ours: theirs for theirs, ours in _RESNET.items()}
_TRANSFORMER = (
    r"(?:norm|proj_in|proj_out|transformer_blocks_\d+_(?:attn[12]_to_(?:q|k|v|out_0)|ff_net_0_proj|ff_net_2|norm[123]))"
)
_DIFFUSERS = re.compile(
    rf"(?:(down|up)_blocks_(\d{{1,4}})|mid_block)_(?:resnets_(\d{{1,4}})_({'|'.join(_RESNET_BACK)})|attentions_(\d{{1,4}})_({_TRANSFORMER})"
    r"|(?:down|up)samplers_0_(conv))"
)
_LDM = re.compile(
    rf"(?:(input|output)_blocks_(\d{{1,4}})|middle_block)_(\d)_(?:({'|'.join(_RESNET)})|({_TRANSFORMER})|(op|conv))"
)
_OLD_PROCESSOR = re.compile(r"_(?:processor_)?to_(?:(q|k|v)|(out))_lora$")


def plain_attention(path: str) -> str:
    """Without the words of the old attention processors: ``attn1_processor_to_out_lora`` -> ``attn1_to_out_0``."""
    path = _OLD_PROCESSOR.sub(lambda m: f"_to_{m[1]}" if m[1] else "_to_out_0", path)
    return f"{path}_0" if path.endswith(("attn1_to_out", "attn2_to_out")) else path


def is_diffusers(path: str) -> bool:
    """Whether a path is a layer as diffusers names it, in a U-Net of any size."""
    return path in _TOP_BACK or bool(_DIFFUSERS.fullmatch(path))


def is_ldm(path: str) -> bool:
    """Whether a path is a layer as the original code names it, in a U-Net of any size."""
    return path in _TOP or bool(_LDM.fullmatch(path))


def to_diffusers(path: str, layers: int = 2) -> str | None:
    """From the original name to diffusers'; None if it is none. ``layers`` is L."""
    if path in _TOP:
        return _TOP[path]
    match = _LDM.fullmatch(path)
    if not match:
        return None
    side, block, index, resnet, transformer, sampler = match.groups()
    rest = f"resnets_{{}}_{_RESNET[resnet]}" if resnet else f"attentions_{{}}_{transformer}"
    if side is None:
        return None if sampler else f"mid_block_{rest.format(int(index) // 2)}"
    level, place = divmod(int(block) - (side == "input"), layers + 1)
    if sampler:
        return f"down_blocks_{level}_downsamplers_0_conv" if sampler == "op" else f"up_blocks_{level}_upsamplers_0_conv"
    return f"{'down' if side == 'input' else 'up'}_blocks_{level}_{rest.format(place)}"


def to_ldm(path: str, layers: int = 2) -> str | None:
    """From diffusers' name to the original one; None if it is none. ``layers`` is L.

    An upsampler comes third in its entry, behind a transformer, as everywhere in SDXL. (Where the level has no
    transformer it comes second: no name of SDXL.)
    """
    if path in _TOP_BACK:
        return _TOP_BACK[path]
    match = _DIFFUSERS.fullmatch(path)
    if not match:
        return None
    side, level, nth_resnet, resnet, nth_transformer, transformer, sampler = match.groups()
    rest = _RESNET_BACK[resnet] if resnet else transformer
    place = int(nth_resnet or nth_transformer or 0)
    if side is None:
        return None if sampler else f"middle_block_{2 * place if resnet else 1}_{rest}"
    first = int(level) * (layers + 1)
    if sampler:
        return f"input_blocks_{first + layers + 1}_0_op" if side == "down" else f"output_blocks_{first + layers}_2_conv"
    block = f"input_blocks_{1 + first + place}" if side == "down" else f"output_blocks_{first + place}"
    return f"{block}_{0 if resnet else 1}_{rest}"
