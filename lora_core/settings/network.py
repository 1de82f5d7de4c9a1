"""What is trained: one variant for each algorithm, with the options it has.

Two have no meaning everywhere. Network dropout leaves out hidden rows, which only low-rank updates have: not LoHa, LoKr
and OFT. Weight norms are scaled by the factors of a change: not with DoRA or weight decomposition, whose lengths say how
large it is, not with PiSSA, whose change is a difference of two products, and not with OFT, which changes no lengths.
"""

import math
from typing import Annotated, Literal, Self

from pydantic import Field

from lora_core.settings.base import Settings, UserPath, setting


class _Network(Settings):
    """What every algorithm has; ``alpha`` and ``rs_lora`` are settings of those that scale their change."""

    rank: int = setting(16, "Network rank (dimension)", "network_dim", ge=1, le=1024)
    """Size of the LoRA. Larger can learn more detail, over-fits sooner and makes a larger file: 8 to 32 for a character."""

    @property
    def convolutions(self) -> bool:
        """Whether layers of the U-Net outside its attention are trained as well."""
        return False

    def rank_and_alpha(self, *, kernel: bool) -> tuple[int, float]:
        """Rank and alpha of a layer, of a convolution larger than 1x1 if ``kernel``; its effect is alpha / rank."""
        return self.rank, float(self.rank)

    def sized(self, rank: int, alpha: float, conv_rank: int, conv_alpha: float) -> Self:
        """The same with other sizes, for a layer that has its own."""
        sizes = {"rank": rank, "alpha": alpha, "conv_rank": conv_rank, "conv_alpha": conv_alpha}
        return self.model_copy(update={name: size for name, size in sizes.items() if name in type(self).model_fields})


class _Scaled(_Network):
    alpha: float = setting(16.0, "Network alpha", "network_alpha", gt=0, le=4096)
    """The LoRA's effect is multiplied by alpha / rank. Half of the rank or equal to it is usual; alpha 1 needs a much higher learning rate."""
    rs_lora: bool = setting(False, "Rank-stabilised scale (rsLoRA)")
    """Multiplies the effect by alpha / √rank instead, so that high ranks learn as fast as low ones. The file holds the alpha that other programs need."""

    def rank_and_alpha(self, *, kernel: bool) -> tuple[int, float]:
        """rsLoRA (Kalajdzievski 2023) scales by alpha / sqrt(rank): the same as alpha sqrt(rank) with the usual scale."""
        rank, alpha = self._size(kernel)
        return rank, alpha * math.sqrt(rank) if self.rs_lora else alpha

    def _size(self, kernel: bool) -> tuple[int, float]:
        return self.rank, self.alpha


class _Layers(_Network):
    include: str = setting("", "Only these layers", max_length=4000)
    """Trains only layers whose name in the LoRA file matches one of these patterns, separated by commas or lines: words (attn2), * for anything (*_attn2_*), or /regular expression/. Empty: all."""
    exclude: str = setting("", "Not these layers", max_length=4000)
    """Leaves out layers whose name matches one of these patterns, written as above: for example *_ff_net_*, or text_model_encoder_layers_11."""
    block_ranks: str = setting("", "Rank per block", max_length=4000)
    """Own ranks for blocks, in the language of layer weights: MID=8, IN04-08=4, or a list for all blocks, or a pattern of layer names: *attn2*=16. 0 leaves a block out; the rest has the rank above. Alpha keeps its ratio to the rank."""
    block_lrs: str = setting("", "Learning rate per block", max_length=4000)
    """What the learning rate is multiplied by in each block: OUT=0.5, MID=0, or a list, a preset such as OUTALL, or patterns. 0 leaves the block out."""


class _BlockAlphas(_Scaled, _Layers):
    block_alphas: str = setting("", "Alpha per block", max_length=4000)
    """Own alphas for blocks, written as the ranks: MID=4. Empty: each block's effect is scaled as the rest of the LoRA."""


class _Common(_Layers):
    rank_dropout: float = setting(0.0, "Rank dropout", "rank_dropout", ge=0, lt=1)
    """Share of ranks (of outputs with LoHa and LoKr) left out at each step, against over-fitting."""
    module_dropout: float = setting(0.0, "Module dropout", "module_dropout", ge=0, lt=1)
    """Chance that a whole module is left out at a step, against over-fitting."""
    network_weights: UserPath = setting(None, "Network weights", "network_weights")
    """Goes on from an existing LoRA file of the same type instead of from nothing. Layers that the file lacks start new."""
    dim_from_weights: bool = setting(False, "Rank from weights", "dim_from_weights")
    """Takes rank and alpha of every layer from that file. Off: the file must have the rank and alpha set here."""
    base_weights: str = setting("", "LoRAs merged into the base first", "base_weights", max_length=8000)
    """LoRA files that become part of the model before training starts, one a line, with a strength: C:\\lora\\style.safetensors:0.8. The new LoRA is learned on top of them; load them together with it when drawing."""


class _HiddenDropout(Settings):
    network_dropout: float = setting(0.0, "Network dropout", "network_dropout", ge=0, lt=1)
    """Share of values inside the LoRA set to 0 at each step, against over-fitting. 0.1 is a start."""


class _WeightNorms(Settings):
    scale_weight_norms: float | None = setting(None, "Scale weight norms", "scale_weight_norms", gt=0, le=100)
    """Largest norm a module may reach; larger ones are scaled down after each step. 1 is usual. Empty: no limit."""


