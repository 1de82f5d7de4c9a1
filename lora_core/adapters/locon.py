"""LoCon: LoRA on convolutions with a kernel as well (LyCORIS, Yeh et al. 2023, section 3.2).

``down`` is a convolution of the layer's kernel, step and edges to ``rank`` channels, ``up`` a 1x1 convolution.
"""

from torch import Tensor, nn

from lora_core.adapters.base import Frozen
from lora_core.adapters.lora import Lora, has_kernel


class Locon(Lora):
    """Low-rank update of a linear layer or any convolution; ``down`` is kept as a matrix (rank, inputs x h x w)."""

    title = "LoCon"

    @classmethod
    def accepts(cls, layer: Frozen) -> bool:
        return isinstance(layer, nn.Linear | nn.Conv2d)

    def _hidden(self, x: Tensor, down: Tensor) -> Tensor:
        if not has_kernel(self.layer):
            return super()._hidden(x, down)
        return self.convolved(x, down.to(x.dtype).view(len(down), *self.layer.weight.shape[1:]))
