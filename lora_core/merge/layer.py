"""What a LoRA file says of one layer, and the change of the layer's weight that follows from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_core.merge.lowrank import LowRank

Array = np.ndarray
Rows = tuple[int, int]
"""First row and the row after the last."""


@dataclass(frozen=True)
class Dense:
    """A change of a weight written out, where factors would be larger than the matrix. float32 or float64."""

    array: Array
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.array.size == int(np.prod(self.shape, dtype=np.int64)), (self.array.shape, self.shape)

    def scaled(self, factor: float) -> "Dense":
        return Dense(self.array * np.asarray(factor, self.array.dtype), self.shape)

    def dense(self) -> Array:
        """The change itself in the weight's shape, float32."""
        return self.array.astype(np.float32, copy=False).reshape(self.shape)

    def norm(self) -> float:
        """Frobenius norm, summed in float64."""
        flat = self.array.reshape(-1).astype(np.float64, copy=False)
        return float(np.sqrt(flat @ flat))


Change = LowRank | Dense
"""What a LoRA adds to a weight. Both kinds have .shape, .scaled(), .dense() and .norm()."""


@dataclass(frozen=True)
class Layer:
    """One layer's tensors in a LoRA file, under their canonical (kohya, LyCORIS) names."""

    name: str
    """Canonical layer, such as lora_unet_double_blocks_0_img_attn_qkv."""
    spelled: str
    """The layer as the file writes it; errors name it."""
    tensors: Mapping[str, Array]
    """lora_down.weight, alpha, hada_w1_a ... -> float32 (float64 where the file has it)."""
    rows: Rows | None = None
    """Rows of the canonical layer's weight that these tensors change; None is all of them."""
    total_rows: int | None = None
    """Rows of the whole canonical weight; given where ``rows`` is."""
    swapped: bool = False
    """Whether the first and the second half of the rows change places; see names.Place."""
    path: Path | None = None
    """The file, for errors."""

    @property
    def where(self) -> str:
        """File and layer, as errors name them."""
        return f"{self.path.name}: {self.spelled}" if self.path else self.spelled
