"""Writes lora_core/merge/known/*.json.gz: every layer of the real models with its shape, from the models themselves.

    python tools/write_layer_tables.py

The models are built without weights (on torch's meta device) by diffusers and transformers, from the configurations
that their makers published; what is written here of those differs from the library's defaults.
"""

import gzip
import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from lora_core.io.kinds import Family  # noqa: E402
from lora_core.merge.names import locate  # noqa: E402

KNOWN = PROJECT / "lora_core" / "merge" / "known"
BUNDLED = PROJECT / "lora_core" / "families" / "bundled" / "sd1"

SD2_UNET = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
SDXL_UNET = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
FLUX = {"guidance_embeds": True}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
T5_XXL = {
    "d_model": 4096,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}


def bundled(part: str) -> dict[str, Any]:
    return json.loads((BUNDLED / f"{part}.json").read_text(encoding="utf-8"))


def models(family: Family) -> dict[str, nn.Module]:
    """The networks of a family by the attribute that diffusers' pipelines give them."""
    if family == "flux":
        return {
            "transformer": FluxTransformer2DModel(**FLUX),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**CLIP_L)),
            "text_encoder_2": T5EncoderModel(T5Config(**T5_XXL)),
        }
    if family == "sdxl":
        return {
            "unet": UNet2DConditionModel(**SDXL_UNET),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**CLIP_L)),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_G, projection_dim=1280)),
        }
    text = CLIP_H if family == "sd2" else bundled("text_encoder")
    return {
        "unet": UNet2DConditionModel(**bundled("unet") | (SD2_UNET if family == "sd2" else {})),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**text)),
    }


TARGETS: Mapping[str, tuple[str, ...]] = {
    "unet": ("Transformer2DModel",),
    "text_encoder": ("CLIPAttention", "CLIPMLP"),
    "text_encoder_2": ("CLIPAttention", "CLIPMLP"),
    "transformer": ("FluxTransformerBlock", "FluxSingleTransformerBlock"),
}
"""Modules in which kohya's sd-scripts trains every linear layer and 1x1 convolution.

FLUX' CLIP is trained only when asked for, and is not among the targets.
"""


def target_modules(part: str, model: nn.Module, family: Family) -> Iterator[str]:
    """Names of the linear layers and 1x1 convolutions in the target modules."""
    classes = () if family == "flux" and part != "transformer" else TARGETS[part]
    for outer, module in model.named_modules():
        if type(module).__name__ in classes:
            for inner, layer in module.named_modules():
                if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)):
                    yield f"{outer}.{inner}"


def weights(model: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Linear layers, convolutions and norms, with the shapes of their weights."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.GroupNorm | nn.LayerNorm) and module.weight is not None:
            yield name, tuple(module.weight.shape)


def table(family: Family) -> dict[str, Any]:
    """Layers and norms with their shapes by canonical name, and the default targets, in the order of the model."""
    layers: dict[str, list[int]] = {}
    vectors: dict[str, list[int]] = {}
    targets: dict[str, None] = {}
    with torch.device("meta"):
        networks = models(family)
    for part, model in networks.items():
        for module, shape in weights(model):
            place = locate(f"{part}.{module}", family)
            assert place, f"{part}.{module}: no name for it"
            if len(shape) == 1:
                vectors[place.name] = list(shape)
            else:  # the parts of a fused layer are counted up
                rows = layers[place.name][0] if place.rows and place.name in layers else 0
                layers[place.name] = [rows + shape[0], *shape[1:]]
        for module in target_modules(part, model, family):
            place = locate(f"{part}.{module}", family)
            assert place
            targets[place.name] = None
    return {"layers": layers, "vectors": vectors, "targets": list(targets)}


def packed(content: Mapping[str, Any]) -> bytes:
    """JSON in gzip without name and time, so that the same table is the same bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, buffer, mtime=0) as file:
        file.write(json.dumps(content, separators=(",", ":")).encode())
    return buffer.getvalue()


def main() -> None:
    KNOWN.mkdir(exist_ok=True)
    for family in ("sd1", "sd2", "sdxl", "flux"):
        content = table(family)
        (KNOWN / f"{family}.json.gz").write_bytes(packed(content))
        print(family, {key: len(rows) for key, rows in content.items()})


if __name__ == "__main__":
    main()
