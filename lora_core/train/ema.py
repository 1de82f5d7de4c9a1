"""A running average of the adapter's weights, on their device: smoother than the weights of the last step.

Polyak averaging with the usual warm-up of the decay, as diffusers' EMAModel has it: without, the average would hold
on to the untrained start for 1 / (1 - decay) steps.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter


def decay_at(step: int, decay: float) -> float:
    """How much of the average is kept at step ``step`` (counted from 1): (1 + n) / (10 + n) of n steps before it."""
    before = step - 1
    return min(decay, (1 + before) / (10 + before)) if before > 0 else 0.0


class Ema:
    """The average, in float32 whatever the weights are in."""

    def __init__(self, parameters: Iterable[tuple[str, Parameter]], decay: float):
        named = list(parameters)
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.decay = decay
        self.restart()

    @torch.no_grad()
    def restart(self) -> None:
        """The average is what the weights are now."""
        self.averages = [parameter.detach().to(torch.float32, copy=True) for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step ``step``, counted from 1."""
        weights = [parameter.detach().float() for parameter in self.parameters]
        torch._foreach_lerp_(self.averages, weights, 1.0 - decay_at(step, self.decay))

    @contextmanager
    def weights(self) -> Iterator[None]:
        """Inside, the adapter's weights are the averages; afterwards they are the very tensors they were."""
        kept = [parameter.data for parameter in self.parameters]
        try:
            for parameter, average in zip(self.parameters, self.averages, strict=True):
                parameter.data = average
            yield
        finally:
            for parameter, before in zip(self.parameters, kept, strict=True):
                parameter.data = before

    def state_dict(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.averages, strict=True))

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """KeyError where a weight is missing, RuntimeError where a shape differs."""
        for name, average in zip(self.names, self.averages, strict=True):
            if state[name].shape != average.shape:
                raise RuntimeError(f"{name}: {tuple(state[name].shape)} saved, {tuple(average.shape)} here")
            average.copy_(state[name])
