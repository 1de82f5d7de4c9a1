"""OFT: blocks of a layer's outputs are turned (Qiu et al. 2023, Controlling Text-to-Image Diffusion by Orthogonal
Finetuning): W' = R W with R = diag(R_1 ... R_K), R_k = (I + Q_k)(I - Q_k)^-1 and Q_k = B_k - B_k' (Cayley, section 4).

The file is that of LyCORIS' diag-oft and sd-scripts' networks.oft, ``oft_blocks`` (K, S, S) and ``alpha``: by their
code these two, AUTOMATIC1111 and ComfyUI all read it so, and all of them multiply by the transpose (einsum "k n m,
k n ... -> k m ..."), which is what is done here. They differ in alpha, a limit of |Q|: LyCORIS, AUTOMATIC1111 and
sd-scripts multiply it by the outputs, ComfyUI does not, and 0 is no limit for LyCORIS but no turn at all for
sd-scripts. So the limit that was trained with is worked into the blocks, and alpha is written larger than any |Q|: all
play the same.

Letters: K blocks, S outputs in each (K S = O), N rows.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lora_core.adapters.base import Adapter, Dropout, Frozen, Part
from lora_core.adapters.keys import ALPHA, key
from lora_core.adapters.lokr import factorization
from lora_core.adapters.lora import has_kernel
from lora_core.errors import UserError
from lora_core.settings import NetworkSettings, OftSettings

BLOCKS = "oft_blocks"
NO_LIMIT = 1024.0
"""alpha in our files. Of a layer whose 1280 outputs are all turned by 170 degrees |Q| is about 400."""

ROUNDING = 1e-5


class Oft(Adapter):
    """Turns outputs among each other; ``blocks`` are (K, S, S), zero before training."""

    title = "OFT"

    def __init__(
        self,
        name: str,
        layer: Frozen,
        part: Part,
        rank: int,
        alpha: float,
        dropout: Dropout = Dropout(),  # noqa: B008
        *,
        size: int,
        constraint: float | None = None,
    ):
        super().__init__(name, layer, part, rank, alpha, dropout)
        outputs = layer.weight.shape[0]
        self.limit = None if constraint is None else constraint * outputs
        self.blocks = nn.Parameter(torch.zeros(outputs // size, size, size, device=layer.weight.device))

    @classmethod
    def create(cls, name: str, layer: Frozen, part: Part, settings: NetworkSettings, generator: torch.Generator):
        """An adapter that does nothing yet. Blocks by LyCORIS' rule: at least as many as each is large."""
        assert isinstance(settings, OftSettings)
        rank, _ = settings.rank_and_alpha(kernel=has_kernel(layer))
        size, _ = factorization(layer.weight.shape[0], rank)
        return cls(name, layer, part, rank, rank, Dropout.of(settings), size=size, constraint=settings.constraint)

    @classmethod
    def from_tensors(cls, name, layer, part, tensors: Mapping[str, Tensor], dropout: Dropout = Dropout()):  # noqa: B008
        if BLOCKS not in tensors:
            raise UserError("adapter.missing_tensor", tensor=key(name, BLOCKS))
        shape, outputs = tuple(tensors[BLOCKS].shape), layer.weight.shape[0]
        size = shape[-1]
        if len(shape) != 3 or shape[0] * size != outputs:
            wanted = f"({outputs // size} x {size} x {size})"
            raise UserError("adapter.shape_differs", tensor=key(name, BLOCKS), found=shape, wanted=wanted)
        adapter = cls(name, layer, part, size, size, dropout, size=size)
        adapter.load(tensors)
        return adapter

    def forward(self, x: Tensor) -> Tensor:
        y = self._layer_forward(x)
        if not self.effective() or self.skipped(self.dropout.module):
            return y
        bias, turn = self.layer.bias, self.turn().to(y.dtype)
        rows = y if bias is None else y - (bias[:, None, None] if self.is_conv else bias)
        added = self._turned_image(turn, rows) if self.is_conv else self._turned_rows(turn, rows)
        return torch.add(y, self.with_kept_outputs(added), alpha=self.multiplier)

    def delta_weight(self) -> Tensor:
        weight = self.layer.weight.detach().float()
        added = torch.einsum("knm,knc->kmc", self.turn().detach(), weight.reshape(*self.blocks.shape[:2], -1))
        return added.reshape(weight.shape) * self.multiplier

    def turn(self) -> Tensor:
        """(K, S, S) R - I, float32; exactly zero for zero blocks. (I + Q)(I - Q)^-1 - I = (I - Q)^-1 2 Q."""
        blocks = self.blocks.float()
        q = self._limited(blocks - blocks.transpose(1, 2))
        return torch.linalg.solve(torch.eye(q.shape[-1], device=q.device) - q, 2 * q)

    def stored(self) -> dict[str, nn.Parameter]:
        return {BLOCKS: self.blocks}

    def tensors(self) -> dict[str, Tensor]:
        blocks = self.blocks.detach()
        if self.limit is not None:
            blocks = blocks * shrink(blocks - blocks.transpose(1, 2), self.limit)
        return {BLOCKS: blocks, ALPHA: torch.tensor(NO_LIMIT)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """A limit in the file is worked into its blocks."""
        super().load({**tensors, ALPHA: torch.tensor(self.alpha)})
        limit = float(tensors.get(ALPHA, 0.0)) * self.layer.weight.shape[0]
        if limit > 0:
            q = self.blocks.detach() - self.blocks.detach().transpose(1, 2)
            self.blocks.data.mul_(shrink(q, limit))

    def take_options_of(self, other: Adapter) -> None:
        super().take_options_of(other)
        self.limit = other.limit if isinstance(other, Oft) else None

    def _limited(self, q: Tensor) -> Tensor:
        return q if self.limit is None else q * shrink(q, self.limit)

    def _turned_rows(self, turn: Tensor, y: Tensor) -> Tensor:
        """(..., O) to (..., O)."""
        rows = y.reshape(-1, *turn.shape[:2])
        return torch.einsum("knm,bkn->bkm", turn, rows).reshape(y.shape)

    def _turned_image(self, turn: Tensor, y: Tensor) -> Tensor:
        """(N, O, H, W) to (N, O, H, W)."""
        rows = y.reshape(len(y), *turn.shape[:2], -1)
        return torch.einsum("knm,bknp->bkmp", turn, rows).reshape(y.shape)


def shrink(q: Tensor, limit: float) -> Tensor:
    """The factor that brings |Q| down to a limit, 1 below it; a tensor, so that nothing waits for the device.

    What was brought down to the limit and rounded counts as below, so that a saved file is the same when saved again.
    """
    length = q.square().sum().clamp(min=torch.finfo(q.dtype).tiny).sqrt()
    return torch.where(length > limit * (1 + ROUNDING), limit / length, 1.0)
