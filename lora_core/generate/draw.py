"""One prompt to one picture, with whatever adapters are attached to the model."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from lora_core.families.base import NO_FILE, Components, ModelFamily
from lora_core.generate.picture import Picture, sample_file_name, save_png
from lora_core.generate.prompts import SAMPLER_NAMES, SamplePrompt, floor_to
from lora_core.generate.samplers import OnStep, guided, make_scheduler, sample
from lora_core.settings import ModelSettings, SampleSettings

__all__ = ["Picture", "draw", "sample_file_name", "save_png"]

SIZE_MULTIPLE = 8
"""Sides of pictures are multiples of this many pixels, and of the VAE's factor."""
CHUNK = 75
"""Tokens that are read at once."""


@dataclass(frozen=True)
class _Request:
    """A prompt with everything filled in."""

    text: str
    negative: str
    width: int
    height: int
    seed: int
    guidance: float
    steps: int
    sampler: str


@torch.no_grad()
def draw(
    family: ModelFamily,
    components: Components,
    prompt: SamplePrompt,
    defaults: SampleSettings,
    model: ModelSettings,
    *,
    on_step: OnStep | None = None,
) -> Picture:
    """The picture of a prompt; the same on every device for the same seed, as far as its arithmetic is.

    Touches no global random numbers and leaves the model in the mode it was in. Raises Stopped when ``on_step`` does.
    """
    request = _filled_in(prompt, defaults, components)
    generator = torch.Generator().manual_seed(request.seed)
    factor = components.vae_factor
    shape = (1, components.denoiser.config.in_channels, request.height // factor, request.width // factor)
    noise = torch.randn(shape, generator=generator).to(components.device)
    with evaluating(components):
        predict = _predictor(family, components, request, model)
        scheduler = make_scheduler(request.sampler, family.noise_process(components))
        latents = sample(predict, scheduler, noise, request.steps, generator, on_step)
        image = to_image(family.decode(components, latents)[0])
    return Picture(image, request.text, request.seed, request.negative, _details(request, components, model))


@contextmanager
def evaluating(components: Components) -> Iterator[None]:
    """Evaluation mode for all parts; afterwards every module is as it was."""
    parts = (components.denoiser, components.text_encoder, components.vae)
    training: list[nn.Module] = [module for part in parts for module in part.modules() if module.training]
    for part in parts:
        part.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def to_image(pixels_CHW: Tensor) -> Image.Image:
    """RGB of pixels in [-1, 1]. What is no number becomes grey."""
    bytes_HWC = ((pixels_CHW.float().nan_to_num() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(bytes_HWC.permute(1, 2, 0).cpu().numpy())


def native_side(components: Components) -> int:
    """Side of the pictures the model was made for, in pixels: 512 for Stable Diffusion 1.5."""
    size = components.denoiser.config.sample_size
    return (max(size) if isinstance(size, list | tuple) else size) * components.vae_factor


def _filled_in(prompt: SamplePrompt, defaults: SampleSettings, components: Components) -> _Request:
    multiple = max(SIZE_MULTIPLE, components.vae_factor)
    side = native_side(components)
    return _Request(
        text=prompt.text,
        negative=prompt.negative,
        width=floor_to(prompt.width or side, multiple),
        height=floor_to(prompt.height or side, multiple),
        seed=defaults.seed if prompt.seed is None else prompt.seed,
        guidance=defaults.guidance if prompt.guidance is None else prompt.guidance,
        steps=prompt.steps or defaults.steps,
        sampler=prompt.sampler or defaults.sampler,
    )


def _predictor(family: ModelFamily, components: Components, request: _Request, model: ModelSettings):
    """The model's answer with classifier-free guidance; both prompts in one pass. Scale 1 needs no negative."""
    plain = request.guidance == 1
    prompts = [request.text] if plain else [request.negative, request.text]
    length = max(model.max_token_length, *(tokens_needed(family, components, p) for p in prompts))
    conditioning = family.encode_prompts(
        components, prompts, clip_skip=model.clip_skip, max_token_length=length, weighted=True
    )

    def predict(latents: Tensor, t: Tensor) -> Tensor:
        if plain:
            return family.predict(components, latents, t, conditioning)
        both = family.predict(components, torch.cat([latents] * 2), torch.cat([t] * 2), conditioning)
        return guided(*both.float().chunk(2), request.guidance)

    return predict


def tokens_needed(family: ModelFamily, components: Components, prompt: str) -> int:
    """Room for a whole prompt, in full chunks: a sample is not cut where a caption would be."""
    parts = re.split(r"\bBREAK\b", prompt)
    tokens = (family.tokens_cut(components, part, max_token_length=0) for part in parts)
    return CHUNK * sum(max(1, -(-count // CHUNK)) for count in tokens)


def _details(request: _Request, components: Components, model: ModelSettings) -> dict[str, str | int | float]:
    source = components.source
    details: dict[str, str | int | float] = {
        "Steps": request.steps,
        "Sampler": SAMPLER_NAMES[request.sampler],
        "CFG scale": float(request.guidance),
        "Seed": request.seed,
        "Size": f"{request.width}x{request.height}",
    }
    if source.legacy_hash != NO_FILE:
        details["Model hash"] = source.legacy_hash
    details["Model"] = source.name.removesuffix(".safetensors").removesuffix(".ckpt")
    if model.clip_skip > 1:
        details["Clip skip"] = model.clip_skip
    return details
