"""What noise is added to a picture, and what the model is asked to say about it.

Symbols: x0 clean latents, epsilon noise, alpha_bar the share of signal left (``alphas_cumprod`` in diffusers),
x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) epsilon.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

import torch
from torch import Tensor

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


def diffuse(x0: Tensor, epsilon: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) epsilon; DDPM equation 4. alpha_bar broadcasts against x0."""
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * epsilon


def velocity(x0: Tensor, epsilon: Tensor, alpha_bar: Tensor) -> Tensor:
    """v = sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) x0; Salimans and Ho 2022, appendix D."""
    return alpha_bar.sqrt() * epsilon - (1 - alpha_bar).sqrt() * x0


def min_snr(snr: Tensor, gamma: float, prediction_type: PredictionType) -> Tensor:
    """Loss weight min(snr, gamma) / snr, and / (snr + 1) for velocity; Hang et al. 2023, section 3.4."""
    return snr.clamp(max=gamma) / (snr if prediction_type == "epsilon" else snr + 1)


def offset_noise(shape: Sequence[int], generator: torch.Generator, offset: float | None = None) -> Tensor:
    """Noise (B, C, H, W) on the CPU, each channel shifted by ``offset`` times one more normal draw.

    The shift lets a model learn pictures that are darker or brighter than average (Guttenberg 2023).
    """
    noise = torch.randn(tuple(shape), generator=generator)
    if offset:
        noise += offset * torch.randn((*shape[:2], 1, 1), generator=generator)
    return noise


class NoiseProcess(Protocol):
    """What training asks of the way noise is added, discrete (Ddpm) or continuous (flow matching)."""

    prediction_type: str

    def to(self, device: torch.device | str) -> Self:
        """With its tables on a device."""
        ...

    def sample_timesteps(self, n: int, generator: torch.Generator, latent_tokens: int | None = None) -> Tensor:
        """(n,) timesteps on the CPU. ``latent_tokens``: how many places the denoiser attends to, where that counts."""
        ...

    def offset_noise(self, shape: Sequence[int], generator: torch.Generator, offset: float | None = None) -> Tensor:
        """Noise of a shape, on the CPU."""
        ...

    def add_noise(self, x0_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """The noisy latents the model sees."""
        ...

    def target(self, x0_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """What the model should answer."""
        ...

    def snr(self, t_B: Tensor) -> Tensor:
        """(B,) signal-to-noise ratio."""
        ...

    def min_snr_weight(self, t_B: Tensor, gamma: float) -> Tensor:
        """(B,) factor for the loss of each sample."""
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
    alpha_bar: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        table = signal_left(self.beta_start, self.beta_end, self.steps, self.schedule)
        object.__setattr__(self, "alpha_bar", table)

    def to(self, device: torch.device | str) -> "Ddpm":
        """Moves the table once, so that a step on a graphics card copies nothing."""
        object.__setattr__(self, "alpha_bar", self.alpha_bar.to(device))
        return self

    def sample_timesteps(self, n: int, generator: torch.Generator, latent_tokens: int | None = None) -> Tensor:
        """(n,) int64 on the CPU, each step equally likely."""
        return torch.randint(0, self.steps, (n,), generator=generator)

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
