"""How many layers a run trains and how large its file will be, from the tables of the real models. Torch-free."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lora_core.factors import factorization
from lora_core.io.kinds import Family
from lora_core.merge.known import Shape, default_targets, layers
from lora_core.settings import NetworkSettings, RunSettings

_PARTS = (("lora_te2_", "text_encoder_2"), ("lora_te", "text_encoder"), ("lora_", "unet"))
"""Beginning of a layer's name -> its part; the first that fits."""
_CONV_BLOCKS = ("_resnets_", "_downsamplers_", "_upsamplers_")
"""In names of layers that are trained only together with convolutions."""
_TEXT_BESIDE: Mapping[str, str] = MappingProxyType({"flux": "lora_te1_"})
"""Family -> text encoder layers that are trained beside the usual targets: CLIP-L of FLUX; T5 is left alone."""
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
    """None for a family whose layers are not known."""
    family, network = settings.model.family, settings.network
    shapes = layers(family)
    names = [name for name in _trained(family, network) if settings.train.train_text_encoder or part_of(name) == "unet"]
    if not names:
        return None
    counted = {part: sum(part_of(name) == part for name in names) for part in dict.fromkeys(map(part_of, names))}
    count = PARAMETERS.get(network.algo)
    if count is None:
        return Estimate(counted, None)
    parameters = sum(count(shapes[name], network) for name in names)
    return Estimate(counted, parameters * _BYTES[settings.save.save_precision] + len(names) * _BYTES_A_MODULE)


def part_of(name: str) -> str:
    """The part of the model a layer belongs to, by its name in LoRA files."""
    return next(part for begin, part in _PARTS if name.startswith(begin))


def _trained(family: Family, network: NetworkSettings) -> list[str]:
    """Names of the layers that a run of this algorithm trains."""
    blocks = _CONV_BLOCKS if network.convolutions else ()
    beside = _TEXT_BESIDE.get(family, "?")
    usual = default_targets(family)
    return [n for n in layers(family) if n in usual or n.startswith(beside) or any(block in n for block in blocks)]


def _low_rank(shape: Shape, network: NetworkSettings) -> int:
    """down (R, I x kernel) and up (O, R)."""
    outputs, columns, rank = _sides(shape, network)
    return rank * (outputs + columns)


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


PARAMETERS: Mapping[str, Callable[[Shape, NetworkSettings], int]] = MappingProxyType(
    {"lora": _low_rank, "locon": _low_rank, "loha": _loha, "lokr": _lokr, "dora": _dora}
)
"""Algorithm -> trained numbers of a layer with a weight of this shape."""


def _sides(shape: Shape, network: NetworkSettings) -> tuple[int, int, int]:
    """(outputs, columns, rank) of a layer; a convolution larger than 1x1 has a rank of its own."""
    kernel = math.prod(shape[2:])
    rank, _ = network.rank_and_alpha(kernel=kernel > 1)
    return shape[0], shape[1] * kernel, rank
