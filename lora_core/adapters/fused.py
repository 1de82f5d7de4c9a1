"""Linear layers with a low-rank update each, computed together.

Written out by hand because the straightforward form, ``layer(x) + up(down(x)) * scale``, reads and writes the layer's
whole output three times more and its input once more. Here the update is added by the matrix product itself, and layers
that read the same input (query, key and value) share one product with all their down matrices.

Letters: N rows (batch x tokens), I inputs, O outputs, R rank.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class LowRank(NamedTuple):
    """One frozen linear layer and its update: y = x W' + b + scale * (x down') up'."""

    weight_OI: Tensor
    bias_O: Tensor | None
    down_RI: Tensor
    up_OR: Tensor
    scale: float


def low_rank_linears(x: Tensor, layers: Sequence[LowRank]) -> tuple[Tensor, ...]:
    """What several layers with their updates answer to one input (..., I), in the number format of the layers."""
    weights, biases, downs, ups, scales = zip(*layers, strict=True)
    return _LowRankLinears.apply(x, scales, *weights, *biases, *downs, *ups)


class _LowRankLinears(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scales, *tensors):
        n = len(scales)
        weights, biases, downs, ups = (tensors[i * n : (i + 1) * n] for i in range(4))
        dtype = weights[0].dtype
        x_NI = x.reshape(-1, x.shape[-1])
        down = _stack(downs).to(dtype)
        ups = tuple(up.to(dtype) for up in ups)
        ranks = [up.shape[1] for up in ups]
        hidden_NR = x_NI @ down.t()
        outputs = []
        hiddens = _columns(hidden_NR, ranks)
        for weight, bias, up, hidden, scale in zip(weights, biases, ups, hiddens, scales, strict=True):
            y_NO = F.linear(x_NI, weight, bias)
            outputs.append(y_NO.addmm_(hidden, up.t(), alpha=scale).view(*x.shape[:-1], -1))
        ctx.save_for_backward(x_NI, hidden_NR, down, *weights, *ups)
        ctx.scales, ctx.ranks, ctx.x_shape, ctx.parameter_dtype = scales, ranks, x.shape, downs[0].dtype
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        n = len(ctx.scales)
        x_NI, hidden_NR, down, *rest = ctx.saved_tensors
        weights, ups = rest[:n], rest[n:]
        grads_NO = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        grad_hiddens, grad_ups = [], []
        for grad, up, hidden, scale in zip(grads_NO, ups, _columns(hidden_NR, ctx.ranks), ctx.scales, strict=True):
            # beta=0: the first argument only lends its shape.
            grad_hiddens.append(torch.addmm(hidden, grad, up, beta=0, alpha=scale))
            grad_ups.append(torch.addmm(up, grad.t(), hidden, beta=0, alpha=scale).to(ctx.parameter_dtype))
        grad_hidden = grad_hiddens[0] if n == 1 else torch.cat(grad_hiddens, 1)
        grad_down = (grad_hidden.t() @ x_NI).to(ctx.parameter_dtype)
        grad_downs = (grad_down,) if n == 1 else grad_down.split(ctx.ranks)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = _input_gradient(grads_NO, weights, grad_hidden, down).view(ctx.x_shape)
        return (grad_x, None, *[None] * (2 * n), *grad_downs, *grad_ups)


def _input_gradient(grads_NO: Sequence[Tensor], weights: Sequence[Tensor], grad_hidden: Tensor, down: Tensor) -> Tensor:
    """(N, I): the sum over the layers, built up in place."""
    grad_x = grads_NO[0] @ weights[0]
    for grad, weight in zip(grads_NO[1:], weights[1:], strict=True):
        grad_x.addmm_(grad, weight)
    return grad_x.addmm_(grad_hidden, down)


def _stack(downs: Sequence[Tensor]) -> Tensor:
    return downs[0] if len(downs) == 1 else torch.cat(list(downs))


def _columns(hidden_NR: Tensor, ranks: Sequence[int]) -> Sequence[Tensor]:
    """The part of each layer."""
    return (hidden_NR,) if len(ranks) == 1 else hidden_NR.split(ranks, 1)
