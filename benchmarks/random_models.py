"""Models of full size with random weights, made on the device itself: nothing is downloaded, little is written.

The work of a step is the same as with real weights. ``replace_loading`` lets a family make them where it would read a
file; everything else of a run is as always.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from lora_core.families import FAMILIES
from lora_core.families.base import Components, ModelSource
from lora_core.families.flux import FluxComponents
from lora_core.families.sd_files import load_tokenizer
from lora_core.families.t5_tokenizer import T5Words

BUNDLED = Path(__file__).resolve().parent.parent / "lora_core" / "families" / "bundled"
FLUX_CUT = {"transformer": {"num_layers": 2, "num_single_layers": 4}, "text_encoder_2": {"num_layers": 2}}
"""Blocks that are left of FLUX.1's 19 and 38, and of T5's 24, where the card does not hold all."""

_TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1}
_UNET = {"sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 64}
_CROSS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
_VAE = {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}
TINY: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "sd1": {"unet": _UNET | _CROSS, "text_encoder": _TEXT, "vae": _VAE},
    "sd2": {"unet": _UNET | _CROSS | {"attention_head_dim": (1, 2)}, "text_encoder": _TEXT, "vae": _VAE},
    "sdxl": {
        "unet": _UNET
        | {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 2,
            "attention_head_dim": (1, 1),
            "cross_attention_dim": 64 + 128,
            "transformer_layers_per_block": (1, 2),
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 64 + 6 * 8,
        },
        "text_encoder": _TEXT,
        "text_encoder_2": _TEXT | {"hidden_size": 128, "num_attention_heads": 2, "projection_dim": 64},
        "vae": _VAE,
    },
    "flux": {
        "transformer": {
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 32,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 64,
            "axes_dims_rope": (4, 14, 14),
        },
        "text_encoder": _TEXT,
        "text_encoder_2": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "num_layers": 2},
        "vae": _VAE,
    },
}
"""What a small model for a try has other than the real one: of the same make, a thousandth of the size."""


@contextmanager
def replace_loading(
    family: str, *, tiny: bool, whole: bool = True, compact: bool = False
) -> Iterator[list[Components]]:
    """Inside, models of the family are random ones; gives a list of the one made last.

    ``compact``: networks are made in the processor's memory, as those of a file are, and go to the card in codes.
    """
    made: list[Components] = []

    def load(self: Any, model: Any, *, dtype: torch.dtype, device: torch.device) -> Components:
        made[:] = [random_components(family, dtype, device, tiny=tiny, whole=whole, compact=compact)]
        return made[-1]

    with patch.object(type(FAMILIES[family]), "load", load):
        yield made


def random_components(
    family: str,
    dtype: torch.dtype,
    device: torch.device,
    *,
    tiny: bool = False,
    whole: bool = True,
    compact: bool = False,
) -> Components:
    """A model whose networks are made when they are asked for, as those of a file are read."""
    parts = ("unet", "vae", *FAMILIES[family].text_parts)
    place = torch.device("cpu") if compact else device
    loaders = {part: partial(random_part, family, part, dtype, place, tiny=tiny, whole=whole) for part in parts}
    facts: dict[str, Any] = {"device": device, "dtype": dtype, "source": ModelSource("random", Path("random"))}
    if family == "flux":
        tokenizers = {"text_encoder": load_tokenizer(None)}
        words = T5Words(_t5_words())
        return FluxComponents(
            loaders, words=words, guidance=True, prediction_type="flow", tokenizers=tokenizers, **facts
        )
    open_clip = {part: family == "sd2" or part == "text_encoder_2" for part in FAMILIES[family].text_parts}
    tokenizers = {part: load_tokenizer(None, open_clip=is_open) for part, is_open in open_clip.items()}
    found = json.loads((BUNDLED / family / "scheduler.json").read_text(encoding="utf-8"))
    schedule = {
        "beta_start": found["beta_start"],
        "beta_end": found["beta_end"],
        "steps": found["num_train_timesteps"],
        "schedule": found["beta_schedule"],
    }
    return Components(loaders, tokenizers=tokenizers, schedule=schedule, **facts)


def random_part(
    family: str, part: str, dtype: torch.dtype, device: torch.device, *, tiny: bool, whole: bool
) -> nn.Module:
    """One network, on the device from the start; the VAE in float32 as always."""
    name = "transformer" if (family, part) == ("flux", "unet") else part
    # FLUX.1's CLIP is that of Stable Diffusion 1.
    folder = "sd1" if (family, part) == ("flux", "text_encoder") else family
    config = json.loads((BUNDLED / folder / f"{name}.json").read_text(encoding="utf-8"))
    if family == "flux" and not whole:
        config |= FLUX_CUT.get(name, {})
    if tiny:
        config |= TINY[family][name]
    with (
        _drawn_for(f"{family} {part}", device),
        torch.device(device),
        _made_in(torch.float32 if part == "vae" else dtype),
    ):
        network = _maker(family, part)(config)
    for path, module in network.named_modules():
        if part == "text_encoder_2" and path.endswith(".wo"):
            module.float()  # as T5 is loaded: its feed-forward layers overflow in half precision
    return network


@contextmanager
def _drawn_for(name: str, device: torch.device) -> Iterator[None]:
    """A network has the same weights each time it is made, and the run's own random numbers stay as they are."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(zlib.crc32(name.encode()))
        yield


@contextmanager
def _made_in(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _maker(family: str, part: str) -> Callable[[dict[str, Any]], nn.Module]:
    from diffusers import AutoencoderKL, FluxTransformer2DModel, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    if part == "vae":
        return AutoencoderKL.from_config
    if part == "unet":
        return (FluxTransformer2DModel if family == "flux" else UNet2DConditionModel).from_config
    if part == "text_encoder":
        return lambda config: CLIPTextModel(CLIPTextConfig(**config))
    if family == "flux":
        return lambda config: T5EncoderModel(T5Config(**config))
    return lambda config: CLIPTextModelWithProjection(CLIPTextConfig(**config))


def _t5_words() -> Any:
    """A tokenizer that knows no word: T5 works as long on unknown ones."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def pipeline_of(family: str, components: Components) -> Any:
    """diffusers' own pipeline around the networks of a model."""
    from diffusers import (
        EulerDiscreteScheduler,
        FlowMatchEulerDiscreteScheduler,
        FluxPipeline,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
    )

    if family == "flux":
        clip, words = components.text_encoder, components.tokenizer
        return FluxPipeline(FlowMatchEulerDiscreteScheduler(), None, clip, words, None, None, components.denoiser)
    parts = {part: components.part(part) for part in ("unet", "vae", *FAMILIES[family].text_parts)}
    tokenizers = {part.replace("text_encoder", "tokenizer"): one for part, one in components.tokenizers.items()}
    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    if family == "sdxl":
        return StableDiffusionXLPipeline(**parts, **tokenizers, scheduler=scheduler)
    return StableDiffusionPipeline(
        **parts, **tokenizers, scheduler=scheduler, safety_checker=None, feature_extractor=None
    )
