"""Adapter weights in bf16 that still learn from small steps.

bf16 keeps 8 bits: a step below 1/512 of a weight rounds to nothing, every time. Rounding up or down by chance, in
proportion to how near each is, is right on average (Gupta et al. 2015, "Deep Learning with Limited Numerical
Precision", section 3), so that many small steps add up to what they are.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter

_LOW_BITS = 16
"""Bits of a float32 that a bf16 lacks; the others are the same."""


def stochastic_round(values: Tensor, generator: torch.Generator) -> Tensor:
    """Float32 ``values`` as bf16, each one of its two neighbours by chance; what bf16 can hold stays as it is."""
    noise = torch.randint(1 << _LOW_BITS, values.shape, dtype=torch.int32, device=values.device, generator=generator)
    bits = (values.contiguous().view(torch.int32) + noise) & -(1 << _LOW_BITS)
    return torch.where(values.isfinite(), bits.view(torch.float32), values).to(torch.bfloat16)


@contextmanager
def in_float32(parameters: Sequence[Parameter], seed: int) -> Iterator[None]:
    """Inside, bf16 weights and their gradients are float32, for an optimizer to step; then the weights are rounded.

    Works with every optimizer, whose own state is then float32 as well. ``seed`` decides the rounding. The gradients
    are gone afterwards. Nothing happens to float32 weights.
    """
    narrow = [parameter for parameter in parameters if parameter.dtype == torch.bfloat16]
    if not narrow:
        yield
        return
    _widen(narrow)
    try:
        yield
    finally:
        _narrow(narrow, torch.Generator(narrow[0].device).manual_seed(seed))


@torch.no_grad()
def _widen(parameters: Sequence[Parameter]) -> None:
    gradients = [parameter.grad for parameter in parameters]
    wide = iter(_flat_views([gradient for gradient in gradients if gradient is not None]))
    for parameter, gradient, weight in zip(parameters, gradients, _flat_views(parameters), strict=True):
        parameter.grad = None
        parameter.data = weight
        if gradient is not None:
            parameter.grad = next(wide)


@torch.no_grad()
def _narrow(parameters: Sequence[Parameter], generator: torch.Generator) -> None:
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    rounded = stochastic_round(flat, generator).split([parameter.numel() for parameter in parameters])
    for parameter, weight in zip(parameters, rounded, strict=True):
        parameter.grad = None
        parameter.data = weight.view(parameter.shape)


def _flat_views(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each tensor in float32, as a part of one long one: one kernel for all instead of one launch each."""
    if not tensors:
        return []
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).float()
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
