"""What the trainer and the sampler ask of a model family, and the parts of a loaded model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from torch import Tensor, device, dtype, nn

from lora_core.families.text import Chunker
from lora_core.io.hashes import legacy_model_hash, model_hash
from lora_core.settings import ModelSettings

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from lora_core.noise import Ddpm

PredictionType = Literal["epsilon", "v_prediction"]
NO_FILE = "NOFILE"
"""What sd-scripts writes for the hash of a model that is a folder."""


@dataclass
class ModelSource:
    """Where a model came from, as a LoRA's metadata names it. Hashes are computed when asked for."""

    name: str
    """File or folder name, or the Hugging Face name as typed."""
    path: Path
    vae: Path | None = None
    """The separate VAE, if one was given."""

    @cached_property
    def legacy_hash(self) -> str:
        """8 hexadecimal digits, AUTOMATIC1111's old model hash."""
        return legacy_model_hash(self.path) if self.path.is_file() else NO_FILE

    @cached_property
    def sha256(self) -> str:
        return model_hash(self.path) if self.path.is_file() else NO_FILE

    @property
    def vae_name(self) -> str | None:
        return self.vae.name if self.vae else None

    @cached_property
    def vae_legacy_hash(self) -> str | None:
        return legacy_model_hash(self.vae) if self.vae and self.vae.is_file() else None

    @cached_property
    def vae_sha256(self) -> str | None:
        return model_hash(self.vae) if self.vae and self.vae.is_file() else None


@dataclass
class Components:
    """A loaded model: frozen, in evaluation mode, on its device."""

    denoiser: "UNet2DConditionModel"
    vae: "AutoencoderKL"
    """Always float32: half precision overflows in many VAEs."""
    text_encoder: "CLIPTextModel"
    tokenizer: "CLIPTokenizer"
    vae_factor: int
    """Pixels per latent side: 8 for Stable Diffusion, 4 for the built-in model."""
    prediction_type: PredictionType
    source: ModelSource
    schedule: dict[str, float | int | str] = field(default_factory=dict)
    """beta_start, beta_end, steps, schedule: the noise schedule the model was trained with."""

    @cached_property
    def chunker(self) -> Chunker:
        """Turns prompts into token ids, and remembers them."""
        return Chunker(self.tokenizer)

    @property
    def device(self) -> device:
        return self.denoiser.device

    @property
    def dtype(self) -> dtype:
        return self.denoiser.dtype


@dataclass(frozen=True)
class Target:
    """A layer an adapter may be put on, with the name it has in a LoRA file."""

    name: str
    """For example lora_unet_down_blocks_0_attentions_0_proj_in."""
    module: nn.Module
    part: Literal["unet", "text_encoder"]


class ModelFamily(Protocol):
    """The questions a trainer asks of a model. Shapes: B batch, C channels, H height, W width, L tokens."""

    name: str

    def load(self, model: ModelSettings, *, dtype: dtype, device: device) -> Components:
        """The model of the settings, frozen. ``dtype`` is for denoiser and text encoder; the VAE stays float32.

        Raises UserError for a file that is missing, broken, or no model of this family.
        """
        ...

    def encode_prompts(
        self,
        components: Components,
        prompts: Sequence[str],
        *,
        clip_skip: int,
        max_token_length: int,
        weighted: bool = False,
    ) -> Tensor:
        """(B, L, C) conditioning, differentiable with respect to the text encoder.

        ``weighted`` reads A1111 syntax, (word:1.2), for sample prompts; captions are taken literally.
        """
        ...

    def tokens_cut(self, components: Components, prompt: str, *, max_token_length: int) -> int:
        """How many tokens of a caption do not fit and are left out; 0 when all fit."""
        ...

    def encode_images(self, components: Components, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the VAE's posterior, unscaled float32; pixels in [-1, 1]."""
        ...

    def scale_latents(self, components: Components, latents_BCHW: Tensor) -> Tensor:
        """Latents of the VAE brought to the spread the denoiser was trained on."""
        ...

    def unscale_latents(self, components: Components, latents_BCHW: Tensor) -> Tensor:
        """The reverse of ``scale_latents``."""
        ...

    def decode(self, components: Components, latents_BCHW: Tensor) -> Tensor:
        """Pixels in [-1, 1], float32, of scaled latents."""
        ...

    def predict(
        self, components: Components, noisy_BCHW: Tensor, timesteps_B: Tensor, conditioning_BLC: Tensor
    ) -> Tensor:
        """What the denoiser predicts (noise or velocity) at integer timesteps."""
        ...

    def noise_process(self, components: Components) -> "Ddpm":
        """The noise the model was trained with."""
        ...

    def adapter_targets(
        self, components: Components, *, text_encoder: bool, convolutions: bool = False
    ) -> list[Target]:
        """Layers for adapters: those of the text encoder first, then of the denoiser, in module order.

        With ``convolutions`` also the convolutions and linear layers of the denoiser's blocks outside attention.
        """
        ...
