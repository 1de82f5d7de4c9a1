"""LoHa: scale * (w1_a w1_b) * (w2_a w2_b), an elementwise product (Hyeon-Woo et al. 2022, FedPara; LyCORIS).

Letters: O outputs, C columns of the weight (inputs x kernel), R rank. The change has rank R^2 at most.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lora_core.adapters.base import Adapter, Dropout, Frozen, Part
from lora_core.adapters.keys import ALPHA, key
from lora_core.adapters.lora import has_kernel
from lora_core.errors import UserError
from lora_core.settings import NetworkSettings

W1_A, W1_B, W2_A, W2_B = "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"


class Loha(Adapter):
    """``w_a`` are (outputs, rank), ``w_b`` (rank, columns), as LyCORIS stores them."""

    title = "LoHa"

    def __init__(self, name: str, layer: Frozen, part: Part, rank: int, alpha: float, dropout: Dropout = Dropout()):  # noqa: B008
        super().__init__(name, layer, part, rank, alpha, dropout)
        device, outputs, columns = layer.weight.device, layer.weight.shape[0], layer.weight[0].numel()
        self.w1_a = nn.Parameter(torch.zeros(outputs, rank, device=device))
        self.w1_b = nn.Parameter(torch.zeros(rank, columns, device=device))
        self.w2_a = nn.Parameter(torch.zeros(outputs, rank, device=device))
        self.w2_b = nn.Parameter(torch.zeros(rank, columns, device=device))

    @classmethod
    def create(cls, name: str, layer: Frozen, part: Part, settings: NetworkSettings, generator: torch.Generator):
        """An adapter that does nothing yet: w2_a is zero, the others normal with 0.1, 1 and 1, as in LyCORIS."""
        rank, alpha = settings.rank_and_alpha(kernel=has_kernel(layer))
        adapter = cls(name, layer, part, rank, alpha, Dropout.of(settings))
        for parameter, spread in ((adapter.w1_b, 1.0), (adapter.w1_a, 0.1), (adapter.w2_b, 1.0)):
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * spread)
        return adapter

    @classmethod
    def from_tensors(cls, name, layer, part, tensors: Mapping[str, Tensor], dropout: Dropout = Dropout()):  # noqa: B008
        if W1_B not in tensors:
            raise UserError("adapter.missing_tensor", tensor=key(name, W1_B))
        rank = tensors[W1_B].shape[0]
        adapter = cls(name, layer, part, rank, float(tensors[ALPHA]) if ALPHA in tensors else rank, dropout)
        adapter.load(tensors)
        return adapter

    def forward(self, x: Tensor) -> Tensor:
        if not self.effective() or self.skipped(self.dropout.module):
            return self._layer_forward(x)
        return self.composed(x)

    def composed(self, x: Tensor) -> Tensor:
        y = self._layer_forward(x)
        change = self._weight().view(self.layer.weight.shape).to(y.dtype)
        x = x.to(y.dtype)
        added = self.convolved(x, change) if self.is_conv else F.linear(x, change)
        return y + self.with_kept_outputs(added)

    def delta_weight(self) -> Tensor:
        return self._weight().detach().view(self.layer.weight.shape)

    def stored(self) -> dict[str, nn.Parameter]:
        return {W1_A: self.w1_a, W1_B: self.w1_b, W2_A: self.w2_a, W2_B: self.w2_b}

    def factors(self) -> list[nn.Parameter]:
        return list(self.stored().values())

    def weight_norm(self) -> Tensor:
        return ((self.w1_a @ self.w1_b) * (self.w2_a @ self.w2_b)).norm() * self.strength

    def _weight(self) -> Tensor:
        return hadamard(self.w1_a, self.w1_b, self.w2_a, self.w2_b, self.scale)


def hadamard(w1_a: Tensor, w1_b: Tensor, w2_a: Tensor, w2_b: Tensor, scale: float) -> Tensor:
    """(O, C) scale (w1_a w1_b) * (w2_a w2_b). Backward computes the products again: keeping them costs two weights."""
    return _Hadamard.apply(w1_a, w1_b, w2_a, w2_b, scale)


class _Hadamard(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w1_a, w1_b, w2_a, w2_b, scale):
        ctx.save_for_backward(w1_a, w1_b, w2_a, w2_b)
        ctx.scale = scale
        return (w1_a @ w1_b) * (w2_a @ w2_b) * scale

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        w1_a, w1_b, w2_a, w2_b = ctx.saved_tensors
        grad = grad.to(w1_a.dtype) * ctx.scale
        grad_1, grad_2 = grad * (w2_a @ w2_b), grad * (w1_a @ w1_b)
        return grad_1 @ w1_b.t(), w1_a.t() @ grad_1, grad_2 @ w2_b.t(), w2_a.t() @ grad_2, None
