"""SDXL 1.0 and the models made from it (Podell et al. 2023): what the trainer asks of it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lora_core.families import text_sdxl
from lora_core.families.base import Components, Conditioning
from lora_core.families.sd import StableDiffusion1
from lora_core.merge.names_sd import to_ldm
from lora_core.settings import AnyModel
from lora_core.transfer import to_device


class StableDiffusionXl(StableDiffusion1):
    """Two text encoders, the text as a whole, and the frame of the picture.

    Epsilon prediction, or velocity where the file says so. LoRA files name the U-Net's blocks as Stability's code does.
    """

    name = "sdxl"
    text_parts = text_sdxl.PARTS
    trainable_text_parts = text_parts
    text_prefixes: Mapping[str, str] = {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}

    def encode_prompts(
        self,
        components: Components,
        prompts: Sequence[str],
        model: AnyModel,
        *,
        weighted: bool = False,
        max_token_length: int | None = None,
    ) -> Conditioning:
        hidden, pooled = text_sdxl.encode(
            {part: components.part(part) for part in self.text_parts},
            components.chunkers,
            prompts,
            max_token_length=max_token_length or model.max_token_length,
            weighted=weighted,
        )
        return Conditioning({"hidden": hidden, "pooled": pooled})

    def predict(
        self,
        components: Components,
        noisy_BCHW: Tensor,
        timesteps_B: Tensor,
        conditioning: Conditioning,
        frames_B6: Tensor | None = None,
    ) -> Tensor:
        if frames_B6 is None:
            frames_B6 = whole_pictures(noisy_BCHW, components.vae_factor)
        dtype = components.dtype
        # The frame stays float32: bf16 has no 1025.
        added = {"text_embeds": conditioning["pooled"].to(dtype), "time_ids": frames_B6.float()}
        return components.denoiser(
            noisy_BCHW.to(dtype),
            timesteps_B,
            encoder_hidden_states=conditioning.hidden.to(dtype),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]

    def unet_name(self, components: Components, path: str) -> str:
        ours = path.replace(".", "_")  # of what is no layer but a group of them, too
        return f"lora_unet_{to_ldm(ours, components.denoiser.config.layers_per_block) or ours}"


def whole_pictures(latents_BCHW: Tensor, factor: int) -> Tensor:
    """(B, 6) frames of pictures that are nothing but themselves: their own size, uncut."""
    height, width = (side * factor for side in latents_BCHW.shape[2:])
    frame = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
    return to_device(frame, latents_BCHW.device).expand(len(latents_BCHW), 6)
