"""What every adapter has: a layer it sits on, a name in the file, and the change it makes to the layer's weight."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_core.adapters.keys import ALPHA, key
from lora_core.errors import UserError
from lora_core.settings import NetworkSettings

Part = str
"""Of the model: "unet" for every denoiser, "text_encoder", "text_encoder_2"."""

Frozen = nn.Linear | nn.Conv2d
"""A layer that an adapter may be put on."""

ALPHA_TOLERANCE = 2**-7
"""Files may hold alpha in bf16, which keeps 8 bits."""


class Dropout(NamedTuple):
    """Probabilities of leaving out values of the hidden rows, whole ranks (or outputs), or the module."""

    network: float = 0.0
    rank: float = 0.0
    module: float = 0.0

    @classmethod
    def of(cls, settings: NetworkSettings) -> "Dropout":
        """An algorithm without hidden rows has no network dropout."""
        return cls(getattr(settings, "network_dropout", 0.0), settings.rank_dropout, settings.module_dropout)


class Adapter(nn.Module, ABC):
    """A small trainable change to one frozen layer, a linear one or a convolution.

    ``delta_weight`` is the hinge: what the forward pass adds, what merging writes into the weight and what a file
    stands for are all that one tensor. Parameters are float32; the computation takes the layer's number format.
    """

    title: ClassVar[str]
    """What people call the algorithm."""

    def __init__(self, name: str, layer: Frozen, part: Part, rank: int, alpha: float, dropout: Dropout = Dropout()):  # noqa: B008
        super().__init__()
        assert getattr(layer, "groups", 1) == 1, f"{name}: no convolutions in groups"
        self.name = name
        self.part = part
        self.rank, self.alpha, self.dropout = rank, float(alpha), dropout
        self.is_conv = isinstance(layer, nn.Conv2d)
        self.multiplier = 1.0
        self.rate = 1.0
        """What the learning rate of its part is multiplied by."""
        # Not a submodule: the frozen layer's weights are none of the adapter's parameters.
        self.layer: Frozen
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
        self.layer.forward = self.forward  # type: ignore[method-assign, assignment]
        self.attached = True

    def detach(self) -> None:
        """The layer is itself again, bit for bit. With several adapters on a layer, the last attached goes first."""
        if not self.attached:
            return
        assert self.layer.__dict__.get("forward") == self.forward, f"{self.name}: another adapter sits on top"
        if self._patched_before:
            self.layer.forward = self._layer_forward  # type: ignore[method-assign, assignment]
        else:
            del self.layer.forward
        self.attached = False

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """What the layer answers with the adapter on it."""

    def composed(self, x: Tensor) -> Tensor:
        """The same by plain operations, without module dropout: what DoRA stretches."""
        raise NotImplementedError(f"{self.title} cannot be stretched")

    @abstractmethod
    def delta_weight(self) -> Tensor:
        """What the adapter adds to the layer's weight, in its shape, float32, multiplier included."""

    # ---- making one ----------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def create(
        cls, name: str, layer: Frozen, part: Part, settings: NetworkSettings, generator: torch.Generator
    ) -> Self:
        """An adapter that does nothing yet, its numbers drawn from ``generator``."""

    @classmethod
    @abstractmethod
    def from_tensors(
        cls,
        name: str,
        layer: Frozen,
        part: Part,
        tensors: Mapping[str, Tensor],
        dropout: Dropout = Dropout(),  # noqa: B008
    ) -> Self:
        """An adapter of the rank and alpha of a file. A missing alpha means alpha = rank."""

    def take_options_of(self, other: "Adapter") -> None:
        """What the settings say of another adapter on the same layer, and files do not."""
        self.rate = other.rate

    # ---- files ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def stored(self) -> dict[str, nn.Parameter]:
        """The parameters that a file holds, under the names of their tensors in it."""

    def shape_in_file(self, kind: str) -> tuple[int, ...]:
        """The shape that a tensor of ``stored`` has in the file."""
        return tuple(self.stored()[kind].shape)

    def tensors(self) -> dict[str, Tensor]:
        """The float32 tensors that a file holds, under their names in it, in the shapes it has there."""
        stored = {kind: p.detach().view(self.shape_in_file(kind)) for kind, p in self.stored().items()}
        return stored | {ALPHA: torch.tensor(self.alpha)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The reverse of ``tensors``. Raises UserError where they are not the same, or shapes or alpha do not fit."""
        stored = self.stored()
        for kind in tensors.keys() - stored.keys() - {ALPHA}:
            raise UserError("adapter.other_algorithm", tensor=key(self.name, kind), algorithm=self.title)
        alpha = float(tensors.get(ALPHA, self.rank))
        if not math.isclose(alpha, self.alpha, rel_tol=ALPHA_TOLERANCE):
            found, wanted = f"{alpha:g}", f"{self.alpha:g}"
            raise UserError("adapter.alpha_differs", tensor=key(self.name, ALPHA), found=found, wanted=wanted)
        for kind, parameter in stored.items():
            if kind not in tensors:
                raise UserError("adapter.missing_tensor", tensor=key(self.name, kind))
            shape, needed = tuple(tensors[kind].shape), self.shape_in_file(kind)
            if _flat(shape) != _flat(needed):
                raise UserError("adapter.shape_differs", tensor=key(self.name, kind), found=shape, wanted=needed)
            parameter.data.copy_(tensors[kind].reshape(parameter.shape))

    # ---- what the trainer does with them ---------------------------------------------------------------------

    def up_parameters(self) -> list[nn.Parameter]:
        """Those that LoRA+ trains faster: the factors of a low-rank update that start at zero."""
        return []

    def factors(self) -> list[nn.Parameter]:
        """Parameters of which the change is a product: all of them times r make it r ** n times as large."""
        raise NotImplementedError(f"{self.title} has no weight norm to scale")

    def weight_norm(self) -> Tensor:
        """Frobenius norm of the change at multiplier 1."""
        raise NotImplementedError(f"{self.title} has no weight norm to scale")

    # ---- what the algorithms share -------------------------------------------------------------------------------

    @property
    def strength(self) -> float:
        """What the product of the factors is multiplied by at multiplier 1."""
        return self.alpha / self.rank

    @property
    def scale(self) -> float:
        return self.multiplier * self.strength

    def apply_to(self, weight: Tensor) -> Tensor:
        """A weight with the adapter merged into it, in the weight's own number format."""
        return (weight.float() + self.delta_weight().to(weight.device)).to(weight.dtype)

    def effective(self) -> bool:
        """False when the forward pass is the bare layer's."""
        return self.multiplier != 0

    def skipped(self, probability: float) -> bool:
        """Draws whether module dropout leaves the adapter out this time. On the CPU: no wait for the device."""
        return self.training and probability > 0 and bool(torch.rand(1) < probability)

    def kept_rows(self, batch: int, count: int, device: torch.device) -> Tensor:
        """(batch, count) rank dropout's draw: False for what is left out."""
        return torch.rand(batch, count, device=device) > self.dropout.rank

    def with_kept_outputs(self, added: Tensor) -> Tensor:
        """What is added, (B, ..., O) or (B, O, H, W), with rank dropout of whole outputs, as LyCORIS has it."""
        if not self.training or self.dropout.rank == 0:
            return added
        outputs = self.layer.weight.shape[0]
        kept = self.kept_rows(added.shape[0], outputs, added.device) / (1 - self.dropout.rank)
        kept = kept[:, :, None, None] if self.is_conv else kept.view(-1, *[1] * (added.ndim - 2), outputs)
        return added * kept.to(added.dtype)

    def convolved(self, x: Tensor, weight: Tensor) -> Tensor:
        """What a weight (O', I, h, w) answers, at the steps and edges of the layer."""
        layer = self.layer
        assert isinstance(layer, nn.Conv2d)
        if layer.padding_mode != "zeros":
            x = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
            return F.conv2d(x, weight, None, layer.stride, 0, layer.dilation)
        return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation)


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    """Two shapes that agree in this hold the same numbers: a 1x1 convolution is stored as a matrix by some."""
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)
