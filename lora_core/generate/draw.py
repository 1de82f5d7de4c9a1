"""One prompt to one picture, with whatever adapters are attached to the model."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from lora_core.families.base import NO_FILE, Components, Conditioning, Drawing, ModelFamily
from lora_core.generate.picture import Picture, sample_file_name, save_png
from lora_core.generate.prompts import SamplePrompt, floor_to
from lora_core.generate.samplers import OnStep, guided, make_scheduler, sample, sampler_title
from lora_core.settings import AnyModel, SampleSettings

__all__ = ["Picture", "draw", "sample_file_name", "save_png"]

Encode = Callable[..., Conditioning]
"""(prompts, weighted=, max_token_length=) -> conditioning, as ``EncodedTexts`` answers."""
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
    model: AnyModel,
    *,
    on_step: OnStep | None = None,
    encode: Encode | None = None,
    on_latents: Callable[[Tensor], object] | None = None,
) -> Picture:
    """The picture of a prompt; the same on every device for the same seed, as far as its arithmetic is.

    ``encode`` reads the prompts instead of the text encoders, which are then not needed. ``on_latents`` gets the
    finished latents (1, C, H, W), float32, before they are decoded. Touches no global random
    numbers and leaves the model in the mode it was in. Raises Stopped when ``on_step`` does.
    """
    request = _filled_in(prompt, defaults, family.drawing(components))
    with evaluating(components):
        latents = _drawn(family, components, request, model, on_step, encode)
        if on_latents:
            on_latents(latents)
        image = to_image(family.decode(components, latents)[0])
    details = _details(request, components, model, sampler_title(request.sampler, family.noise_process(components)))
    if family.drawing(components).distilled:
        details |= {"CFG scale": 1.0, "Distilled CFG Scale": float(request.guidance)}
    return Picture(image, request.text, request.seed, request.negative, details)


@torch.no_grad()
def drawn_latents(
    family: ModelFamily,
    components: Components,
    prompt: SamplePrompt,
    defaults: SampleSettings,
    model: AnyModel,
    *,
    encode: Encode | None = None,
) -> Tensor:
    """The latents (1, C, H, W), float32, of the picture that ``draw`` gives. The VAE is not needed."""
    request = _filled_in(prompt, defaults, family.drawing(components))
    with evaluating(components):
        return _drawn(family, components, request, model, None, encode)


def _drawn(
    family: ModelFamily,
    components: Components,
    request: _Request,
    model: AnyModel,
    on_step: OnStep | None,
    encode: Encode | None,
) -> Tensor:
    facts = family.drawing(components)
    generator = torch.Generator().manual_seed(request.seed)
    shape = (1, facts.channels, request.height // facts.factor, request.width // facts.factor)
    noise = torch.randn(shape, generator=generator).to(components.device)
    predict = _predictor(family, components, request, model, encode)
    scheduler = make_scheduler(request.sampler, family.noise_process(components), noise[0, 0].numel() // 4)
    return sample(predict, scheduler, noise, request.steps, generator, on_step)


@contextmanager
def evaluating(components: Components) -> Iterator[None]:
    """Evaluation mode for all parts; afterwards every module is as it was."""
    parts = components.loaded.values()
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


def _filled_in(prompt: SamplePrompt, defaults: SampleSettings, facts: Drawing) -> _Request:
    return _Request(
        text=prompt.text,
        negative=prompt.negative,
        width=floor_to(prompt.width or facts.side, facts.multiple),
        height=floor_to(prompt.height or facts.side, facts.multiple),
        seed=defaults.seed if prompt.seed is None else prompt.seed,
        guidance=defaults.guidance if prompt.guidance is None else prompt.guidance,
        steps=prompt.steps or defaults.steps,
        sampler=prompt.sampler or defaults.sampler,
    )


def prompts_asked(
    family: ModelFamily, components: Components, prompt: SamplePrompt, model: AnyModel, encode: Encode
) -> None:
    """Asks ``encode`` for what ``draw`` will ask it for, with guidance or without."""
    distilled = family.drawing(components).distilled
    for prompts in ([prompt.text],) if distilled else ([prompt.text], [prompt.negative, prompt.text]):
        _encoded(family, components, prompts, model, encode)


def _predictor(
    family: ModelFamily, components: Components, request: _Request, model: AnyModel, encode: Encode | None
) -> Callable[[Tensor, Tensor], Tensor]:
    """The model's answer with classifier-free guidance; both prompts in one pass. Scale 1 needs no negative."""
    distilled = family.drawing(components).distilled
    plain = request.guidance == 1 or distilled
    prompts = [request.text] if plain else [request.negative, request.text]
    conditioning = _encoded(family, components, prompts, model, encode)
    if distilled:
        told = torch.full((1,), float(request.guidance), device=components.device)
        conditioning = conditioning.with_tensors(guidance=told)

    def predict(latents: Tensor, t: Tensor) -> Tensor:
        if plain:
            return family.predict(components, latents, t, conditioning)
        both = family.predict(components, torch.cat([latents] * 2), torch.cat([t] * 2), conditioning)
        return guided(*both.float().chunk(2), request.guidance)

    return predict


def _encoded(
    family: ModelFamily, components: Components, prompts: Sequence[str], model: AnyModel, encode: Encode | None
) -> Conditioning:
    """Prompts with their weights, each with room for the longest of them."""
    least = getattr(model, "max_token_length", 0)
    length = max(least, *(tokens_needed(family, components, prompt) for prompt in prompts))
    if encode is not None:
        return encode(prompts, weighted=True, max_token_length=length)
    return family.encode_prompts(components, prompts, model, weighted=True, max_token_length=length)


def tokens_needed(family: ModelFamily, components: Components, prompt: str) -> int:
    """Room for a whole prompt, in full chunks: a sample is not cut where a caption would be."""
    parts = re.split(r"\bBREAK\b", prompt)
    tokens = (family.tokens_cut(components, part, max_token_length=0) for part in parts)
    return CHUNK * sum(max(1, -(-count // CHUNK)) for count in tokens)


def _details(request: _Request, components: Components, model: AnyModel, sampler: str) -> dict[str, str | int | float]:
    source = components.source
    details: dict[str, str | int | float] = {
        "Steps": request.steps,
        "Sampler": sampler,
        "CFG scale": float(request.guidance),
        "Seed": request.seed,
        "Size": f"{request.width}x{request.height}",
    }
    if source.legacy_hash != NO_FILE:
        details["Model hash"] = source.legacy_hash
    details["Model"] = source.name.removesuffix(".safetensors").removesuffix(".ckpt")
    if getattr(model, "clip_skip", 1) > 1:
        details["Clip skip"] = model.clip_skip
    return details
