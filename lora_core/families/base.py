"""What the trainer and the sampler ask of a model family."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, device, dtype, nn

from lora_core.families.components import DENOISER, NO_FILE, Components, ModelSource, PredictionType
from lora_core.families.conditioning import Conditioning
from lora_core.settings import AnyModel, RunSettings

if TYPE_CHECKING:
    from lora_core.noise import NoiseProcess

__all__ = [
    "DENOISER",
    "NO_FILE",
    "Components",
    "Conditioning",
    "Drawing",
    "ModelFamily",
    "ModelSource",
    "PredictionType",
    "Target",
]


@dataclass(frozen=True)
class Target:
    """A layer an adapter may be put on, with the name it has in a LoRA file."""

    name: str
    """For example lora_unet_down_blocks_0_attentions_0_proj_in."""
    module: nn.Module
    part: str
    """"unet" for the denoiser of every family, "text_encoder", "text_encoder_2"."""


@dataclass(frozen=True)
class Drawing:
    """What a sampler needs to know of a model."""

    channels: int
    """Of the latents."""
    factor: int
    """Pixels per side of a latent."""
    multiple: int
    """Sides of pictures are multiples of this many pixels."""
    side: int
    """Side of the pictures the model was made for, in pixels."""
    distilled: bool = False
    """It is told the guidance instead of being asked twice (FLUX.1 dev), or needs none (schnell)."""


class ModelFamily(Protocol):
    """The questions a trainer asks of a model. Shapes: B batch, C channels, H height, W width, L tokens."""

    name: str
    text_parts: tuple[str, ...]
    """All its text encoders."""
    trainable_text_parts: tuple[str, ...]

    def load(self, model: AnyModel, *, dtype: dtype, device: device) -> Components:
        """The model of the settings. ``dtype`` is for denoiser and text encoders; the VAE stays float32.

        Raises UserError for a file that is missing, broken, or no model of this family.
        """
        ...

    def encode_prompts(
        self,
        components: Components,
        prompts: Sequence[str],
        model: AnyModel,
        *,
        weighted: bool = False,
        max_token_length: int | None = None,
    ) -> Conditioning:
        """What the denoiser is told, differentiable with respect to the text encoders.

        ``weighted`` reads A1111 syntax, (word:1.2), for sample prompts; captions are taken literally.
        ``max_token_length`` instead of the settings', for prompts longer than captions.
        """
        ...

    def tokens_cut(self, components: Components, prompt: str, *, max_token_length: int) -> int:
        """How many tokens of a caption do not fit and are left out; 0 when all fit."""
        ...

    def keep_frozen_texts(
        self, components: Components, prompts: Iterable[str], model: AnyModel
    ) -> Iterator[tuple[int, int]]:
        """While others are trained: read the prompts with the text encoders that never are, and free those.

        Yields (done, total). ``encode_prompts`` then needs them for other prompts only.
        """
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
        self,
        components: Components,
        noisy_BCHW: Tensor,
        timesteps_B: Tensor,
        conditioning: Conditioning,
        frames_B6: Tensor | None = None,
    ) -> Tensor:
        """What the denoiser predicts (noise or velocity) at the timesteps of its noise process.

        ``frames_B6``: original height and width, crop's top and left, target height and width, in pixels (SDXL's size
        conditioning). None: whole pictures of the latents' size.
        """
        ...

    def noise_process(self, components: Components, settings: RunSettings | None = None) -> "NoiseProcess":
        """The noise the model was trained with, as the settings want it where they have a say."""
        ...

    def adapter_targets(
        self, components: Components, *, text_parts: Collection[str], convolutions: bool = False
    ) -> list[Target]:
        """Layers for adapters: those of the text encoders named first, then of the denoiser, in module order.

        With ``convolutions`` also the convolutions and linear layers of the denoiser's blocks outside attention.
        """
        ...

    def drawing(self, components: Components) -> Drawing:
        """What a sampler needs to know."""
        ...
