"""Drawing with a flow model: straight steps along the direction it names."""

from types import SimpleNamespace

import torch
from torch import Tensor

from lora_core.flow import FlowMatching, flux_shift, shifted


def flow_sigmas(steps: int, shift: float) -> Tensor:
    """(steps + 1,) float32 from 1 down to 0: even steps, shifted; as diffusers' FluxPipeline has them."""
    even = torch.linspace(1, 1 / steps, steps, dtype=torch.float64)
    return torch.cat([shifted(even, shift), torch.zeros(1, dtype=torch.float64)]).float()


class FlowEuler:
    """Euler's method for dx / dsigma = n - x0, with the verbs of diffusers' schedulers.

    There is no noise to be added on the way and no scaling of the input.
    """

    init_noise_sigma = 1.0

    def __init__(self, noise: FlowMatching, tokens: int):
        """``tokens`` of the picture: FLUX.1 dev has more noise in larger ones."""
        self._steps_in_all = noise.steps
        self._shift = flux_shift(tokens) if noise.shifts_with_size else 1.0
        self._sigmas: list[float] = []
        self.timesteps = torch.empty(0)

    def set_timesteps(self, steps: int, device: torch.device) -> None:
        sigmas = flow_sigmas(steps, self._shift)
        self._sigmas, self._done = sigmas.tolist(), 0
        self.timesteps = (sigmas[:-1] * self._steps_in_all).to(device)

    def scale_model_input(self, latents: Tensor, t: Tensor) -> Tensor:
        return latents

    def step(self, direction: Tensor, t: Tensor, latents: Tensor, **_: object) -> SimpleNamespace:
        """The latents after one step; ``t`` must be the next of ``timesteps``."""
        now, then = self._sigmas[self._done : self._done + 2]
        self._done += 1
        return SimpleNamespace(prev_sample=latents + (then - now) * direction)
