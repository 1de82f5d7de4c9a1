"""LoRA (Hu et al. 2021): W + scale * up @ down, for linear layers and 1x1 convolutions."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_core.adapters.base import Adapter, Part
from lora_core.adapters.fused import LowRank, low_rank_linears
from lora_core.adapters.keys import ALPHA, DOWN, UP, key
from lora_core.errors import UserError
from lora_core.settings import LoraSettings

ALPHA_TOLERANCE = 2**-7
"""Files may hold alpha in bf16, which keeps 8 bits."""


def product(up_OR: Tensor, down_RI: Tensor, scale: float) -> Tensor:
    """(O, I) the change of the weight, in float32; equation 3 of the paper."""
    return scale * (up_OR.float() @ down_RI.float())


def product_norm(up_OR: Tensor, down_RI: Tensor) -> Tensor:
    """Frobenius norm of up @ down without forming it: |UD|^2 = sum((U'U) * (DD')), two R x R matrices."""
    return ((up_OR.t() @ up_OR) * (down_RI @ down_RI.t())).sum().clamp(min=0).sqrt()


class Dropout(NamedTuple):
    """Probabilities of leaving out values of the hidden rows, whole ranks, or the module."""

    network: float = 0.0
    rank: float = 0.0
    module: float = 0.0


class Lora(Adapter):
    """Low-rank update of one layer. ``down`` is (rank, inputs), ``up`` (outputs, rank)."""

    def __init__(self, name: str, layer: nn.Module, part: Part, rank: int, alpha: float, dropout: Dropout = Dropout()):  # noqa: B008
        super().__init__(name, layer, part)
        self.is_conv = isinstance(layer, nn.Conv2d)
        assert not self.is_conv or _is_pointwise(layer), f"{name}: only 1x1 convolutions without stride"
        outputs, inputs = layer.weight.shape[:2]
        device = layer.weight.device
        self.rank, self.alpha, self.dropout = rank, float(alpha), dropout
        self.down = nn.Parameter(torch.zeros(rank, inputs, device=device))
        self.up = nn.Parameter(torch.zeros(outputs, rank, device=device))
        self.together: SharedInput | None = None

    @classmethod
    def create(cls, name: str, layer: nn.Module, part: Part, settings: LoraSettings, generator: torch.Generator):
        """An adapter that does nothing yet: Kaiming-uniform down (a = sqrt 5), zero up, as in the paper's code."""
        dropout = Dropout(settings.network_dropout, settings.rank_dropout, settings.module_dropout)
        adapter = cls(name, layer, part, settings.rank, settings.alpha, dropout)
        start = torch.empty(adapter.down.shape)
        nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
        adapter.down.data.copy_(start)
        return adapter

    @classmethod
    def from_tensors(cls, name: str, layer: nn.Module, part: Part, tensors: dict[str, Tensor]):
        """An adapter of the rank and alpha of a file. A missing alpha means alpha = rank."""
        rank = tensors[DOWN].shape[0]
        adapter = cls(name, layer, part, rank, float(tensors[ALPHA]) if ALPHA in tensors else rank)
        adapter.load(tensors)
        return adapter

    @property
    def scale(self) -> float:
        return self.multiplier * self.alpha / self.rank

    def forward(self, x: Tensor) -> Tensor:
        if not self.effective() or self.skipped(self.dropout.module):
            return self._layer_forward(x)
        if not self.fusible() or torch.is_autocast_enabled(x.device.type) or x.dtype != self.layer.weight.dtype:
            return self._composed(x)
        return self.together(self, x) if self.together else low_rank_linears(x, [self.low_rank()])[0]

    def fusible(self) -> bool:
        """Whether the layer is a plain linear one and nothing is dropped, so that the fast way computes it."""
        drops = self.training and any(self.dropout)
        return type(self.layer) is nn.Linear and self.attached and not self._patched_before and not drops

    def low_rank(self) -> LowRank:
        return LowRank(self.layer.weight, self.layer.bias, self.down, self.up, self.scale)

    def delta_weight(self) -> Tensor:
        return product(self.up, self.down, self.scale).detach().view(self.layer.weight.shape)

    def tensors(self) -> dict[str, Tensor]:
        ones = (1, 1) if self.is_conv else ()
        down, up = self.down.detach(), self.up.detach()
        return {
            DOWN: down.view(*down.shape, *ones),
            UP: up.view(*up.shape, *ones),
            ALPHA: torch.tensor(self.alpha),
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        alpha = float(tensors.get(ALPHA, self.rank))
        if not math.isclose(alpha, self.alpha, rel_tol=ALPHA_TOLERANCE):
            raise UserError(
                "adapter.alpha_differs", tensor=key(self.name, ALPHA), found=f"{alpha:g}", wanted=self.alpha
            )
        for kind, parameter in ((DOWN, self.down), (UP, self.up)):
            found = tensors[kind]
            if found.shape[:2] != parameter.shape or found.numel() != parameter.numel():
                shapes = {"found": tuple(found.shape), "wanted": tuple(self.tensors()[kind].shape)}
                raise UserError("adapter.shape_differs", tensor=key(self.name, kind), **shapes)
            parameter.data.copy_(found.reshape(parameter.shape))

    def _composed(self, x: Tensor) -> Tensor:
        """The same by plain operations: for dropout, convolutions, autocast and layers that are not plain linear."""
        y = self._layer_forward(x)
        x = x.to(y.dtype)
        hidden, boost = self._dropped(self._times(x, self.down))
        return torch.add(y, self._times(hidden, self.up).to(y.dtype), alpha=self.scale * boost)

    def _times(self, x: Tensor, matrix: Tensor) -> Tensor:
        matrix = matrix.to(x.dtype)
        return F.conv2d(x, matrix[:, :, None, None]) if self.is_conv else F.linear(x, matrix)

    def _dropped(self, hidden: Tensor) -> tuple[Tensor, float]:
        """Hidden rows (B, ..., R) or (B, R, H, W) after dropout, and the factor that makes up for it."""
        if not self.training:
            return hidden, 1.0
        if self.dropout.network > 0:
            hidden = F.dropout(hidden, self.dropout.network)
        if self.dropout.rank == 0:
            return hidden, 1.0
        kept = torch.rand(hidden.shape[0], self.rank, device=hidden.device) > self.dropout.rank
        kept = kept[:, :, None, None] if self.is_conv else kept.view(-1, *[1] * (hidden.ndim - 2), self.rank)
        return hidden * kept, 1 / (1 - self.dropout.rank)


class SharedInput:
    """Layers that are called one after another with the same input: the first call computes all of them.

    A call with another input, or after the input was changed in place, computes anew; nothing relies on the order.
    """

    def __init__(self, members: Sequence[Lora]):
        self.members = members
        self._input: Tensor | None = None
        self._state: tuple[object, ...] = ()
        self._waiting: dict[str, Tensor] = {}

    def __call__(self, caller: Lora, x: Tensor) -> Tensor:
        if x is self._input and self._state == _state(x) and caller.name in self._waiting:
            answer = self._waiting.pop(caller.name)
        else:
            together = [m for m in self.members if m.effective() and m.fusible()]
            answers = low_rank_linears(x, [m.low_rank() for m in together])
            self._input, self._state = x, _state(x)
            self._waiting = {m.name: y for m, y in zip(together, answers, strict=True)}
            answer = self._waiting.pop(caller.name)
        if not self._waiting:
            self._input = None
        return answer

    def forget(self) -> None:
        """Drops answers nobody fetched."""
        self._input, self._waiting = None, {}


def _state(x: Tensor) -> tuple[object, ...]:
    return torch.is_grad_enabled(), None if x.is_inference() else x._version


def _is_pointwise(conv: nn.Conv2d) -> bool:
    return (
        conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.groups == 1 and conv.padding in ((0, 0), "same")
    )
