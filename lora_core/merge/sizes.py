"""The rank each layer of a result gets: a fixed one, or the smallest that keeps a share of the change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lora_core.merge import lowrank
from lora_core.merge.lowrank import Array, LowRank, Svd
from lora_core.merge.recipe import is_spatial
from lora_core.settings.tools import Size

NOTHING = 1e-7
"""Singular values below this share of the largest are rounding of float32 inputs, not part of the change."""


@dataclass(frozen=True)
class Sizes:
    """Without any of these a change keeps the whole of its own rank."""

    rank: int | None = None
    conv_rank: int | None = None
    """Of convolutions larger than 1x1; None: as ``rank``."""
    energy: float | None = None
    """Share of the squared norm to keep in every layer, (0, 1]."""
    same_rank: bool = False

    @classmethod
    def of(cls, size: Size) -> "Sizes":
        return cls(size.rank, size.conv_rank, size.energy, size.same_rank)

    def limit(self, shape: Sequence[int]) -> int | None:
        """The largest rank a layer may get."""
        return (self.conv_rank or self.rank) if is_spatial(shape) else self.rank

    def choose(self, values: Array, shape: Sequence[int], total: float | None = None) -> int:
        """The rank of a layer by its singular values; 0 for a change that is nothing.

        ``total`` is the squared norm of the change where ``values`` are not all of its singular values.
        """
        own = int(np.sum(values > NOTHING * values[0])) if values.size and values[0] > 0 else 0
        wanted = own if self.energy is None else lowrank.rank_for_energy(values, self.energy, total)
        return min(wanted, own, self.limit(shape) or own)

    def cut(self, found: Svd | LowRank) -> LowRank:
        """A change brought to its rank. Factors are what a search found for these sizes, so they have it already."""
        if isinstance(found, LowRank):
            return found
        return found.truncate(self.choose(found.values, found.shape))

    def cut_alike(self, found: Mapping[str, Svd | LowRank]) -> dict[str, LowRank]:
        """Several changes brought to one rank, convolutions to one of their own."""
        wanted = {
            layer: one.rank if isinstance(one, LowRank) else self.choose(one.values, one.shape)
            for layer, one in found.items()
        }
        ranks = alike(wanted, {layer: one.shape for layer, one in found.items()})
        return {layer: one if isinstance(one, LowRank) else one.truncate(ranks[layer]) for layer, one in found.items()}


def alike(wanted: Mapping[str, int], shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The largest rank that any layer wants, for all; convolutions larger than 1x1 have one of their own."""
    largest = {
        kind: max((rank for layer, rank in wanted.items() if is_spatial(shapes[layer]) == kind), default=0)
        for kind in (False, True)
    }
    return {layer: largest[is_spatial(shapes[layer])] for layer in wanted}
