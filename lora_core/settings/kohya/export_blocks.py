"""Ranks, alphas and learning rates by block as sd-scripts' lists of numbers, where they can say the same."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lora_core.errors import UserError
from lora_core.io.kinds import Family
from lora_core.merge.blocks import block_of, names
from lora_core.selection import VALUES, is_kernel, known_names, select
from lora_core.settings.network import NetworkSettings
from lora_core.settings.run import RunSettings

FIELDS = frozenset(f"network.{name}" for name in VALUES)
"""Settings that these keys stand for, all together."""
_FAMILIES = ("sd1", "sd2", "sdxl")
"""For FLUX.1 sd-scripts knows sizes of kinds of layers, not of blocks."""
_ALGORITHMS = ("lora", "locon")
"""Of networks.lora; LyCORIS has no lists by block."""


_Size = tuple[int, float]
"""Rank and alpha. Rank 0: not trained."""
_OUT: _Size = (0, 1.0)


@dataclass
class _Block:
    """What the layers of a block were found to have: one of each where sd-scripts can say it."""

    linear: set[_Size] = field(default_factory=set)
    conv: set[_Size] = field(default_factory=set)
    rates: set[float] = field(default_factory=set)


def exported(settings: RunSettings) -> dict[str, str] | None:
    """Kohya's keys with their lists; None where they can't say what the settings do.

    That is so for other families and algorithms, where a pattern tells layers of a block apart, and where the text
    encoders have a size or rate of their own.
    """
    network, family = settings.network, settings.model.family
    if family not in _FAMILIES or network.algo not in _ALGORITHMS:
        return None
    try:
        blocks = _blocks(settings, family)
    except UserError:
        return None
    text = blocks.pop("BASE", _Block())
    several = any(len(one) > 1 for block in blocks.values() for one in (block.linear, block.conv, block.rates))
    if several or text.linear - {_linear(network)} or text.rates - {1.0}:
        return None
    return dict(_written(blocks, network, family))


def _linear(network: NetworkSettings) -> _Size:
    return network.rank, getattr(network, "alpha", float(network.rank))


def _conv(network: NetworkSettings) -> _Size:
    return getattr(network, "conv_rank", None) or network.rank, getattr(network, "conv_alpha", 1.0)


def _blocks(settings: RunSettings, family: Family) -> dict[str, _Block]:
    """Block by block. Raises UserError as ``select``."""
    every = known_names(settings)
    chosen = select(every, settings.network.model_copy(update={"include": "", "exclude": ""}), family)
    found: dict[str, _Block] = {}
    for name in every:
        block = found.setdefault(block_of(name, family), _Block())
        choice = chosen.get(name)
        if is_kernel(name):
            block.conv.add(_conv(choice.settings) if choice else _OUT)
        else:
            block.linear.add(_linear(choice.settings) if choice else _OUT)
        if choice:
            block.rates.add(choice.rate)
    return found


def _written(found: dict[str, _Block], network: NetworkSettings, family: Family) -> Iterator[tuple[str, str]]:
    blocks = {block: found.get(block, _Block()) for block in names(family) if block != "BASE"}
    linear = [next(iter(block.linear), _linear(network)) for block in blocks.values()]
    if set(linear) != {_linear(network)}:
        yield "block_dims", _listed((rank for rank, _ in linear), network.rank, family)
        yield "block_alphas", _listed((alpha for _, alpha in linear), _linear(network)[1], family)
    conv = [next(iter(block.conv), _conv(network)) for block in blocks.values()]
    if network.convolutions and set(conv) != {_conv(network)}:
        yield "conv_block_dims", _listed((rank for rank, _ in conv), _conv(network)[0], family)
        yield "conv_block_alphas", _listed((alpha for _, alpha in conv), _conv(network)[1], family)
    rates = {name: next(iter(block.rates), 1.0) for name, block in blocks.items()}
    if set(rates.values()) != {1.0}:
        for key, kind in (("down_lr_weight", "IN"), ("mid_lr_weight", "MID"), ("up_lr_weight", "OUT")):
            values = [rate for name, rate in rates.items() if name.startswith(kind)]
            yield key, _text(values * 3 if key.startswith("mid") and family == "sdxl" else values)


def _listed(values: Iterable[float], usual: float, family: Family) -> str:
    """One number for each block. SDXL's lists have the embeddings, a middle of three and the last layer, too."""
    numbers = list(values)
    if family == "sdxl":
        down, (middle,), up = numbers[:9], numbers[9:10], numbers[10:]
        numbers = [usual, *down, middle, middle, middle, *up, usual]
    return _text(numbers)


def _text(values: Iterable[float]) -> str:
    return ",".join(f"{value:.6g}" for value in values)
