"""DoRA: the changed weight brought to a trained length, W' = m (W + D) / |W + D| (Liu et al. 2024, equation 5).

Lengths are those of the weight's columns, one for each input, as in the paper. By their code AUTOMATIC1111, Forge and
ComfyUI play such files exactly. LyCORIS' other way, one for each output, is read here; it is not written, for
AUTOMATIC1111 does not know it, and Forge and ComfyUI divide by |W| instead of |W + D|.

With s = m / |W + D|, the layer answers s x (or answers, times s) as the algorithm does by itself; nothing is written
out that it does not write out.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lora_core.adapters.base import Adapter
from lora_core.adapters.locon import Locon
from lora_core.adapters.loha import Loha
from lora_core.adapters.lokr import Lokr

MAGNITUDE = "dora_scale"


class Decomposed(Adapter):
    """Trained lengths on top of another algorithm; ``magnitude`` is (inputs,), or (outputs,) if a file has it so."""

    magnitude: nn.Parameter

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._measure(side=1)

    def forward(self, x: Tensor) -> Tensor:
        if not self.effective() or self.skipped(self.dropout.module):
            return self._layer_forward(x)
        y = self._stretched(x)
        if self.multiplier == 1:
            return y
        base = self._layer_forward(x)
        return base + (y - base) * self.multiplier

    def delta_weight(self) -> Tensor:
        weight = self.layer.weight.detach().float()
        stretch = self._stretch().detach().view(self.shape_in_file(MAGNITUDE))
        return ((weight + self._change()) * stretch - weight) * self.multiplier

    @property
    def scale(self) -> float:
        """Of the algorithm's change. The multiplier stands outside: it blends the layer's answer with the base's."""
        return self.strength

    def stored(self) -> dict[str, nn.Parameter]:
        return {**super().stored(), MAGNITUDE: self.magnitude}  # type: ignore[safe-super]

    def shape_in_file(self, kind: str) -> tuple[int, ...]:
        if kind != MAGNITUDE:
            return super().shape_in_file(kind)
        shape = [1] * self.layer.weight.ndim
        shape[self._side] = len(self.magnitude)
        return tuple(shape)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        found = tensors.get(MAGNITUDE)
        if found is not None and found.ndim > 1 and (side := int(found.shape[0] == 1)) != self._side:
            self._measure(side)
        super().load(tensors)

    def factors(self) -> list[nn.Parameter]:
        raise NotImplementedError("the lengths, not the factors, say how large the change is")

    def _measure(self, side: int) -> None:
        """Takes the lengths of the layer's weight, of each output (side 0) or of each input (side 1)."""
        self._side = side
        self.magnitude = nn.Parameter(lengths(self.layer.weight.detach().float(), side))

    def _stretched(self, x: Tensor) -> Tensor:
        stretch = self._stretch()
        if self.is_conv:
            stretch = stretch[:, None, None]
        if self._side == 1:
            return self.composed((x * stretch).to(x.dtype))
        y, bias = self.composed(x), self.layer.bias
        if bias is None:
            return (y * stretch).to(y.dtype)
        bias = bias[:, None, None] if self.is_conv else bias
        return (y * stretch + bias * (1 - stretch)).to(y.dtype)

    @torch.no_grad()
    def _change(self) -> Tensor:
        """What the algorithm alone would add to the weight."""
        return super().delta_weight()  # type: ignore[safe-super]

    def _stretch(self) -> Tensor:
        """s of each input or output, float32. |W + D| counts as a constant in the gradient (section 4.3)."""
        length = lengths(self.layer.weight.detach().float() + self._change(), self._side)
        return torch.where(length > 0, self.magnitude / length.clamp(min=torch.finfo(length.dtype).tiny), 1.0)


class Dora(Decomposed, Locon):
    """On LoRA and LoCon."""

    title = "DoRA"

    def fusible(self) -> bool:
        return False


class DoraLoha(Decomposed, Loha):
    title = "LoHa with DoRA"


class DoraLokr(Decomposed, Lokr):
    title = "LoKr with DoRA"


def lengths(weight: Tensor, side: int) -> Tensor:
    """Euclidean lengths of a weight (O, I) or (O, I, h, w): (O,) with side 0, of columns (I,) with side 1."""
    return weight.transpose(0, side).flatten(1).norm(dim=1)
