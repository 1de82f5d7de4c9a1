"""How many layers a run trains and how large its file will be, from the tables of the real models. Torch-free."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lora_core.errors import UserError
from lora_core.factors import factorization
from lora_core.merge.known import Shape, layers
from lora_core.selection import known_names, select
from lora_core.settings import NetworkSettings, RunSettings

_PARTS = (("lora_te2_", "text_encoder_2"), ("lora_te", "text_encoder"), ("lora_", "unet"))
"""Beginning of a layer's name -> its part; the first that fits."""
_BYTES = {"fp16": 2, "bf16": 2, "float": 4}
_BYTES_A_MODULE = 400
"""Alpha, and what the header says of a module's tensors: about 120 bytes each."""


@dataclass(frozen=True)
class Estimate:
    """What a run trains, by part, and the size of its file in bytes (None where the algorithm has no rule here)."""

    modules: Mapping[str, int]
    size: int | None

    @property
    def text_encoders(self) -> int:
        return sum(self.modules.get(part, 0) for part in ("text_encoder", "text_encoder_2"))


def estimate(settings: RunSettings) -> Estimate | None:
    """None for a family whose layers are not known, and where patterns or blocks can't be used (selection says why)."""
    family, shapes = settings.model.family, layers(settings.model.family)
    try:
        chosen = select(known_names(settings), settings.network, family) if shapes else {}
    except UserError:
        return None
    if not chosen:
        return None
    parts = [part_of(name) for name in chosen]
    counted = {part: parts.count(part) for part in dict.fromkeys(parts)}
    count = PARAMETERS.get(settings.network.algo)
    if count is None:
        return Estimate(counted, None)
    parameters = sum(count(shapes[name], choice.settings) for name, choice in chosen.items())
    return Estimate(counted, parameters * _BYTES[settings.save.save_precision] + len(chosen) * _BYTES_A_MODULE)


def part_of(name: str) -> str:
    """The part of the model a layer belongs to, by its name in LoRA files."""
    return next(part for begin, part in _PARTS if name.startswith(begin))


def _low_rank(shape: Shape, network: NetworkSettings) -> int:
    """down (R, I x kernel) and up (O, R); PiSSA's file has the start beside what was learned."""
    outputs, columns, rank = _sides(shape, network)
    return rank * (outputs + columns) * (2 if getattr(network, "init", "") == "pissa" else 1)


def _dora(shape: Shape, network: NetworkSettings) -> int:
    """The same, and a length for each input."""
    return _low_rank(shape, network) + shape[1]


def _loha(shape: Shape, network: NetworkSettings) -> int:
    """Two pairs of factors."""
    return 2 * _low_rank(shape, network)


def _lokr(shape: Shape, network: NetworkSettings) -> int:
    """w1 (A, B) and w2 (C, D x kernel), each whole or as a product of rank R; see adapters/lokr.py."""
    _, _, rank = _sides(shape, network)
    (a, c), (b, d) = (factorization(side, network.factor) for side in shape[:2])
    kernel = math.prod(shape[2:])
    whole1 = network.full_matrix or not network.decompose_both or rank >= max(a, b) / 2
    whole2 = network.full_matrix or rank >= max(c, d) / 2
    return (a * b if whole1 else rank * (a + b)) + (c * d * kernel if whole2 else rank * (c + d * kernel))


def _oft(shape: Shape, network: NetworkSettings) -> int:
    """Blocks (K, S, S) of the O outputs, K S = O."""
    outputs, _, rank = _sides(shape, network)
    return outputs * factorization(outputs, rank)[0]


PARAMETERS: Mapping[str, Callable[[Shape, NetworkSettings], int]] = MappingProxyType(
    {"lora": _low_rank, "locon": _low_rank, "loha": _loha, "lokr": _lokr, "dora": _dora, "oft": _oft}
)
"""Algorithm -> trained numbers of a layer with a weight of this shape."""


def _sides(shape: Shape, network: NetworkSettings) -> tuple[int, int, int]:
    """(outputs, columns, rank) of a layer; a convolution larger than 1x1 has a rank of its own."""
    kernel = math.prod(shape[2:])
    rank, _ = network.rank_and_alpha(kernel=kernel > 1)
    return shape[0], shape[1] * kernel, rank
