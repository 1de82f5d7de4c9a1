"""Flow matching: noise that is mixed in along a straight line, as FLUX.1 was trained with.

Symbols: x0 clean latents, n noise, sigma in (0, 1] the share of noise, x_t = (1 - sigma) x0 + sigma n. Time t is
1000 sigma, a real number. The model is asked for the direction n - x0 (rectified flow; Liu et al. 2022, equation 1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lora_core.noise import offset_noise

TimestepSampling = Literal["uniform", "sigmoid", "shift", "flux_shift", "logit_normal"]

STEPS = 1000
"""Time t that is nothing but noise."""
BASE_TOKENS, BASE_MU = 256, 0.5
MAX_TOKENS, MAX_MU = 4096, 1.15
"""Two points of the line by which FLUX.1 dev shifts noise with the size: 256 tokens are 256 x 256 pixels, 4096 are
1024 x 1024."""


def interpolate(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_t = (1 - sigma) x0 + sigma n; Esser et al. 2024 (Stable Diffusion 3), equation 13. sigma broadcasts."""
    return (1 - sigma) * x0 + sigma * noise


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """s sigma / (1 + (s - 1) sigma): more noise for s > 1; Esser et al. 2024, equation 23."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def flux_mu(tokens: int) -> float:
    """The logarithm of the shift that FLUX.1 dev has at a size, linear in its tokens (one for 16 x 16 pixels)."""
    slope = (MAX_MU - BASE_MU) / (MAX_TOKENS - BASE_TOKENS)
    return BASE_MU + slope * (tokens - BASE_TOKENS)


def flux_shift(tokens: int) -> float:
    """e^mu: 1.65 at 256 tokens, 3.16 at 4096."""
    return math.exp(flux_mu(tokens))


@dataclass(frozen=True)
class FlowMatching:
    """The noise of FLUX.1. Timesteps are (B,) float32 in (0, 1000].

    Every random draw comes from a generator on the CPU, so that a seed means the same on every device. One number is
    drawn for each sample, whichever the distribution.
    """

    sampling: TimestepSampling = "flux_shift"
    sigmoid_scale: float = 1.0
    """How far the sigmoid's draws spread: below 1 they gather in the middle."""
    shift: float = 3.1582
    """Of "shift". The default is what flux_shift is at 1024 x 1024 pixels."""
    logit_mean: float = 0.0
    logit_std: float = 1.0
    min_timestep: float = 0.0
    max_timestep: float = STEPS
    """Trained times are drawn from this part of the whole, distributed in it as otherwise in the whole."""
    shifts_with_size: bool = True
    """Whether pictures are drawn with more noise the larger they are: FLUX.1 dev yes, schnell no."""
    steps: int = STEPS
    prediction_type: Literal["flow"] = "flow"

    def to(self, device: torch.device | str) -> "FlowMatching":
        """Itself: there is no table to be moved."""
        return self

    def sample_timesteps(self, n: int, generator: torch.Generator, latent_tokens: int | None = None) -> Tensor:
        """(n,) float32 in (0, 1000] on the CPU. ``latent_tokens``, height / 16 x width / 16 pixels, is for flux_shift.

        Raises ValueError when flux_shift does not get it.
        """
        sigmas = self._sample_sigmas(n, generator, latent_tokens)
        return self.min_timestep + (self.max_timestep - self.min_timestep) * sigmas

    def _sample_sigmas(self, n: int, generator: torch.Generator, latent_tokens: int | None) -> Tensor:
        if self.sampling == "uniform":
            return 1 - torch.rand(n, generator=generator)  # rand is in [0, 1)
        normal = torch.randn(n, generator=generator)
        if self.sampling == "logit_normal":
            return _inside(torch.sigmoid(self.logit_mean + self.logit_std * normal))
        sigma = torch.sigmoid(self.sigmoid_scale * normal)
        if self.sampling == "shift":
            sigma = shifted(sigma, self.shift)
        elif self.sampling == "flux_shift":
            if latent_tokens is None:
                raise ValueError("flux_shift needs the number of tokens")
            sigma = shifted(sigma, flux_shift(latent_tokens))
        return _inside(sigma)

    def offset_noise(self, shape: Sequence[int], generator: torch.Generator, offset: float | None = None) -> Tensor:
        """See the function of the same name."""
        return offset_noise(shape, generator, offset)

    def add_noise(self, x0_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """The noisy latents the model sees."""
        return interpolate(x0_BCHW, noise_BCHW, self._sigma_B111(t_B, x0_BCHW))

    def target(self, x0_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """What the model should answer: the way from the picture to the noise, the same at every time."""
        return noise_BCHW - x0_BCHW

    def snr(self, t_B: Tensor) -> Tensor:
        """(B,) signal-to-noise ratio ((1 - sigma) / sigma)^2."""
        sigma = t_B / self.steps
        return ((1 - sigma) / sigma).square()

    def min_snr_weight(self, t_B: Tensor, gamma: float) -> Tensor:
        """(B,) ones: the direction is of the same size at every time, there is nothing to be evened out."""
        return torch.ones_like(t_B)

    def _sigma_B111(self, t_B: Tensor, like: Tensor) -> Tensor:
        return (t_B / self.steps).to(like).view(-1, 1, 1, 1)


def _inside(sigma: Tensor) -> Tensor:
    """float32 rounds the sigmoid of a very small number to 0, where there would be no noise to be found."""
    return sigma.clamp(min=1 / (100 * STEPS))
