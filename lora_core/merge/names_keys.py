"""Keys of LoRA files: which part names the layer and which part says what of it the tensor is."""

import re
from typing import Literal

_LYCORIS = (
    "alpha|dora_scale|lora_mid.weight|hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t[12]|[ab][12].weight"
    "|bm.weight|diff|diff_b|w_norm|b_norm|on_input|oft_blocks|oft_diag|rescale|scalar"
)
_HALF = {"A": "lora_down", "B": "lora_up", "down": "lora_down", "up": "lora_up"}
_TAILS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?P<layer>.+)\.(?P<tensor>{_LYCORIS.replace('.', '[.]')})",
        # kohya's own, and PEFT's with or without the name of the adapter ("default")
        r"(?P<layer>.+)\.lora_(?P<half>A|B|down|up)(?:\.\w+?)??(?:\.(?P<of>weight|bias))?",
        # diffusers from 2023 on, for U-Net and for text encoder
        r"(?P<layer>.+)\.(?:lora|lora_linear_layer)\.(?P<half>up|down)\.(?P<of>weight)",
        # attention processors of early 2023 (the layer is ...attn1.processor.to_q_lora), and XLabs' for FLUX
        r"(?P<layer>.+_lora\d?)\.(?P<half>up|down)\.(?P<of>weight)",
        r"(?P<layer>.+)\.(?P<dora>lora_magnitude_vector)(?:\.\w+?)??(?:\.weight)?",
        # IA3 of LyCORIS calls its vector what everything is called: only behind a LoRA's prefix
        r"(?P<layer>(?:lora_(?:unet|te[123]?|transformer)|lycoris)_[^.]+)\.(?P<tensor>weight)",
    )
)


def split_key(key: str) -> tuple[str, str] | None:
    """(layer as spelled, tensor in kohya's and LyCORIS' spelling); None for a key that is part of no LoRA.

    ``unet.mid_block.attentions.0.proj_in.lora_A.default.weight`` -> ``unet.mid_block.attentions.0.proj_in`` and
    ``lora_down.weight``. Tensors: lora_down.weight lora_up.weight lora_mid.weight lora_up.bias alpha dora_scale
    hada_w1_a hada_w1_b hada_w2_a hada_w2_b hada_t1 hada_t2 lokr_w1 lokr_w1_a lokr_w1_b lokr_w2 lokr_w2_a lokr_w2_b
    lokr_t2 a1.weight a2.weight b1.weight b2.weight bm.weight diff diff_b w_norm b_norm weight on_input oft_blocks
    oft_diag rescale scalar.
    """
    for tail in _TAILS:
        if match := tail.fullmatch(key):
            found = match.groupdict()
            if found.get("dora"):
                return found["layer"], "dora_scale"
            if half := found.get("half"):
                return found["layer"], f"{_HALF[half]}.{found['of'] or 'weight'}"
            return found["layer"], found["tensor"]
    return None


_PEFT = {
    "lora_down.weight": "lora_A.weight",
    "lora_up.weight": "lora_B.weight",
    "lora_up.bias": "lora_B.bias",
    "dora_scale": "lora_magnitude_vector",
}


def tensor_key(spelled: str, tensor: str, style: Literal["kohya", "diffusers", "peft"]) -> str:
    """The full key in the file of a layer as spelled and a tensor as ``split_key`` names it.

    kohya: ``X.lora_down.weight``; diffusers and peft: ``X.lora_A.weight``. What only kohya and LyCORIS have keeps its
    name in every style.
    """
    return f"{spelled}.{tensor if style == 'kohya' else _PEFT.get(tensor, tensor)}"
