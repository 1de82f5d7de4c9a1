"""Stable Diffusion: what the trainer asks of it. Version 1 is here; ``sd2`` and ``sdxl`` say where they differ."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lora_core.errors import UserError
from lora_core.families.base import DENOISER, Components, Conditioning, Drawing, ModelSource, PredictionType, Target
from lora_core.families.latents import KlLatents
from lora_core.families.sd_files import find_parts
from lora_core.families.source import base_path, check_base, download, is_hub_name, require_vae
from lora_core.families.text import encode, tokens_cut
from lora_core.io.headers import identify
from lora_core.noise import Ddpm
from lora_core.settings import AnyModel, RunSettings

UNET_BLOCKS = frozenset({"Transformer2DModel"})
UNET_CONV_BLOCKS = frozenset({"ResnetBlock2D", "Downsample2D", "Upsample2D"})
TEXT_BLOCKS = frozenset({"CLIPAttention", "CLIPSdpaAttention", "CLIPMLP"})


class StableDiffusion1(KlLatents):
    """Epsilon or velocity prediction, one CLIP text encoder, latents of 4 channels."""

    name = "sd1"
    text_parts: tuple[str, ...] = ("text_encoder",)
    trainable_text_parts: tuple[str, ...] = text_parts
    text_prefixes: Mapping[str, str] = {"text_encoder": "lora_te_"}
    """What the names of a text encoder's layers begin with in LoRA files."""

    def load(self, model: AnyModel, *, dtype: torch.dtype, device: torch.device) -> Components:
        base = model.base.strip()
        hub = model.allow_download and is_hub_name(base)
        path = download(base) if hub else base_path(model)
        if model.vae is not None:
            require_vae(model.vae, self.name)
        kind = check_base(identify(path), self.name, separate_vae=model.vae is not None)
        parts = find_parts(kind, model.vae, dtype)
        return Components(
            parts.loaders,
            device=device,
            dtype=dtype,
            source=ModelSource(base if hub else path.name, path, model.vae),
            tokenizers=parts.tokenizers,
            prediction_type=_prediction_type(parts.scheduler, path, model),
            schedule=_schedule(parts.scheduler, path),
        )

    def encode_prompts(
        self,
        components: Components,
        prompts: Sequence[str],
        model: AnyModel,
        *,
        weighted: bool = False,
        max_token_length: int | None = None,
    ) -> Conditioning:
        hidden = encode(
            components.text_encoder,
            components.chunker,
            prompts,
            clip_skip=model.clip_skip,
            max_token_length=max_token_length or model.max_token_length,
            weighted=weighted,
        )
        return Conditioning({"hidden": hidden})

    def tokens_cut(self, components: Components, prompt: str, *, max_token_length: int) -> int:
        return tokens_cut(components.chunker, prompt, max_token_length)

    def predict(
        self,
        components: Components,
        noisy_BCHW: Tensor,
        timesteps_B: Tensor,
        conditioning: Conditioning,
        frames_B6: Tensor | None = None,
    ) -> Tensor:
        dtype = components.dtype
        hidden = conditioning.hidden.to(dtype)
        answer = components.denoiser(noisy_BCHW.to(dtype), timesteps_B, encoder_hidden_states=hidden, return_dict=False)
        return answer[0]

    def noise_process(self, components: Components, settings: RunSettings | None = None) -> Ddpm:
        return Ddpm(prediction_type=components.prediction_type, **components.schedule)

    def adapter_targets(
        self, components: Components, *, text_parts: Collection[str], convolutions: bool = False
    ) -> list[Target]:
        texts = [part for part in self.text_parts if part in text_parts]
        found = [target for part in texts for target in self._text_targets(components, part)]
        blocks = {*UNET_BLOCKS, *UNET_CONV_BLOCKS} if convolutions else UNET_BLOCKS
        layers = projections(components.denoiser, blocks, convolutions=convolutions)
        return found + [Target(self.unet_name(components, path), module, DENOISER) for path, module in layers]

    def named_layers(self, components: Components) -> dict[str, nn.Module]:
        """Every layer with a weight, trained or not, by the name it has in LoRA files."""
        found = {self.unet_name(components, path): module for path, module in components.denoiser.named_modules()}
        for part in self.text_parts:
            found |= {self.text_name(part, path): module for path, module in components.part(part).named_modules()}
        return {name: module for name, module in found.items() if isinstance(getattr(module, "weight", None), Tensor)}

    def unet_name(self, components: Components, path: str) -> str:
        """The name in a LoRA file of a layer of diffusers' U-Net."""
        return f"lora_unet_{path.replace('.', '_')}"

    def text_name(self, part: str, path: str) -> str:
        """Of a text encoder's layer: with ``text_model_``, which programs expect and newer transformers has dropped."""
        return f"{self.text_prefixes[part]}text_model_{path.removeprefix('text_model.').replace('.', '_')}"

    def _text_targets(self, components: Components, part: str) -> list[Target]:
        layers = projections(components.part(part), TEXT_BLOCKS)
        return [Target(self.text_name(part, path), module, part) for path, module in layers]

    def drawing(self, components: Components) -> Drawing:
        config, factor = components.denoiser.config, components.vae_factor
        size = config.sample_size
        side = (max(size) if isinstance(size, list | tuple) else size) * factor
        return Drawing(channels=config.in_channels, factor=factor, multiple=max(8, factor), side=side)


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


def _prediction_type(scheduler: dict, path: Path, model: AnyModel) -> PredictionType:
    found = scheduler["prediction_type"] if model.prediction_type == "auto" else model.prediction_type
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
        "zero_terminal_snr": bool(scheduler.get("rescale_betas_zero_snr")),
    }