class _LoraPlus(Settings):
    loraplus_ratio: float | None = setting(None, "LoRA+ ratio", "loraplus_lr_ratio", gt=0, le=1000)
    """LoRA+: learning rate of the up matrices, as a multiple. They start at zero and learn faster with 4 to 16, at the same memory. Empty: 1."""
    loraplus_unet_ratio: float | None = setting(None, "LoRA+ ratio (U-Net)", "loraplus_unet_lr_ratio", gt=0, le=1000)
    """LoRA+ ratio of the U-Net alone. Empty: the one above."""
    loraplus_text_encoder_ratio: float | None = setting(
        None, "LoRA+ ratio (text encoder)", "loraplus_text_encoder_lr_ratio", gt=0, le=1000
    )
    """LoRA+ ratio of the text encoder alone. Empty: the one above."""

    def up_ratio(self, part: str) -> float:
        """What the learning rate of up matrices in a part of the model is multiplied by."""
        own = self.loraplus_unet_ratio if part == "unet" else self.loraplus_text_encoder_ratio
        return own or self.loraplus_ratio or 1.0


class _Start(Settings):
    init: Literal["kaiming", "pissa"] = setting("kaiming", "Initialisation")
    """PiSSA starts from the strongest directions of the model's own weights and learns faster at first; reading them takes a minute. The saved file is an ordinary LoRA for the untouched model, with twice the rank: what was learned less the start."""


class _Decomposed(Settings):
    weight_decompose: bool = setting(False, "Weight decomposition (DoRA)", "dora_wd")
    """Trains the length of every column of the weights apart from their direction, as DoRA does for LoRA. Slower, and a little more memory."""


class _Kernels(_Common):
    conv_rank: int | None = setting(None, "Convolution rank (dimension)", "conv_dim", ge=1, le=1024)
    """Rank of the U-Net's 3x3 convolutions, which learn texture and line; the blocks around them are then trained, too. Empty: attention layers only."""
    block_conv_ranks: str = setting("", "Convolution rank per block", max_length=4000)
    """As rank per block, for the 3x3 convolutions."""

    @property
    def convolutions(self) -> bool:
        return self.conv_rank is not None

    def rank_and_alpha(self, *, kernel: bool) -> tuple[int, float]:
        rank = (self.conv_rank or self.rank) if kernel else self.rank
        return rank, float(rank)


class _Convolutions(_BlockAlphas, _Kernels):
    conv_rank: int | None = setting(None, "Convolution rank (dimension)", "conv_dim", ge=1, le=1024)
    """Rank of the U-Net's 3x3 convolutions, which learn texture and line; the blocks around them are then trained, too. Empty: attention layers only."""
    conv_alpha: float = setting(8.0, "Convolution alpha", "conv_alpha", gt=0, le=4096)
    """As network alpha, for the 3x3 convolutions."""
    block_conv_alphas: str = setting("", "Convolution alpha per block", max_length=4000)
    """As alpha per block, for the 3x3 convolutions."""

    def _size(self, kernel: bool) -> tuple[int, float]:
        return (self.conv_rank or self.rank, self.conv_alpha) if kernel else (self.rank, self.alpha)


class LoraSettings(_LoraPlus, _Start, _WeightNorms, _HiddenDropout, _BlockAlphas, _Common):
    algo: Literal["lora"] = "lora"


class LoconSettings(_LoraPlus, _Start, _WeightNorms, _HiddenDropout, _Convolutions):
    algo: Literal["locon"] = "locon"
    conv_rank: int | None = setting(8, "Convolution rank (dimension)", "conv_dim", ge=1, le=1024)
    """Rank of the U-Net's 3x3 convolutions, which learn texture and line; the blocks around them are then trained, too. Empty: attention layers only."""


class LohaSettings(_Decomposed, _WeightNorms, _Convolutions):
    algo: Literal["loha"] = "loha"
    rank: int = setting(8, "Network rank (dimension)", "network_dim", ge=1, le=1024)
    """Size of the two factors; together they reach the rank squared. 4 to 16 is usual."""
    alpha: float = setting(8.0, "Network alpha", "network_alpha", gt=0, le=4096)
    """The effect is multiplied by alpha / rank."""


class LokrSettings(_Decomposed, _WeightNorms, _Convolutions):
    algo: Literal["lokr"] = "lokr"
    factor: int | None = setting(None, "LoKr factor", "factor", ge=1, le=256)
    """Size of the smaller of the two matrices: small numbers such as 4 or 8 learn more and make larger files. Empty: as even as possible, the smallest file."""
    full_matrix: bool = setting(False, "Full matrix")
    """Trains the larger matrix as it is, whatever the rank says; alpha then counts for nothing. With factor 4 to 16 close to fine-tuning."""
    decompose_both: bool = setting(False, "Decompose both matrices", "decompose_both")
    """Splits the smaller matrix by rank as well, where that makes it smaller."""


class DoraSettings(_LoraPlus, _HiddenDropout, _Convolutions):
    algo: Literal["dora"] = "dora"


class OftSettings(_Kernels):
    algo: Literal["oft"] = "oft"
    rank: int = setting(8, "Network rank (dimension)", "network_dim", ge=1, le=1024)
    """Size of the blocks of outputs that are turned together: the rank itself where it divides the layer's outputs, else the nearest smaller divisor, at most their root. 4 to 16 is usual."""
    constraint: float | None = setting(None, "OFT constraint", "constrain", gt=0, le=1)
    """How far a layer may be turned at most, as a share of its outputs: 0.0001 to 0.001 keeps close to the model. Empty: no limit."""

    @property
    def alpha(self) -> float:
        """Turning has no scale."""
        return float(self.rank)

    @property
    def rs_lora(self) -> bool:
        return False


NetworkSettings = Annotated[
    LoraSettings | LoconSettings | LohaSettings | LokrSettings | DoraSettings | OftSettings,
    Field(discriminator="algo", title="LoRA type", json_schema_extra={"kohya": "LoRA_type"}),
]
