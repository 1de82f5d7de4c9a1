"""What a LoRA did, in numbers: how well it knows its subject, and how far it moved everything else.

Both measures ask a model for its noise prediction at fixed pictures, noise and timesteps, so that two runs of the same
model give the same number and two models differ by what they learnt alone. A model comes in as a plain function.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from lora_core.noise import diffuse

Predict = Callable[[Tensor, Tensor, Sequence[str]], Tensor]
"""(noisy_BCHW, timesteps_B int64, B prompts) -> predicted noise_BCHW."""

TIMESTEPS = (50, 200, 350, 500, 650, 800, 950)
"""From fine detail to overall shape, of 1000."""


def noisy_copies(
    latent_CHW: Tensor, alphas_cumprod_T: Tensor, timesteps: Sequence[int], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """One picture at each of the timesteps: (noisy_BCHW, noise_BCHW, timesteps_B)."""
    steps = torch.tensor(timesteps)
    noise = torch.randn(len(steps), *latent_CHW.shape, generator=generator)
    latents = latent_CHW.float().expand_as(noise)
    return diffuse(latents, noise, alphas_cumprod_T[steps].float().view(-1, 1, 1, 1)), noise, steps


@torch.no_grad()
def denoising_loss(
    predict: Predict,
    pictures: Iterable[tuple[Tensor, str]],
    alphas_cumprod_T: Tensor,
    *,
    timesteps: Sequence[int] = TIMESTEPS,
    draws: int = 4,
    seed: int = 0,
) -> float:
    """Mean squared error of the predicted noise over pictures, timesteps and `draws` of noise. Lower knows them better.

    `pictures` are (scaled latents (C, H, W), caption); their sizes may differ. A model that always answers zero has 1.
    """
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for latent, caption in pictures:
        noisy, noise, steps = noisy_copies(latent, alphas_cumprod_T, list(timesteps) * draws, generator)
        errors.append((predict(noisy, steps, [caption] * len(steps)).float() - noise).square().mean())
    if not errors:
        raise ValueError("No pictures to measure the denoising loss on.")
    return torch.stack(errors).mean().item()


@torch.no_grad()
def drift(
    predict: Predict,
    predict_base: Predict,
    prompt: str,
    latents: Iterable[Tensor],
    alphas_cumprod_T: Tensor,
    *,
    timesteps: Sequence[int] = TIMESTEPS,
    draws: int = 2,
    seed: int = 0,
) -> float:
    """Mean squared change of the prediction for `prompt` against the base model. 0 where the LoRA left it alone.

    `latents` (each C, H, W, scaled) are what the prompt should show, for example the base model's own drawings.
    """
    generator = torch.Generator().manual_seed(seed)
    changes = []
    for latent in latents:
        noisy, _, steps = noisy_copies(latent, alphas_cumprod_T, list(timesteps) * draws, generator)
        prompts = [prompt] * len(steps)
        changes.append((predict(noisy, steps, prompts) - predict_base(noisy, steps, prompts)).float().square().mean())
    if not changes:
        raise ValueError(f"No latents to measure the drift of {prompt!r} on.")
    return torch.stack(changes).mean().item()
