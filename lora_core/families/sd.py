"""Stable Diffusion 1.x: what the trainer asks of it."""

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lora_core.errors import UserError
from lora_core.families.base import Components, ModelSource, Target
from lora_core.families.sd_files import load_parts
from lora_core.families.source import base_path, check_base, download, is_hub_name, require_vae
from lora_core.families.text import encode, tokens_cut
from lora_core.io.headers import identify
from lora_core.noise import Ddpm
from lora_core.settings import ModelSettings

UNET_BLOCKS = frozenset({"Transformer2DModel"})
UNET_CONV_BLOCKS = frozenset({"ResnetBlock2D", "Downsample2D", "Upsample2D"})
TEXT_BLOCKS = frozenset({"CLIPAttention", "CLIPSdpaAttention", "CLIPMLP"})


class StableDiffusion1:
    """Epsilon or velocity prediction, one CLIP text encoder, latents of 4 channels."""

    name = "sd1"

    def load(self, model: ModelSettings, *, dtype: torch.dtype, device: torch.device) -> Components:
        base = model.base.strip()
        hub = model.allow_download and is_hub_name(base)
        path = download(base) if hub else base_path(model)
        if model.vae is not None:
            require_vae(model.vae)
        kind = check_base(identify(path), separate_vae=model.vae is not None)
        parts = load_parts(kind, model.vae, dtype)
        return Components(
            denoiser=parts.unet.to(device),
            vae=parts.vae.to(device),
            text_encoder=parts.text_encoder.to(device),
            tokenizer=parts.tokenizer,
            vae_factor=2 ** (len(parts.vae.config.block_out_channels) - 1),
            prediction_type=_prediction_type(parts.scheduler, path),
            source=ModelSource(base if hub else path.name, path, model.vae),
            schedule=_schedule(parts.scheduler, path),
        )

    def encode_prompts(
        self,
        components: Components,
        prompts: Sequence[str],
        *,
        clip_skip: int,
        max_token_length: int,
        weighted: bool = False,
    ) -> Tensor:
        return encode(
            components.text_encoder,
            components.chunker,
            prompts,
            clip_skip=clip_skip,
            max_token_length=max_token_length,
            weighted=weighted,
        )

    def tokens_cut(self, components: Components, prompt: str, *, max_token_length: int) -> int:
        return tokens_cut(components.chunker, prompt, max_token_length)

    @torch.no_grad()
    def encode_images(self, components: Components, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        vae = components.vae
        with torch.autocast(vae.device.type, enabled=False):
            posterior = vae.encode(pixels_BCHW.to(vae.device, vae.dtype)).latent_dist
        return posterior.mean.float(), posterior.std.float()

    def scale_latents(self, components: Components, latents_BCHW: Tensor) -> Tensor:
        config = components.vae.config
        return (latents_BCHW - (config.shift_factor or 0.0)) * config.scaling_factor

    def unscale_latents(self, components: Components, latents_BCHW: Tensor) -> Tensor:
        config = components.vae.config
        return latents_BCHW / config.scaling_factor + (config.shift_factor or 0.0)

    @torch.no_grad()
    def decode(self, components: Components, latents_BCHW: Tensor) -> Tensor:
        vae = components.vae
        latents = self.unscale_latents(components, latents_BCHW.to(vae.device, vae.dtype))
        with torch.autocast(vae.device.type, enabled=False):
            return vae.decode(latents).sample.float()

    def predict(
        self, components: Components, noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning_BLC: Tensor
    ) -> Tensor:
        dtype = components.dtype
        return components.denoiser(
            noisy_BCHW.to(dtype), timesteps_B, encoder_hidden_states=conditioning_BLC.to(dtype), return_dict=False
        )[0]

    def noise_process(self, components: Components) -> Ddpm:
        return Ddpm(prediction_type=components.prediction_type, **components.schedule)

    def adapter_targets(
        self, components: Components, *, text_encoder: bool, convolutions: bool = False
    ) -> list[Target]:
        targets = _text_targets(components.text_encoder) if text_encoder else []
        found = projections(components.denoiser, UNET_BLOCKS)
        if convolutions:
            found = projections(components.denoiser, {*UNET_BLOCKS, *UNET_CONV_BLOCKS}, convolutions=True)
        for path, module in found:
            targets.append(Target(f"lora_unet_{path.replace('.', '_')}", module, "unet"))
        return targets


def _text_targets(text_encoder: nn.Module) -> list[Target]:
    """The names keep ``text_model_``, which every program expects and newer transformers have dropped."""
    return [
        Target(f"lora_te_text_model_{path.removeprefix('text_model.').replace('.', '_')}", module, "text_encoder")
        for path, module in projections(text_encoder, TEXT_BLOCKS)
    ]


def projections(
    network: nn.Module, blocks: Collection[str], *, convolutions: bool = False
) -> list[tuple[str, nn.Module]]:
    """Path and module of every linear layer and 1x1 convolution, or any one, inside blocks of the named classes."""
    inside = tuple(f"{path}." for path, module in network.named_modules() if type(module).__name__ in blocks)
    wanted = (nn.Linear, nn.Conv2d) if convolutions else nn.Linear
    return [
        (path, module)
        for path, module in network.named_modules()
        if path.startswith(inside) and (isinstance(module, wanted) or _is_pointwise(module))
    ]


def _is_pointwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)


def _prediction_type(scheduler: dict, path: Path) -> str:
    found = scheduler["prediction_type"]
    if found not in {"epsilon", "v_prediction"}:
        raise UserError("model.unknown_scheduler", path=path, value=f"prediction_type {found}")
    return found


def _schedule(scheduler: dict, path: Path) -> dict:
    """Arguments of the noise process, from a diffusers scheduler configuration."""
    if scheduler["beta_schedule"] not in {"scaled_linear", "linear"}:
        raise UserError("model.unknown_scheduler", path=path, value=f"beta_schedule {scheduler['beta_schedule']}")
    return {
        "beta_start": scheduler["beta_start"],
        "beta_end": scheduler["beta_end"],
        "steps": scheduler["num_train_timesteps"],
        "schedule": scheduler["beta_schedule"],
    }
