"""PiSSA (Meng et al. 2024): training starts from the principal singular vectors of the weight, not from nothing.

With W = U S V', the factors start at U_r (S_r / s)^1/2 and (S_r / s)^1/2 V_r' (equations 2 and 3; s = alpha / rank),
and what they make at the start, A_0 B_0, is taken off the weight. The weight itself is left alone here: the update is
s (A B - A_0 B_0), which is the same. It is a product of twice the rank,

    A B - A_0 B_0 = [A - A_0, A_0] [B; B - B_0],

and this is what is computed and saved. In this form one factor of each product is small: at the start all is exactly
zero, and rounding to fp16 costs the learned change its last digits, not the weight. The file is a plain LoRA of twice
the rank and alpha for the untouched model.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_core.adapters.base import Frozen
from lora_core.adapters.keys import ALPHA, DOWN, UP
from lora_core.adapters.locon import Locon
from lora_core.adapters.lora import Lora
from lora_core.settings import NetworkSettings

EXTRA, ITERATIONS = 16, 4
"""Columns beyond the rank, and rounds, of the randomised range finder (Halko et al. 2011, algorithm 4.4)."""


class _Principal(Lora):
    """The start is kept beside the parameters, in training states too."""

    start_down: Tensor
    start_up: Tensor

    @classmethod
    def create(cls, name: str, layer: Frozen, part, settings: NetworkSettings, generator: torch.Generator):
        adapter = super().create(name, layer, part, settings, generator)
        weight = layer.weight.detach().float().flatten(1)
        up, down = principal(weight, adapter.rank, generator)
        share = adapter.strength**-0.5
        with torch.no_grad():
            adapter.up[:, : up.shape[1]] = up * share
            adapter.down[: len(down)] = down * share
        adapter.register_buffer("start_up", adapter.up.detach().clone())
        adapter.register_buffer("start_down", adapter.down.detach().clone())
        return adapter

    def matrices(self) -> tuple[Tensor, Tensor]:
        down = torch.cat([self.down, self.down - self.start_down])
        return down, torch.cat([self.up - self.start_up, self.start_up], 1)

    def tensors(self) -> dict[str, Tensor]:
        down, up = (matrix.detach() for matrix in self.matrices())
        inputs = self.layer.weight.shape[1:]
        stored = {DOWN: down.view(-1, *inputs), UP: up.view(*up.shape, *[1] * (len(inputs) - 1))}
        return stored | {ALPHA: torch.tensor(2 * self.alpha)}

    def factors(self) -> list[nn.Parameter]:
        raise NotImplementedError("the change is a difference of two products: no factor scales it")

    def weight_norm(self) -> Tensor:
        raise NotImplementedError("the change is a difference of two products: no factor scales it")

    def _dropped(self, hidden: Tensor) -> tuple[Tensor, float]:
        """A hidden row and its counterpart at the start are left out together, or the start would be disturbed."""
        if not self.training or not any(self.dropout[:2]):
            return hidden, 1.0
        side = 1 if self.is_conv else -1
        kept = torch.ones_like(hidden.narrow(side, 0, self.rank))
        if self.dropout.network > 0:
            kept = F.dropout(kept, self.dropout.network)
        boost = 1.0
        if self.dropout.rank > 0:
            rows = self.kept_rows(hidden.shape[0], self.rank, hidden.device)
            shape = (-1, self.rank, 1, 1) if self.is_conv else (-1, *[1] * (hidden.ndim - 2), self.rank)
            kept, boost = kept * rows.view(shape), 1 / (1 - self.dropout.rank)
        return hidden * torch.cat([kept, kept], side), boost


class PissaLora(_Principal):
    """On linear layers and 1x1 convolutions."""


class PissaLocon(_Principal, Locon):
    """On any layer."""


def principal(weight_OI: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Up (O, R) and down (R, I) with up @ down the best approximation of a weight of that rank, halves of S in each.

    Exact for small matrices, else by a randomised range finder: the factors need not be the very best, for whatever
    they are is taken off again. R is less than the rank where the weight has fewer sides.
    """
    if min(weight_OI.shape) <= 4 * (rank + EXTRA):
        u, s, v = torch.linalg.svd(weight_OI, full_matrices=False)
    else:
        start = torch.randn(weight_OI.shape[1], rank + EXTRA, generator=generator).to(weight_OI.device)
        q = torch.linalg.qr(weight_OI @ start).Q
        for _ in range(ITERATIONS):
            q = torch.linalg.qr(weight_OI @ torch.linalg.qr(weight_OI.t() @ q).Q).Q
        u, s, v = torch.linalg.svd(q.t() @ weight_OI, full_matrices=False)
        u = q @ u
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * v[:rank]
