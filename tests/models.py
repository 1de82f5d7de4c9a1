"""Small random Stable Diffusion 1 models for tests: as a diffusers folder and as the same weights in one LDM-key file.

The way from diffusers names to LDM names is written here a second time, backwards and by itself, so that the loader
is checked against something that is not the loader.
"""

import gzip
import json
import math
import re
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

PROJECT = Path(__file__).resolve().parent.parent
BUNDLED_TOKENIZER = PROJECT / "lora_core" / "families" / "bundled" / "clip_tokenizer"
TEXT_WIDTH = 64
"""Width of the tiny text encoder: one attention head of 64, as CLIP has one for every 64."""


@dataclass
class TinyParts:
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel


def tiny_parts(seed: int = 0) -> TinyParts:
    """The three networks with random weights: factor 8, two U-Net levels (the first with attention), 8 heads."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=8,
        )
        vae = AutoencoderKL(
            block_out_channels=(32, 32, 32, 32),
            layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
        )
        config = CLIPTextConfig(
            hidden_size=TEXT_WIDTH,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=1,
            vocab_size=49408,
            max_position_embeddings=77,
        )
        text_encoder = CLIPTextModel(config)
        _spread(text_encoder)
    return TinyParts(unet.eval(), vae.eval(), text_encoder.eval())


def _spread(module: nn.Module) -> None:
    """Random biases and norms too, so that two of them swapped would show."""
    for parameter in module.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)


def tiny_sd_folder(
    path: Path,
    *,
    seed: int = 0,
    prediction_type: str = "epsilon",
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    tokenizer: bool = True,
) -> Path:
    """A diffusers folder, as diffusers and transformers themselves write one. Returns the path."""
    parts = tiny_parts(seed)
    parts.unet.to(dtype).save_pretrained(path / "unet", variant=variant)
    parts.vae.to(dtype).save_pretrained(path / "vae", variant=variant)
    parts.text_encoder.to(dtype).save_pretrained(path / "text_encoder", variant=variant)
    DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
        steps_offset=1,
    ).save_pretrained(path / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    (path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    if tokenizer:
        shutil.copytree(BUNDLED_TOKENIZER, path / "tokenizer", dirs_exist_ok=True)
    return path


def tiny_ldm_file(
    path: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, metadata: dict[str, str] | None = None
) -> Path:
    """The weights of ``tiny_sd_folder`` with the same seed, in one file with LDM keys (.safetensors or .ckpt)."""
    state = {key: tensor.to(dtype).contiguous() for key, tensor in ldm_state(tiny_parts(seed)).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(state, path, metadata)
    else:
        torch.save({"state_dict": state, "global_step": 1}, path)
    return path


def ldm_state(parts: TinyParts) -> dict[str, Tensor]:
    """All tensors under the names that the original Stable Diffusion code gives them."""
    layers = parts.unet.config.layers_per_block
    levels = len(parts.vae.config.block_out_channels)
    return (
        {f"model.diffusion_model.{ldm_unet_key(k, layers)}": v for k, v in parts.unet.state_dict().items()}
        | {f"first_stage_model.{ldm_vae_key(k, levels)}": _as_conv(k, v) for k, v in parts.vae.state_dict().items()}
        | {
            f"cond_stage_model.transformer.text_model.{k.removeprefix('text_model.')}": v
            for k, v in parts.text_encoder.state_dict().items()
        }
    )


def _as_conv(key: str, tensor: Tensor) -> Tensor:
    """The VAE's attention is made of 1x1 convolutions there."""
    return tensor[:, :, None, None] if ".attentions.0.to_" in key and tensor.ndim == 2 else tensor


def ldm_unet_key(key: str, layers: int) -> str:
    """The LDM name of a diffusers U-Net weight; ``layers`` is layers_per_block."""
    fixed = {
        "conv_in.": "input_blocks.0.0.",
        "conv_norm_out.": "out.0.",
        "conv_out.": "out.2.",
        "time_embedding.linear_1.": "time_embed.0.",
        "time_embedding.linear_2.": "time_embed.2.",
    }
    for diffusers, ldm in fixed.items():
        if key.startswith(diffusers):
            return ldm + key.removeprefix(diffusers)
    side, block, kind, index, rest = re.fullmatch(
        r"(down_blocks|up_blocks|mid_block)\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", key
    ).groups()
    n = int(index)
    if side == "mid_block":
        place = f"middle_block.{2 * n if kind == 'resnets' else 1}"
    elif kind == "downsamplers":
        return f"input_blocks.{(int(block) + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
    elif kind == "upsamplers":
        attention = int(block) > 0  # the first up block has none, in SD 1 as in the tiny model
        return f"output_blocks.{(int(block) + 1) * (layers + 1) - 1}.{2 if attention else 1}.{rest}"
    elif side == "down_blocks":
        place = f"input_blocks.{1 + int(block) * (layers + 1) + n}.{int(kind == 'attentions')}"
    else:
        place = f"output_blocks.{int(block) * (layers + 1) + n}.{int(kind == 'attentions')}"
    return f"{place}.{_ldm_resnet(rest) if kind == 'resnets' else rest}"


def _ldm_resnet(rest: str) -> str:
    names = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1",
        "conv_shortcut": "skip_connection",
    }
    name, _, end = rest.partition(".")
    return f"{names[name]}.{end}"


def ldm_vae_key(key: str, levels: int) -> str:
    """The LDM name of a diffusers VAE weight; ``levels`` is the number of resolutions."""
    key = key.replace("conv_norm_out.", "norm_out.").replace("conv_shortcut.", "nin_shortcut.")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    key = key.replace("mid_block.attentions.0.", "mid.attn_1.")
    for diffusers, ldm in {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}.items():
        key = key.replace(f"attn_1.{diffusers}.", f"attn_1.{ldm}.")
    key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", key)


SD15_KEYS = Path(__file__).parent / "families" / "sd15_keys.json.gz"
"""Every key of a Stable Diffusion 1.5 checkpoint with its shape."""


def sd15_shapes() -> dict[str, tuple[int, ...]]:
    with gzip.open(SD15_KEYS, "rt", encoding="utf-8") as file:
        return {key: tuple(shape) for key, shape in json.load(file).items()}


def full_size_sd15(path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A Stable Diffusion 1.5 checkpoint of full size with random weights: 4.3 GB in float32, half in fp16."""
    return full_size_file(path, sd15_shapes(), dtype)


def full_size_file(path: Path, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = torch.float32) -> Path:
    """A checkpoint with random weights of these shapes.

    Weights are small and norms are one, so that nothing overflows. Tensors are written one at a time: it needs little
    memory, and no more disk than the file.
    """
    generator = torch.Generator().manual_seed(0)
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    header, end = {}, 0
    for key, shape in shapes.items():
        size = math.prod(shape) * dtype.itemsize
        header[key] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for key, shape in shapes.items():
            tensor = _plausible_weight(key, shape, generator)
            file.write(tensor.to(dtype).reshape(-1).view(torch.uint8).numpy().data)
    return path


def _plausible_weight(key: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if len(shape) < 2:
        return torch.ones(shape) if key.endswith("weight") else torch.zeros(shape)
    fan_in = math.prod(shape[1:]) if "embedding" not in key else 2500
    return torch.randn(shape, generator=generator) * fan_in**-0.5
