"""What is trained: one variant for each algorithm, with the options it has."""

import math
from typing import Annotated, Literal

from pydantic import Field

from lora_core.settings.base import Settings, UserPath, setting


class _Network(Settings):
    rank: int = setting(16, "Network rank (dimension)", "network_dim", ge=1, le=1024)
    """Size of the LoRA. Larger can learn more detail, over-fits sooner and makes a larger file: 8 to 32 for a character."""
    alpha: float = setting(16.0, "Network alpha", "network_alpha", gt=0, le=4096)
    """The LoRA's effect is multiplied by alpha / rank. Half of the rank or equal to it is usual; alpha 1 needs a much higher learning rate."""
    rs_lora: bool = setting(False, "Rank-stabilised scale (rsLoRA)")
    """Multiplies the effect by alpha / √rank instead, so that high ranks learn as fast as low ones. The file holds the alpha that other programs need."""

    @property
    def convolutions(self) -> bool:
        """Whether layers of the U-Net outside its attention are trained as well."""
        return False

    def rank_and_alpha(self, *, kernel: bool) -> tuple[int, float]:
        """Rank and alpha of a layer, of a convolution larger than 1x1 if ``kernel``; its effect is alpha / rank.

        rsLoRA (Kalajdzievski 2023) scales by alpha / sqrt(rank): the same as alpha sqrt(rank) with the usual scale.
        """
        rank, alpha = self._size(kernel)
        return rank, alpha * math.sqrt(rank) if self.rs_lora else alpha

    def _size(self, kernel: bool) -> tuple[int, float]:
        return self.rank, self.alpha


class _Common(_Network):
    rank_dropout: float = setting(0.0, "Rank dropout", "rank_dropout", ge=0, lt=1)
    """Share of ranks (of outputs with LoHa and LoKr) left out at each step, against over-fitting."""
    module_dropout: float = setting(0.0, "Module dropout", "module_dropout", ge=0, lt=1)
    """Chance that a whole module is left out at a step, against over-fitting."""
    network_weights: UserPath = setting(None, "Network weights", "network_weights")
    """Goes on from an existing LoRA file of the same type instead of from nothing. Layers that the file lacks start new."""
    dim_from_weights: bool = setting(False, "Rank from weights", "dim_from_weights")
    """Takes rank and alpha of every layer from that file. Off: the file must have the rank and alpha set here."""


class _HiddenDropout(Settings):
    network_dropout: float = setting(0.0, "Network dropout", "network_dropout", ge=0, lt=1)
    """Share of values inside the LoRA set to 0 at each step, against over-fitting. 0.1 is a start."""


class _WeightNorms(Settings):
    scale_weight_norms: float | None = setting(None, "Scale weight norms", "scale_weight_norms", gt=0, le=100)
    """Largest norm a module may reach; larger ones are scaled down after each step. 1 is usual. Empty: no limit."""


class _Convolutions(_Common):
    conv_rank: int | None = setting(None, "Convolution rank (dimension)", "conv_dim", ge=1, le=1024)
    """Rank of the U-Net's 3x3 convolutions, which learn texture and line; the blocks around them are then trained, too. Empty: attention layers only."""
    conv_alpha: float = setting(8.0, "Convolution alpha", "conv_alpha", gt=0, le=4096)
    """As network alpha, for the 3x3 convolutions."""

    @property
    def convolutions(self) -> bool:
        return self.conv_rank is not None

    def _size(self, kernel: bool) -> tuple[int, float]:
        return (self.conv_rank or self.rank, self.conv_alpha) if kernel else (self.rank, self.alpha)


class LoraSettings(_WeightNorms, _HiddenDropout, _Common):
    algo: Literal["lora"] = "lora"


class LoconSettings(_WeightNorms, _HiddenDropout, _Convolutions):
    algo: Literal["locon"] = "locon"
    conv_rank: int | None = setting(8, "Convolution rank (dimension)", "conv_dim", ge=1, le=1024)
    """Rank of the U-Net's 3x3 convolutions, which learn texture and line; the blocks around them are then trained, too. Empty: attention layers only."""


class LohaSettings(_WeightNorms, _Convolutions):
    algo: Literal["loha"] = "loha"
    rank: int = setting(8, "Network rank (dimension)", "network_dim", ge=1, le=1024)
    """Size of the two factors; together they reach the rank squared. 4 to 16 is usual."""
    alpha: float = setting(8.0, "Network alpha", "network_alpha", gt=0, le=4096)
    """The effect is multiplied by alpha / rank."""


class LokrSettings(_WeightNorms, _Convolutions):
    algo: Literal["lokr"] = "lokr"
    factor: int | None = setting(None, "LoKr factor", "factor", ge=1, le=256)
    """Size of the smaller of the two matrices: small numbers such as 4 or 8 learn more and make larger files. Empty: as even as possible, the smallest file."""
    full_matrix: bool = setting(False, "Full matrix")
    """Trains the larger matrix as it is, whatever the rank says; alpha then counts for nothing. With factor 4 to 16 close to fine-tuning."""
    decompose_both: bool = setting(False, "Decompose both matrices", "decompose_both")
    """Splits the smaller matrix by rank as well, where that makes it smaller."""


class DoraSettings(_HiddenDropout, _Convolutions):
    algo: Literal["dora"] = "dora"


NetworkSettings = Annotated[
    LoraSettings | LoconSettings | LohaSettings | LokrSettings | DoraSettings,
    Field(discriminator="algo", title="LoRA type", json_schema_extra={"kohya": "LoRA_type"}),
]
