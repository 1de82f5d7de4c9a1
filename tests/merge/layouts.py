"""Small checkpoints with the real names of every family, and where each canonical layer is in them.

``LAYOUTS[name].layers`` says it a second time, written by hand, so that the maps are checked against something else.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_core.io.arrays import Array, encode, write_stream
from lora_core.io.tensors import TensorInfo

Shape = tuple[int, ...]
Rows = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    family: str
    layers: dict[str, list[tuple[str, Rows | None]]]
    """Canonical layer -> tensors (and rows of them) that it is made of, from its first row to its last."""
    shapes: dict[str, Shape]
    """Of every tensor."""
    part: str | None = None
    """Folder of a diffusers model that the names belong to."""

    def layer_shape(self, layer: str) -> Shape:
        rows = sum((rows[1] - rows[0]) if rows else self.shapes[key][0] for key, rows in self.layers[layer])
        return (rows, *self.shapes[self.layers[layer][0][0]][1:])

    @property
    def layer_shapes(self) -> dict[str, Shape]:
        return {layer: self.layer_shape(layer) for layer in self.layers}


def _plain(**keys: str) -> dict[str, list[tuple[str, Rows | None]]]:
    return {layer: [(key, None)] for layer, key in keys.items()}


_UNET = "model.diffusion_model."
_T = "transformer_blocks.0."


def _ldm_unet(width: int) -> tuple[dict, dict[str, Shape]]:
    """Some of the U-Net of SD 1 and 2: linear, 1x1 and 3x3 convolution, downsampler."""
    layers = _plain(
        lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q=f"{_UNET}input_blocks.1.1.{_T}attn1.to_q.weight",
        lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k=f"{_UNET}input_blocks.1.1.{_T}attn2.to_k.weight",
        lora_unet_down_blocks_0_attentions_0_proj_in=f"{_UNET}input_blocks.1.1.proj_in.weight",
        lora_unet_down_blocks_0_resnets_0_conv1=f"{_UNET}input_blocks.1.0.in_layers.2.weight",
        lora_unet_down_blocks_0_downsamplers_0_conv=f"{_UNET}input_blocks.3.0.op.weight",
        lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_2=f"{_UNET}middle_block.1.{_T}ff.net.2.weight",
        lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn1_to_out_0=f"{_UNET}output_blocks.11.1.{_T}attn1.to_out.0.weight",
    )
    shapes = [(24, 24), (24, width), (24, 24, 1, 1), (24, 16, 3, 3), (24, 24, 3, 3), (24, 96), (24, 24)]
    tensors = {own[0][0]: shape for own, shape in zip(layers.values(), shapes, strict=True)}
    tensors |= {
        f"{_UNET}input_blocks.1.0.in_layers.2.bias": (24,),
        f"{_UNET}input_blocks.1.0.in_layers.0.weight": (16,),
    }
    tensors |= {f"{_UNET}input_blocks.1.0.in_layers.0.bias": (16,)}
    return layers, tensors


def _fused(prefix: str, key: str, names: list[str], rows: int) -> dict[str, list[tuple[str, Rows | None]]]:
    return {prefix + name: [(key, (i * rows, (i + 1) * rows))] for i, name in enumerate(names)}


_QKV = [f"self_attn_{letter}_proj" for letter in "qkv"]
_OTHER = {
    "first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3),
    "alphas_cumprod": (10,),
    "model_ema.decay": (),
}


def _sd1() -> Layout:
    layers, shapes = _ldm_unet(768)
    text = "cond_stage_model.transformer.text_model.encoder.layers."
    layers |= _plain(
        lora_te_text_model_encoder_layers_0_self_attn_q_proj=f"{text}0.self_attn.q_proj.weight",
        lora_te_text_model_encoder_layers_11_mlp_fc1=f"{text}11.mlp.fc1.weight",
    )
    shapes |= {f"{text}0.self_attn.q_proj.weight": (20, 20), f"{text}11.mlp.fc1.weight": (80, 20)} | _OTHER
    return Layout("sd1", layers, shapes)


def _sd2() -> Layout:
    layers, shapes = _ldm_unet(1024)
    text = "cond_stage_model.model.transformer.resblocks."
    layers |= _fused("lora_te_text_model_encoder_layers_0_", f"{text}0.attn.in_proj_weight", _QKV, 20)
    layers |= _plain(
        lora_te_text_model_encoder_layers_0_self_attn_out_proj=f"{text}0.attn.out_proj.weight",
        lora_te_text_model_encoder_layers_22_mlp_fc1=f"{text}22.mlp.c_fc.weight",
    )
    shapes |= {f"{text}0.attn.in_proj_weight": (60, 20), f"{text}0.attn.in_proj_bias": (60,)}
    shapes |= {f"{text}0.attn.out_proj.weight": (20, 20), f"{text}22.mlp.c_fc.weight": (80, 20)} | _OTHER
    return Layout("sd2", layers, shapes)


def _sdxl() -> Layout:
    clip = "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    big = "conditioner.embedders.1.model.transformer.resblocks."
    layers = _plain(
        lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k=f"{_UNET}input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight",
        lora_unet_input_blocks_4_1_proj_in=f"{_UNET}input_blocks.4.1.proj_in.weight",
        lora_unet_input_blocks_1_0_in_layers_2=f"{_UNET}input_blocks.1.0.in_layers.2.weight",
        lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj=f"{_UNET}middle_block.1.transformer_blocks.9.ff.net.0.proj.weight",
        lora_te1_text_model_encoder_layers_0_mlp_fc1=clip,
        lora_te2_text_model_encoder_layers_31_mlp_fc2=f"{big}31.mlp.c_proj.weight",
    )
    sizes = [(24, 2048), (24, 24), (24, 24, 3, 3), (192, 24), (80, 20), (20, 80)]
    shapes = {own[0][0]: shape for own, shape in zip(layers.values(), sizes, strict=True)}
    layers |= _fused("lora_te2_text_model_encoder_layers_0_", f"{big}0.attn.in_proj_weight", _QKV, 20)
    shapes |= {f"{big}0.attn.in_proj_weight": (60, 20), f"{_UNET}label_emb.0.0.weight": (24, 30)}
    return Layout("sdxl", layers, shapes | _OTHER)


def _flux() -> Layout:
    layers = _plain(
        lora_unet_double_blocks_0_img_attn_qkv="double_blocks.0.img_attn.qkv.weight",
        lora_unet_double_blocks_18_txt_mlp_0="double_blocks.18.txt_mlp.0.weight",
        lora_unet_single_blocks_37_linear1="single_blocks.37.linear1.weight",
    )
    sizes = [(72, 24), (96, 24), (168, 24)]
    shapes = {own[0][0]: shape for own, shape in zip(layers.values(), sizes, strict=True)}
    return Layout("flux", layers, shapes)


def _flux_diffusers() -> Layout:
    """The fused layers of FLUX as diffusers keeps them apart."""
    block, single = "transformer_blocks.0.attn.", "single_transformer_blocks.37."
    qkv = [f"{block}to_{letter}.weight" for letter in "qkv"]
    linear1 = [f"{single}attn.to_{letter}.weight" for letter in "qkv"] + [f"{single}proj_mlp.weight"]
    layers = {
        "lora_unet_double_blocks_0_img_attn_qkv": [(key, None) for key in qkv],
        "lora_unet_single_blocks_37_linear1": [(key, None) for key in linear1],
    }
    return Layout("flux", layers, dict.fromkeys(qkv + linear1, (24, 24)) | {linear1[-1]: (96, 24)}, "transformer")


LAYOUTS: dict[str, Layout] = {
    "sd1": _sd1(),
    "sd2": _sd2(),
    "sdxl": _sdxl(),
    "flux": _flux(),
    "flux diffusers": _flux_diffusers(),
}
METADATA = {"modelspec.title": "題名", "note": "a b"}


def random_weights(layout: Layout, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {key: rng.standard_normal(shape, dtype=np.float32) for key, shape in layout.shapes.items()}


def write_checkpoint(path: Path, weights: dict[str, Array], dtype: str = "F32", metadata=METADATA) -> Path:
    """One .safetensors, with a tensor of whole numbers beside the weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    infos = {key: TensorInfo(dtype, values.shape) for key, values in weights.items()}
    whole = np.arange(77, dtype=np.int64)
    infos["text_model.embeddings.position_ids"] = TensorInfo("I64", whole.shape)
    write_stream(
        infos, lambda key: [encode(weights[key], dtype) if key in weights else whole.view(np.uint8)], metadata, path
    )
    return path


def write_layout(folder: Path, layout: Layout, weights: dict[str, Array], dtype: str = "F32") -> Path:
    """A single file, or the smallest folder that passes for a diffusers model. Returns its path."""
    if layout.part is None:
        return write_checkpoint(folder / "model.safetensors", weights, dtype)
    write_checkpoint(folder / "model" / layout.part / "diffusion_pytorch_model.safetensors", weights, dtype)
    (folder / "model" / layout.part / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}', encoding="utf-8")
    return folder / "model"
