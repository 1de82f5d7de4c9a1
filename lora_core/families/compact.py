"""Frozen weights in 8 or 4 bits: half or a quarter of the memory of bf16, turned back layer by layer as they are used.

int8
    Every 128 weights along a row share a factor, |w| max / 127, and each is the nearest of 255 steps. For weights that
    are normally distributed the error is about 0.7% of their spread. (fp8, which other trainers use, has steps that
    grow with the number: 2.6% at the same size.)
nf4
    QLoRA's 4-bit NormalFloat (Dettmers et al. 2023), as bitsandbytes computes it: every 64 weights share a factor, and
    each is the nearest of 16 numbers that halve a normal distribution evenly. About 9%.

Only linear layers inside the network's blocks are stored so: they are nearly all of it, and what goes in and out of the
network keeps its precision. Gradients pass through, the weights themselves are never trained.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Storage = Literal["full", "int8", "nf4"]

INT8_GROUP = 128
NF4_GROUP = 64


class CompactLinear(nn.Linear):
    """A linear layer whose weight (O, I) is kept as codes. Made of an ordinary one, in place, by ``shrink``.

    In place, because adapters and joined layers hold on to the object.
    """

    storage: Storage
    dtype: torch.dtype
    """Of the weight before, and of what ``weight`` gives."""

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x, self.bias, self)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(O, I) the weight turned back: a new tensor each time, to read. ``store`` writes."""
        return self.dense(self.dtype)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """(O, I) the weight as it is computed with."""
        if self.storage == "int8":
            return (self.codes.to(dtype) * self.factors.to(dtype)).view(self.out_features, self.in_features)
        return _nf4_dense(self.codes, self.factors, self.levels, (self.out_features, self.in_features), dtype)

    def store(self, weight_OI: Tensor) -> None:
        """Keep another weight, with this storage's precision."""
        weight = weight_OI.detach()
        if self.storage == "int8":
            self.codes, self.factors = _int8(weight)
        else:
            self.codes, self.factors, self.levels = _nf4(weight)


class _Product(torch.autograd.Function):
    """x W' + b that remembers the codes for the way back, not the weight it made of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, layer: CompactLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.dense(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return gradient @ ctx.layer.dense(gradient.dtype), None, None


def shrink(layer: nn.Linear, storage: Literal["int8", "nf4"], device: torch.device) -> None:
    """Turn a frozen linear layer into a ``CompactLinear`` on ``device``; the weight's memory is given back."""
    weight = layer.weight.detach()
    del layer.weight
    layer.__class__ = CompactLinear
    assert isinstance(layer, CompactLinear)
    layer.storage, layer.dtype = storage, weight.dtype
    for name in ("codes", "factors", *(["levels"] if storage == "nf4" else [])):
        layer.register_buffer(name, None, persistent=False)
    layer.store(weight.to(device))


def shrink_blocks(network: nn.Module, storage: Storage, device: torch.device) -> int:
    """``shrink`` every linear layer inside the network's blocks; how many."""
    if storage == "full":
        return 0
    layers = list(_linears(network))
    for layer in layers:
        shrink(layer, storage, device)
    return len(layers)


def write_weight(layer: nn.Module, weight: Tensor) -> None:
    """Replace the weight of a layer, however it is stored."""
    if isinstance(layer, CompactLinear):
        layer.store(weight)
    else:
        layer.weight.data = weight


def _linears(network: nn.Module) -> Iterator[nn.Linear]:
    for name, module in network.named_modules():
        if type(module) is nn.Linear and "block" in name:
            yield module


def _int8(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int8 (O, G, K) and factors float32 (O, G, 1), G K = I."""
    outputs, inputs = weight_OI.shape
    group = math.gcd(inputs, INT8_GROUP)
    weight = weight_OI.float().view(outputs, -1, group if group >= INT8_GROUP // 4 else inputs)
    factors = weight.abs().amax(-1, keepdim=True) / 127
    codes = (weight / factors.clamp(min=torch.finfo(torch.float32).tiny)).round().to(torch.int8)
    return codes, factors


def _nf4(weight_OI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes uint8, two in a byte; a factor for every 64 weights; the 16 levels."""
    from bitsandbytes.functional import quantize_4bit

    codes, state = quantize_4bit(weight_OI.contiguous(), blocksize=NF4_GROUP, quant_type="nf4")
    return codes, state.absmax, state.code


def _nf4_dense(codes: Tensor, factors: Tensor, levels: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    from bitsandbytes.functional import QuantState, dequantize_4bit

    state = QuantState(factors, torch.Size(shape), levels, NF4_GROUP, "nf4", dtype)
    return dequantize_4bit(codes, state)
