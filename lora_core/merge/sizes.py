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

    def choose(self, values: Array, shape: Sequence[int]) -> int:
        """The rank of a layer by its singular values; 0 for a change that is nothing."""
        own = int(np.sum(values > NOTHING * values[0])) if values.size and values[0] > 0 else 0
        wanted = own if self.energy is None else lowrank.rank_for_energy(values, self.energy)
        return min(wanted, own, self.limit(shape) or own)

    def ranks(self, values: Mapping[str, Array], shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """The rank of every layer; with ``same_rank`` the largest that any of its kind needs, if it has as many."""
        chosen = {layer: self.choose(values[layer], shapes[layer]) for layer in values}
        if not self.same_rank:
            return chosen
        largest = {
            kind: max((rank for layer, rank in chosen.items() if is_spatial(shapes[layer]) == kind), default=0)
            for kind in (False, True)
        }
        return {layer: min(largest[is_spatial(shapes[layer])], len(values[layer])) for layer in chosen}

    def cut(self, found: Svd | LowRank) -> LowRank:
        """A change brought to its rank."""
        whole = found if isinstance(found, Svd) else found.svd
        return whole.truncate(self.choose(whole.values, whole.shape))

    def cut_alike(self, found: Mapping[str, Svd | LowRank]) -> dict[str, LowRank]:
        """Several changes brought to one rank."""
        whole = {layer: one if isinstance(one, Svd) else one.svd for layer, one in found.items()}
        values = {layer: svd.values for layer, svd in whole.items()}
        ranks = self.ranks(values, {layer: svd.shape for layer, svd in whole.items()})
        return {layer: svd.truncate(ranks[layer]) for layer, svd in whole.items()}
