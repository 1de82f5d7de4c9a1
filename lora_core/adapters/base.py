"""What every adapter has: a layer it sits on, a name in the file, and the change it makes to the layer's weight."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Part = Literal["unet", "text_encoder"]


class Adapter(nn.Module, ABC):
    """A small trainable change to one frozen layer.

    ``delta_weight`` is the hinge: what the forward pass adds, what merging writes into the weight and what a file
    stands for are all that one tensor. Parameters are float32; the computation takes the layer's number format.
    """

    def __init__(self, name: str, layer: nn.Module, part: Part):
        super().__init__()
        self.name = name
        self.part = part
        self.multiplier = 1.0
        # Not a submodule: the frozen layer's weights are none of the adapter's parameters.
        object.__setattr__(self, "layer", layer)
        self._layer_forward: Callable[[Tensor], Tensor] = layer.forward
        self._patched_before = False
        self.attached = False

    def attach(self) -> None:
        """From now on calling the layer includes the adapter."""
        if self.attached:
            return
        self._patched_before = "forward" in self.layer.__dict__
        self._layer_forward = self.layer.forward
        self.layer.forward = self.forward
        self.attached = True

    def detach(self) -> None:
        """The layer is itself again, bit for bit. With several adapters on a layer, the last attached goes first."""
        if not self.attached:
            return
        assert self.layer.__dict__.get("forward") == self.forward, f"{self.name}: another adapter sits on top"
        if self._patched_before:
            self.layer.forward = self._layer_forward
        else:
            del self.layer.forward
        self.attached = False

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """What the layer answers with the adapter on it."""

    @abstractmethod
    def delta_weight(self) -> Tensor:
        """What the adapter adds to the layer's weight, in its shape, float32, multiplier included."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The float32 tensors that a file holds, under their names in it, in the shapes it has there."""

    @abstractmethod
    def load(self, tensors: dict[str, Tensor]) -> None:
        """The reverse of ``tensors``. Raises UserError where shapes or alpha do not fit."""

    def apply_to(self, weight: Tensor) -> Tensor:
        """A weight with the adapter merged into it, in the weight's own number format."""
        return (weight.float() + self.delta_weight().to(weight.device)).to(weight.dtype)

    def effective(self) -> bool:
        """False when the forward pass is the bare layer's."""
        return self.multiplier != 0

    def skipped(self, probability: float) -> bool:
        """Draws whether module dropout leaves the adapter out this time. On the CPU: no wait for the device."""
        return self.training and probability > 0 and bool(torch.rand(1) < probability)
