"""What noise is added to a picture, and what the model is asked to say about it.

Symbols: x0 clean latents, epsilon noise, alpha_bar the share of signal left (``alphas_cumprod`` in diffusers),
x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) epsilon.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from lora_core.settings import NoiseSettings

PredictionType = Literal["epsilon", "v_prediction"]
Schedule = Literal["scaled_linear", "linear"]


def signal_left(beta_start: float, beta_end: float, steps: int, schedule: Schedule) -> Tensor:
    """(steps,) float32 alpha_bar_t = prod_{s<=t} (1 - beta_s); DDPM, Ho et al. 2020, section 2.

    In "linear" beta rises linearly, as there; in "scaled_linear" sqrt(beta) does, as in Stable Diffusion.
    """
    if schedule == "linear":
        betas = torch.linspace(beta_start, beta_end, steps, dtype=torch.float32)
    else:
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float32) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def zero_terminal(alpha_bar: Tensor) -> Tensor:
    """alpha_bar moved and stretched so that nothing of the signal is left at the last step; the first stays.

    Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", algorithm 1. Through beta and back
    as there, so that the numbers are those the samplers compute.
    """
    root = alpha_bar.sqrt()
    first, last = root[0].clone(), root[-1].clone()
    stretched = ((root - last) * (first / (first - last))).square()
    alphas = torch.cat([stretched[:1], stretched[1:] / stretched[:-1]])
    betas = 1 - alphas
    return torch.cumprod(1.0 - betas, dim=0)


def diffuse(x0: Tensor, epsilon: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) epsilon; DDPM equation 4. alpha_bar broadcasts against x0."""
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * epsilon


def velocity(x0: Tensor, epsilon: Tensor, alpha_bar: Tensor) -> Tensor:
    """v = sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) x0; Salimans and Ho 2022, appendix D."""
    return alpha_bar.sqrt() * epsilon - (1 - alpha_bar).sqrt() * x0


def min_snr(snr: Tensor, gamma: float, prediction_type: PredictionType) -> Tensor:
    """Loss weight min(snr, gamma) / snr, and / (snr + 1) for velocity; Hang et al. 2023, section 3.4."""
    if prediction_type == "epsilon":
        return (snr.clamp(max=gamma) / snr).nan_to_num(nan=1.0)  # 0 / 0: nothing of the signal is left
    return snr.clamp(max=gamma) / (snr + 1)


def offset_noise(shape: Sequence[int], generator: torch.Generator, offset: float | None = None) -> Tensor:
    """Noise (B, C, H, W) on the CPU, each channel shifted by ``offset`` times one more normal draw.

    The shift lets a model learn pictures that are darker or brighter than average (Guttenberg 2023).
    """
    noise = torch.randn(tuple(shape), generator=generator)
    if offset:
        noise += offset * torch.randn((*shape[:2], 1, 1), generator=generator)
    return noise


def obeying(schedule: Mapping[str, Any], noise: NoiseSettings) -> dict[str, Any]:
    """The arguments of a model's Ddpm with what the settings have to say about it.

    Those of other processes stay as they are.
    """
    if "beta_start" not in schedule:
        return dict(schedule)
    last = noise.max_timestep if noise.max_timestep < schedule["steps"] else None
    wanted = {"min_timestep": noise.min_timestep, "max_timestep": last}
    if noise.zero_terminal_snr != "auto":
        wanted["zero_terminal_snr"] = noise.zero_terminal_snr == "on"
    return {**schedule, **wanted}


class NoiseProcess(Protocol):
    """What training asks of the way noise is added, discrete (Ddpm) or continuous (flow matching)."""

    prediction_type: str
    steps: int
    """Timesteps of the whole way from picture to noise."""

    def to(self, device: torch.device | str) -> Self:
        """With its tables on a device."""
        ...

    def sample_timesteps(self, n: int, generator: torch.Generator, latent_tokens: int | None = None) -> Tensor:
        """(n,) timesteps on the CPU. ``latent_tokens``: how many places the denoiser attends to, where that counts."""
        ...

    def add_noise(self, x0_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """The noisy latents the model sees."""
        ...

    def target(self, x0_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """What the model should answer."""
        ...

    def snr(self, t_B: Tensor) -> Tensor:
        """(B,) signal-to-noise ratio, 0 where nothing of the signal is left."""
        ...


@dataclass(frozen=True)
class Ddpm:
    """The discrete noise process of Stable Diffusion 1.x, equal to diffusers' DDPMScheduler.

    Timesteps are (B,) int64 in [0, steps). Every random draw comes from a generator on the CPU, so that a seed means
    the same on every device.
    """

    prediction_type: PredictionType = "epsilon"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    steps: int = 1000
    schedule: Schedule = "scaled_linear"
    zero_terminal_snr: bool = False
    """Nothing of the picture is left at the last step."""
    min_timestep: int = 0
    max_timestep: int | None = None
    """Steps in [min_timestep, max_timestep) are trained; None: up to the last."""
    alpha_bar: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        table = signal_left(self.beta_start, self.beta_end, self.steps, self.schedule)
        object.__setattr__(self, "alpha_bar", zero_terminal(table) if self.zero_terminal_snr else table)

    def to(self, device: torch.device | str) -> "Ddpm":
        """Moves the table once, so that a step on a graphics card copies nothing."""
        object.__setattr__(self, "alpha_bar", self.alpha_bar.to(device))
        return self

    def sample_timesteps(self, n: int, generator: torch.Generator, latent_tokens: int | None = None) -> Tensor:
        """(n,) int64 on the CPU, each step of the trained range equally likely."""
        return torch.randint(self.min_timestep, self.max_timestep or self.steps, (n,), generator=generator)

    def offset_noise(self, shape: Sequence[int], generator: torch.Generator, offset: float | None = None) -> Tensor:
        """See the function of the same name."""
        return offset_noise(shape, generator, offset)

    def add_noise(self, x0_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """The noisy latents the model sees."""
        return diffuse(x0_BCHW, noise_BCHW, self._alpha_bar_B111(t_B))

    def target(self, x0_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """What the model should answer: the noise, or the velocity."""
        if self.prediction_type == "epsilon":
            return noise_BCHW
        return velocity(x0_BCHW, noise_BCHW, self._alpha_bar_B111(t_B))

    def snr(self, t_B: Tensor) -> Tensor:
        """(B,) signal-to-noise ratio alpha_bar / (1 - alpha_bar)."""
        alpha_bar = self._alpha_bar(t_B)
        return alpha_bar / (1 - alpha_bar)

    def min_snr_weight(self, t_B: Tensor, gamma: float) -> Tensor:
        """(B,) factor for the loss of each sample."""
        return min_snr(self.snr(t_B), gamma, self.prediction_type)

    def _alpha_bar(self, t_B: Tensor) -> Tensor:
        return self.alpha_bar.to(t_B.device)[t_B]

    def _alpha_bar_B111(self, t_B: Tensor) -> Tensor:
        return self._alpha_bar(t_B).view(-1, 1, 1, 1)
