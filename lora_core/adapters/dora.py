"""DoRA: the changed weight brought to a trained length, W' = m (W + D) / |W + D| (Liu et al. 2024, equation 5).

Lengths are those of the weight's columns, one for each input, as in the paper: AUTOMATIC1111, Forge, ComfyUI and
LyCORIS read them so. With s = m / |W + D|, the layer answers s x as LoRA does; nothing is written out.
"""

import torch
from torch import Tensor, nn

from lora_core.adapters.base import Dropout, Part
from lora_core.adapters.locon import Locon
from lora_core.adapters.lora import product

MAGNITUDE = "dora_scale"


class Dora(Locon):
    """LoRA or LoCon with trained lengths; ``magnitude`` is (inputs,)."""

    title = "DoRA"

    def __init__(self, name: str, layer: nn.Module, part: Part, rank: int, alpha: float, dropout: Dropout = Dropout()):  # noqa: B008
        super().__init__(name, layer, part, rank, alpha, dropout)
        self.magnitude = nn.Parameter(column_norms(layer.weight.detach().float()))

    def fusible(self) -> bool:
        return False

    def forward(self, x: Tensor) -> Tensor:
        if not self.effective() or self.skipped(self.dropout.module):
            return self._layer_forward(x)
        y = self._composed((x * self._stretch()).to(x.dtype))
        if self.multiplier == 1:
            return y
        base = self._layer_forward(x)
        return base + (y - base) * self.multiplier

    def delta_weight(self) -> Tensor:
        weight = self.layer.weight.detach().float()
        changed = (weight + self._low_rank_change()) * self._stretch().detach().view(1, -1, *[1] * (weight.ndim - 2))
        return (changed - weight) * self.multiplier

    @property
    def scale(self) -> float:
        """Of the low-rank update. The multiplier stands outside: it blends the layer's answer with the base's."""
        return self.alpha / self.rank

    def stored(self) -> dict[str, nn.Parameter]:
        return {**super().stored(), MAGNITUDE: self.magnitude}

    def shape_in_file(self, kind: str) -> tuple[int, ...]:
        if kind == MAGNITUDE:
            return (1, len(self.magnitude), *[1] * (self.layer.weight.ndim - 2))
        return super().shape_in_file(kind)

    def factors(self) -> list[nn.Parameter]:
        raise NotImplementedError("the lengths, not the factors, say how large the change is")

    @torch.no_grad()
    def _low_rank_change(self) -> Tensor:
        return product(self.up, self.down, self.scale).view(self.layer.weight.shape)

    def _stretch(self) -> Tensor:
        """s (I,) or (I, 1, 1), float32. |W + D| counts as a constant in the gradient (section 4.3 of the paper)."""
        length = column_norms(self.layer.weight.detach().float() + self._low_rank_change())
        stretch = torch.where(length > 0, self.magnitude / length.clamp(min=torch.finfo(length.dtype).tiny), 1.0)
        return stretch.view(-1, 1, 1) if self.is_conv else stretch


def column_norms(weight: Tensor) -> Tensor:
    """(I,) Euclidean length of what each input does to all outputs, of a weight (O, I) or (O, I, h, w)."""
    return weight.transpose(0, 1).flatten(1).norm(dim=1)
