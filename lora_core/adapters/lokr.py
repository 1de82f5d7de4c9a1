"""LoKr: scale * w1 (x) w2, a Kronecker product (Edalati et al. 2022, KronA; LyCORIS).

Letters: the weight's outputs are A C, its inputs B D, so that w1 is (A, B) and w2 (C, D) or (C, D, h, w); R rank.
Each of the two is a matrix of its own or a product of rank R.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_core.adapters.base import Adapter, Dropout, Frozen, Part
from lora_core.adapters.keys import ALPHA, key
from lora_core.adapters.lora import has_kernel, kaiming, product_norm
from lora_core.errors import UserError
from lora_core.factors import factorization
from lora_core.settings import LokrSettings, NetworkSettings

W1, W1_A, W1_B = "lokr_w1", "lokr_w1_a", "lokr_w1_b"
W2, W2_A, W2_B = "lokr_w2", "lokr_w2_a", "lokr_w2_b"


class Sides(NamedTuple):
    """The two matrices: w1 (rows1, columns1), w2 (rows2, columns2), and which of them are no products."""

    rows1: int
    columns1: int
    rows2: int
    columns2: int
    full1: bool
    full2: bool

    @classmethod
    def of(cls, layer: Frozen, settings: LokrSettings, rank: int) -> "Sides":
        """LyCORIS' choice: w2 is a product while its rank is below half of its longer side; w1 only when asked."""
        (a, c), (b, d) = (factorization(side, settings.factor) for side in layer.weight.shape[:2])
        full1 = settings.full_matrix or not settings.decompose_both or rank >= max(a, b) / 2
        full2 = settings.full_matrix or rank >= max(c, d) / 2
        return cls(a, b, c, d, full1, full2)


