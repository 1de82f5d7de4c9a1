"""FLUX.1 from files: the transformer, the VAE, CLIP-L and T5, each from a file or a folder. Never from the network."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import nn
from transformers import T5Config, T5EncoderModel

from lora_core.errors import UserError
from lora_core.families import flux_keys, sd_keys
from lora_core.families.flux_fused import join_layers
from lora_core.families.flux_source import FluxSource, Place, folder_files
from lora_core.families.sd_files import Checkpoint, _assign, _fill, _fill_text, _inferred, build_text_encoder
from lora_core.families.sd_keys import State
from lora_core.io.folders import read_json


def part_loaders(source: FluxSource, dtype: torch.dtype) -> dict[str, Callable[[], nn.Module]]:
    """How to read each network on the CPU: the VAE in float32, the others in ``dtype``."""
    places = source.places
    return {
        "unet": lambda: load_transformer(places["unet"], dtype),
        "vae": lambda: load_vae(places["vae"]),
        "text_encoder": lambda: load_clip(places["text_encoder"], dtype),
        "text_encoder_2": lambda: load_t5(places["text_encoder_2"], dtype),
    }


def load_transformer(place: Place, dtype: torch.dtype) -> FluxTransformer2DModel:
    """A transformer with joined layers, from the names of Black Forest Labs or those of diffusers."""
    state = _read(place, "unet", dtype)
    original = flux_keys.is_original(state)
    state = flux_keys.from_original(state) if original else flux_keys.from_diffusers(state)
    config = read_json(place.path / "config.json") if place.is_folder else None
    config = config or _inferred(flux_keys.transformer_config, state, place.path)
    with torch.device("meta"):
        transformer = FluxTransformer2DModel.from_config(dict(config))
        join_layers(transformer)
    _assign(transformer, state, place.path)
    return transformer


def load_vae(place: Place) -> AutoencoderKL:
    """FLUX.1's autoencoder in float32, from the names of Black Forest Labs (LDM's) or those of diffusers."""
    state = _read(place, "vae", torch.float32)
    if place.is_folder:
        return _fill(AutoencoderKL, read_json(place.path / "config.json"), state, place.path)
    if any(".down_blocks." in key for key in state):
        return _fill(AutoencoderKL, _inferred(_diffusers_vae_config, state, place.path), state, place.path)
    config = _inferred(_vae_config, state, place.path)
    return _fill(AutoencoderKL, config, sd_keys.convert_vae(state, config), place.path)


def load_clip(place: Place, dtype: torch.dtype) -> nn.Module:
    """CLIP-L's text encoder."""
    state = _read(place, "text_encoder", dtype)
    if not place.is_folder:
        return build_text_encoder(state, place.path)
    return _fill_text(read_json(place.path / "config.json"), state, place.path)


def load_t5(place: Place, dtype: torch.dtype) -> T5EncoderModel:
    """T5's encoder. In fp16 the second layers of its MLPs stay float32, for they overflow, as transformers has it."""
    state = flux_keys.rename_t5(_read(place, "text_encoder_2", dtype))
    if dtype == torch.float16:
        state = {key: t.float() if key.endswith(".wo.weight") else t for key, t in state.items()}
    config = read_json(place.path / "config.json") if place.is_folder else None
    config = config or _inferred(flux_keys.t5_config, state, place.path)
    with torch.device("meta"):
        encoder = T5EncoderModel(T5Config(**config))
    _assign(
        encoder, {key: state[key] for key in state if key in encoder.state_dict() or key not in _TABLES}, place.path
    )
    return encoder


_TABLES = ("encoder.embed_tokens.weight", "shared.weight")
"""One table of words under two names; some versions of transformers list one of them only."""


def _read(place: Place, part: str, dtype: torch.dtype) -> State:
    if not place.is_folder:
        return Checkpoint(place.path).part(place.prefix, dtype)
    state: State = {}
    for file in folder_files(place.path, part):
        state |= Checkpoint(file).part("", dtype)
    if not state:
        raise UserError("folder.part_missing", path=place.path, name=f"{place.path.name}/*.safetensors")
    return state


_FIXED = ("scaling_factor", "shift_factor", "use_quant_conv", "use_post_quant_conv", "sample_size", "force_upcast")
"""What the shapes of a VAE do not say."""


def _vae_config(shapes: sd_keys.Shapes) -> dict:
    return sd_keys.vae_config(shapes) | {key: flux_keys.bundled_config("vae")[key] for key in _FIXED}


def _diffusers_vae_config(shapes: sd_keys.Shapes) -> dict:
    return sd_keys.diffusers_vae_config(shapes) | {key: flux_keys.bundled_config("vae")[key] for key in _FIXED}


def clip_tokenizer_folder(base: Path) -> Path | None:
    """The folder of CLIP's tokenizer in a diffusers folder; None: the bundled one is taken."""
    return base / "tokenizer" if base.is_dir() else None
