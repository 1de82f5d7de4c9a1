"""LoRA (Hu et al. 2021): W + scale * up @ down, for linear layers and 1x1 convolutions."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_core.adapters.base import Adapter, Dropout, Frozen, Part
from lora_core.adapters.fused import LowRank, low_rank_linears
from lora_core.adapters.keys import ALPHA, DOWN, UP, key
from lora_core.errors import UserError
from lora_core.settings import NetworkSettings


def product(up_OR: Tensor, down_RI: Tensor, scale: float) -> Tensor:
    """(O, I) the change of the weight, in float32; equation 3 of the paper."""
    return scale * (up_OR.float() @ down_RI.float())


def product_norm(up_OR: Tensor, down_RI: Tensor) -> Tensor:
    """Frobenius norm of up @ down without forming it: |UD|^2 = sum((U'U) * (DD')), two R x R matrices."""
    return ((up_OR.t() @ up_OR) * (down_RI @ down_RI.t())).sum().clamp(min=0).sqrt()


class Lora(Adapter):
    """Low-rank update of one layer. ``down`` is (rank, inputs), ``up`` (outputs, rank)."""

    title = "LoRA"

    def __init__(self, name: str, layer: Frozen, part: Part, rank: int, alpha: float, dropout: Dropout = Dropout()):  # noqa: B008
        super().__init__(name, layer, part, rank, alpha, dropout)
        assert self.accepts(layer), f"{name}: only 1x1 convolutions without stride"
        device = layer.weight.device
        self.down = nn.Parameter(torch.zeros(rank, layer.weight[0].numel(), device=device))
        self.up = nn.Parameter(torch.zeros(layer.weight.shape[0], rank, device=device))
        self.together: SharedInput | None = None

    @classmethod
    def accepts(cls, layer: Frozen) -> bool:
        return isinstance(layer, nn.Linear) or is_pointwise(layer)

    @classmethod
    def create(cls, name: str, layer: Frozen, part: Part, settings: NetworkSettings, generator: torch.Generator):
        """An adapter that does nothing yet: Kaiming-uniform down (a = sqrt 5), zero up, as in the paper's code."""
        rank, alpha = settings.rank_and_alpha(kernel=has_kernel(layer))
        adapter = cls(name, layer, part, rank, alpha, Dropout.of(settings))
        kaiming(adapter.down, generator)
        return adapter

    @classmethod
    def from_tensors(cls, name, layer, part, tensors: Mapping[str, Tensor], dropout: Dropout = Dropout()):  # noqa: B008
        if DOWN not in tensors:
            raise UserError("adapter.missing_tensor", tensor=key(name, DOWN))
        rank = tensors[DOWN].shape[0]
        adapter = cls(name, layer, part, rank, float(tensors[ALPHA]) if ALPHA in tensors else rank, dropout)
        adapter.load(tensors)
        return adapter

    def forward(self, x: Tensor) -> Tensor:
        if not self.effective() or self.skipped(self.dropout.module):
            return self._layer_forward(x)
        if not self.fusible() or torch.is_autocast_enabled(x.device.type) or x.dtype != self.layer.weight.dtype:
            return self.composed(x)
        return self.together(self, x) if self.together else low_rank_linears(x, [self.low_rank()])[0]

    def fusible(self) -> bool:
        """Whether the layer is a plain linear one and nothing is dropped, so that the fast way computes it."""
        drops = self.training and any(self.dropout)
        return type(self.layer) is nn.Linear and self.attached and not self._patched_before and not drops

    def low_rank(self) -> LowRank:
        return LowRank(self.layer.weight, self.layer.bias, *self.matrices(), self.scale)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """Down (R', inputs) and up (outputs, R') of the update as it is computed and saved."""
        return self.down, self.up

    def delta_weight(self) -> Tensor:
        down, up = self.matrices()
        return product(up, down, self.scale).detach().view(self.layer.weight.shape)

    def up_parameters(self) -> list[nn.Parameter]:
        return [self.up]

    def stored(self) -> dict[str, nn.Parameter]:
        return {DOWN: self.down, UP: self.up}

    def shape_in_file(self, kind: str) -> tuple[int, ...]:
        rows, kernel = self.stored()[kind].shape[0], self.layer.weight.shape[1:]
        return (rows, *kernel) if kind == DOWN else (rows, self.rank, *[1] * (len(kernel) - 1))

    def factors(self) -> list[nn.Parameter]:
        return [self.down, self.up]

    def weight_norm(self) -> Tensor:
        return product_norm(self.up, self.down) * self.strength

    def composed(self, x: Tensor) -> Tensor:
        """The same by plain operations: for dropout, convolutions, autocast and layers that are not plain linear."""
        y = self._layer_forward(x)
        x = x.to(y.dtype)
        down, up = self.matrices()
        hidden, boost = self._dropped(self._hidden(x, down))
        return torch.add(y, self._times(hidden, up).to(y.dtype), alpha=self.scale * boost)

    def _hidden(self, x: Tensor, down: Tensor) -> Tensor:
        return self._times(x, down)

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
        kept = self.kept_rows(hidden.shape[0], self.rank, hidden.device)
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


def is_pointwise(layer: Frozen) -> bool:
    """Whether a layer is a 1x1 convolution that treats every pixel by itself."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride == (1, 1)
        and layer.groups == 1
        and layer.padding in ((0, 0), "same")
    )


def has_kernel(layer: Frozen) -> bool:
    """Whether a layer is a convolution larger than 1x1, which has a rank and alpha of its own."""
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)


def kaiming(parameter: nn.Parameter, generator: torch.Generator) -> None:
    """Kaiming-uniform with a = sqrt 5: between -1 / sqrt(columns) and 1 / sqrt(columns). Drawn on the CPU."""
    start = torch.empty(parameter.shape)
    nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
    parameter.data.copy_(start)
