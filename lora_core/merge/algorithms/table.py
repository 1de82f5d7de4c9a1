"""The algorithms by which a LoRA file may describe the change of a weight, and which tensors tell them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from lora_core.merge.algorithms import full, glora, ia3, loha, lokr, oft, plain
from lora_core.merge.layer import Array, Change, Layer

Ways = tuple[tuple[str, ...], ...]
"""Tensors in which one half of a layer can be written, way by way."""


@dataclass(frozen=True)
class Algorithm:
    """One row of the table."""

    title: str
    """What people call it."""
    halves: tuple[Ways, ...]
    """A layer needs every one of these, each in one of its ways."""
    change: Callable[[Layer, Array | None], Change]
    optional: tuple[str, ...] = ()
    needs_base: bool = False

    @cached_property
    def tensors(self) -> frozenset[str]:
        """All tensors that belong to it."""
        return frozenset(name for half in self.halves for way in half for name in way) | set(self.optional)


def _all(*names: str) -> tuple[Ways, ...]:
    return tuple(((name,),) for name in names)


ALGORITHMS: dict[str, Algorithm] = {
    "lora": Algorithm("LoRA", _all(plain.DOWN, plain.UP), plain.change, optional=(plain.MID, plain.BIAS)),
    "loha": Algorithm(
        "LoHa",
        _all("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
        loha.change,
        optional=("hada_t1", "hada_t2"),
    ),
    "lokr": Algorithm(
        "LoKr",
        ((("lokr_w1",), ("lokr_w1_a", "lokr_w1_b")), (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))),
        lokr.change,
        optional=("lokr_t1", "lokr_t2"),
    ),
    "glora": Algorithm(
        "GLoRA", _all(glora.A1, glora.A2, glora.B1, glora.B2), glora.change, optional=(glora.BM,), needs_base=True
    ),
    "ia3": Algorithm("IA3", _all("weight", "on_input"), ia3.change, needs_base=True),
    "full": Algorithm("Full", _all("diff"), full.change),
    "oft": Algorithm(
        "OFT",
        ((("oft_blocks",), ("oft_diag",), ("oft_R.weight",)),),
        oft.change,
        optional=("rescale", "alpha_mask"),
        needs_base=True,
    ),
}
"""In the order in which they are looked for."""

VECTORS = ("w_norm", "b_norm", "diff_b")
"""Plain vectors added to a norm's weight, its bias, and a layer's bias."""
EVERYWHERE = frozenset({"alpha", "dora_scale", *VECTORS})
"""Tensors that any algorithm may have beside its own."""
