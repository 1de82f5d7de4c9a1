"""From noise to latents: the samplers people know by name, and the loop that runs them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from lora_core.errors import Stopped
from lora_core.flow import FlowMatching
from lora_core.generate.flow_euler import FlowEuler
from lora_core.generate.prompts import SAMPLER_NAMES
from lora_core.noise import NoiseProcess

OnStep = Callable[[int, int], bool | None]
"""(steps done, steps in all) -> False to stop drawing."""


class Sampler(NamedTuple):
    scheduler: type
    options: dict[str, Any]


SAMPLERS: dict[str, Sampler] = {
    "euler_a": Sampler(EulerAncestralDiscreteScheduler, {}),
    "euler": Sampler(EulerDiscreteScheduler, {}),
    # Trailing: the first step is at pure noise, where drawing starts (Lin et al. 2023, section 3.3).
    "ddim": Sampler(DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "trailing"}),
    "dpmpp_2m_karras": Sampler(DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "unipc": Sampler(UniPCMultistepScheduler, {}),
}


_FROM_PURE_NOISE = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
"""For models whose last timestep holds no signal: drawing has to begin exactly there (Lin et al. 2023, section 3)."""


def make_scheduler(name: str, noise: NoiseProcess, tokens: int = 0) -> Any:
    """diffusers' scheduler of that name for the noise a model was trained with; flow models have one of their own.

    ``tokens``: how many places the denoiser attends to, where that counts.
    """
    if isinstance(noise, FlowMatching):
        return FlowEuler(noise, tokens)
    scheduler, options = SAMPLERS[name]
    if noise.zero_terminal_snr:
        options = options | _FROM_PURE_NOISE
    return scheduler(
        num_train_timesteps=noise.steps,
        beta_start=noise.beta_start,
        beta_end=noise.beta_end,
        beta_schedule=noise.schedule,
        prediction_type=noise.prediction_type,
        **options,
    )


def sampler_title(name: str, noise: NoiseProcess) -> str:
    """What a picture says of how it was drawn: where a flow model can't use the sampler asked for, both."""
    if not isinstance(noise, FlowMatching):
        return SAMPLER_NAMES[name]
    return "Euler (flow)" if name == "euler" else f"Euler (flow) in place of {SAMPLER_NAMES[name]}"


def guided(negative: Tensor, positive: Tensor, scale: float) -> Tensor:
    """Away from the negative prompt: n + scale (p - n); Ho and Salimans 2022, with A1111's meaning of scale."""
    return negative + scale * (positive - negative)


@torch.no_grad()
def sample(
    predict: Callable[[Tensor, Tensor], Tensor],
    scheduler: Any,
    noise_BCHW: Tensor,
    steps: int,
    generator: torch.Generator,
    on_step: OnStep | None = None,
) -> Tensor:
    """Latents (B, C, H, W), float32, drawn from unit noise.

    ``predict`` answers (latents, timesteps (B,)) as the model was trained to. ``generator`` is on the CPU and feeds
    samplers that add noise on the way. Raises Stopped when ``on_step`` says so.
    """
    scheduler.set_timesteps(steps, device=noise_BCHW.device)
    latents = noise_BCHW.float() * scheduler.init_noise_sigma
    extra = (
        {} if isinstance(scheduler, DPMSolverMultistepScheduler | UniPCMultistepScheduler) else {"generator": generator}
    )
    for done, t in enumerate(scheduler.timesteps, start=1):
        prediction = predict(scheduler.scale_model_input(latents, t), t.expand(len(latents))).float()
        latents = scheduler.step(prediction, t, latents, **extra).prev_sample
        if on_step and on_step(done, len(scheduler.timesteps)) is False:
            raise Stopped
    return latents