class Lokr(Adapter):
    """A Kronecker product, computed side by side and never written out while training."""

    title = "LoKr"

    # Of these there are two or three, as ``sides`` says.
    lokr_w1: Tensor
    lokr_w1_a: Tensor
    lokr_w1_b: Tensor
    lokr_w2: Tensor
    lokr_w2_a: Tensor
    lokr_w2_b: Tensor

    def __init__(
        self,
        name: str,
        layer: Frozen,
        part: Part,
        rank: int,
        alpha: float,
        sides: Sides,
        dropout: Dropout = Dropout(),  # noqa: B008
    ):
        if sides.full1 and sides.full2:
            alpha = rank  # without a rank alpha counts for nothing; LyCORIS writes the rank
        super().__init__(name, layer, part, rank, alpha, dropout)
        self.sides, kernel, device = sides, layer.weight.shape[2:], layer.weight.device
        a, b, c, d, *_ = sides
        shapes = {W1: (a, b)} if sides.full1 else {W1_A: (a, rank), W1_B: (rank, b)}
        shapes |= {W2: (c, d, *kernel)} if sides.full2 else {W2_A: (c, rank), W2_B: (rank, d * math.prod(kernel))}
        for kind, shape in shapes.items():
            self.register_parameter(kind, nn.Parameter(torch.zeros(shape, device=device)))

    @classmethod
    def create(cls, name: str, layer: Frozen, part: Part, settings: NetworkSettings, generator: torch.Generator):
        """An adapter that does nothing yet: w2 (or w2_b) is zero, the others Kaiming-uniform, as in LyCORIS."""
        assert isinstance(settings, LokrSettings)
        rank, alpha = settings.rank_and_alpha(kernel=has_kernel(layer))
        adapter = cls(name, layer, part, rank, alpha, Sides.of(layer, settings, rank), Dropout.of(settings))
        for kind, parameter in adapter.stored().items():
            if kind in (W1, W1_A, W1_B, W2_A):
                kaiming(parameter, generator)
        return adapter

    @classmethod
    def from_tensors(cls, name, layer, part, tensors: Mapping[str, Tensor], dropout: Dropout = Dropout()):  # noqa: B008
        for full, halves in ((W1, (W1_A, W1_B)), (W2, (W2_A, W2_B))):
            if full not in tensors and (missing := [half for half in halves if half not in tensors]):
                raise UserError("adapter.missing_tensor", tensor=key(name, missing[0]))
        full1, full2 = W1 in tensors, W2 in tensors
        a, b = tensors[W1].shape if full1 else (tensors[W1_A].shape[0], tensors[W1_B].shape[1])
        outputs, inputs = layer.weight.shape[:2]
        sides = Sides(a, b, outputs // a, inputs // b, full1, full2)
        alpha = float(tensors[ALPHA]) if ALPHA in tensors else None
        # Two full matrices have no rank; LyCORIS writes the one of the settings as alpha.
        rank = max(1, round(alpha or 1)) if full1 and full2 else tensors[W1_B if full2 else W2_B].shape[0]
        adapter = cls(name, layer, part, rank, rank if alpha is None else alpha, sides, dropout)
        adapter.load(tensors)
        return adapter

    @property
    def strength(self) -> float:
        return 1.0 if self.sides.full1 and self.sides.full2 else super().strength

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        if self.sides.full1 and self.sides.full2:
            tensors = {**tensors, ALPHA: torch.tensor(self.alpha)}
        super().load(tensors)

    def forward(self, x: Tensor) -> Tensor:
        if not self.effective() or self.skipped(self.dropout.module):
            return self._layer_forward(x)
        return self.composed(x)

    def composed(self, x: Tensor) -> Tensor:
        y = self._layer_forward(x)
        added = self._of_image(x.to(y.dtype)) if self.is_conv else self._of_rows(x.to(y.dtype))
        return y + self.with_kept_outputs(added)

    def delta_weight(self) -> Tensor:
        w1, w2 = self._w1().detach(), self._w2().detach()
        return torch.kron(w1.view(*w1.shape, *[1] * (w2.ndim - 2)), w2)

    def stored(self) -> dict[str, nn.Parameter]:
        return {kind: p for kind, p in self._parameters.items() if p is not None and kind.startswith("lokr_")}

    def factors(self) -> list[nn.Parameter]:
        return list(self.stored().values())

    def weight_norm(self) -> Tensor:
        """|w1 (x) w2| = |w1| |w2|."""
        of1 = self.lokr_w1.norm() if self.sides.full1 else product_norm(self.lokr_w1_a, self.lokr_w1_b)
        of2 = self.lokr_w2.norm() if self.sides.full2 else product_norm(self.lokr_w2_a, self.lokr_w2_b)
        return of1 * of2 * self.strength

    def _w1(self) -> Tensor:
        """(A, B) with the scale."""
        return (self.lokr_w1 if self.sides.full1 else self.lokr_w1_a @ self.lokr_w1_b) * self.scale

    def _w2(self) -> Tensor:
        """(C, D) or (C, D, h, w)."""
        w2 = self.lokr_w2 if self.sides.full2 else self.lokr_w2_a @ self.lokr_w2_b
        return w2.view(self.sides.rows2, self.sides.columns2, *self.layer.weight.shape[2:])

    def _of_rows(self, x: Tensor) -> Tensor:
        """(..., B D) to (..., A C): w2 along D, then w1 along B."""
        hidden = x.reshape(*x.shape[:-1], self.sides.columns1, self.sides.columns2)
        if self.sides.full2:
            hidden = F.linear(hidden, self.lokr_w2.to(x.dtype))
        else:
            hidden = F.linear(F.linear(hidden, self.lokr_w2_b.to(x.dtype)), self.lokr_w2_a.to(x.dtype))
        return torch.matmul(self._w1().to(x.dtype), hidden).flatten(-2)

    def _of_image(self, x: Tensor) -> Tensor:
        """(N, B D, H, W) to (N, A C, H', W')."""
        n, b, d = x.shape[0], self.sides.columns1, self.sides.columns2
        hidden = x.reshape(n * b, d, *x.shape[2:])
        if self.sides.full2:
            hidden = self.convolved(hidden, self.lokr_w2.to(x.dtype))
        else:
            w2_b = self.lokr_w2_b.view(self.rank, d, *self.layer.weight.shape[2:])
            hidden = self.convolved(hidden, w2_b.to(x.dtype))
            hidden = F.conv2d(hidden, self.lokr_w2_a[:, :, None, None].to(x.dtype))
        mixed = torch.matmul(self._w1().to(x.dtype), hidden.reshape(n, b, -1))
        return mixed.view(n, -1, *hidden.shape[2:])
