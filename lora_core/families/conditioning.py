"""What a denoiser is told beside the noisy latents: the texts, read by the text encoders."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """Tensors by name; the first dimension of each is the sample.

    "hidden" (B, L, C) is there in every family; "pooled" (B, C), "guidance" (B,) and others in those that need them.
    """

    tensors: Mapping[str, Tensor]

    @property
    def hidden(self) -> Tensor:
        return self.tensors["hidden"]

    def __len__(self) -> int:
        return len(self.hidden)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def split(self) -> list["Conditioning"]:
        """One for each sample."""
        rows = {name: tensor.split(1) for name, tensor in self.tensors.items()}
        return [Conditioning({name: own[i] for name, own in rows.items()}) for i in range(len(self))]

    @classmethod
    def cat(cls, several: Iterable["Conditioning"]) -> "Conditioning":
        """The samples of several, in order. All must have the same tensors, of the same lengths."""
        several = list(several)
        return cls({name: torch.cat([one.tensors[name] for one in several]) for name in several[0].tensors})

    def to(self, *target: torch.device | torch.dtype, non_blocking: bool = False) -> "Conditioning":
        moved = {name: tensor.to(*target, non_blocking=non_blocking) for name, tensor in self.tensors.items()}
        return Conditioning(moved)

    def kept(self) -> "Conditioning":
        """On the CPU and without a graph, for as long as the run lasts."""
        tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.tensors.items()}
        if torch.cuda.is_available():
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        return Conditioning(tensors)

    def with_tensors(self, **more: Tensor) -> "Conditioning":
        return Conditioning({**self.tensors, **more})
