"""From pictures to latents and back, alike in every family whose VAE is diffusers' AutoencoderKL."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from lora_core.families.components import Components
from lora_core.settings import AnyModel


class KlLatents:
    """The part of a family that asks the VAE, and what most families need not do."""

    def keep_frozen_texts(
        self, components: Components, prompts: Iterable[str], model: AnyModel
    ) -> Iterator[tuple[int, int]]:
        """Nothing: all text encoders of most families can be trained."""
        yield from ()

    @torch.no_grad()
    def encode_images(self, components: Components, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        vae = components.vae
        with torch.autocast(vae.device.type, enabled=False):
            posterior = vae.encode(pixels_BCHW.to(vae.device, vae.dtype)).latent_dist
        return posterior.mean.float(), posterior.std.float()

    def scale_latents(self, components: Components, latents_BCHW: Tensor) -> Tensor:
        config = components.vae_config
        return (latents_BCHW - (config.shift_factor or 0.0)) * config.scaling_factor

    def unscale_latents(self, components: Components, latents_BCHW: Tensor) -> Tensor:
        config = components.vae_config
        return latents_BCHW / config.scaling_factor + (config.shift_factor or 0.0)

    @torch.no_grad()
    def decode(self, components: Components, latents_BCHW: Tensor) -> Tensor:
        vae = components.vae
        latents = self.unscale_latents(components, latents_BCHW.to(vae.device, vae.dtype))
        with torch.autocast(vae.device.type, enabled=False):
            return vae.decode(latents).sample.float()
