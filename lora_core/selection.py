"""Which layers are trained, and with which rank, alpha and learning rate each: what the settings say, layer by layer.

Pure and without torch: the page counts with it while somebody types. Layers go by their names in the LoRA file.
"""

import fnmatch
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lora_core.errors import Problem, UserError
from lora_core.io.kinds import Family
from lora_core.merge import known
from lora_core.merge.blocks import REST, block_of, parse_names, preset_of, stated
from lora_core.settings import NetworkSettings, RunSettings


@dataclass(frozen=True)
class Choice:
    """How one layer is trained."""

    settings: NetworkSettings
    """With the layer's own sizes."""
    rate: float = 1.0
    """What the learning rate of its part is multiplied by."""


PATTERNS = ("include", "exclude")
VALUES = ("block_ranks", "block_alphas", "block_conv_ranks", "block_conv_alphas", "block_lrs")
"""Settings with numbers for blocks. Not every algorithm has all of them."""
_WHOLE = ("block_ranks", "block_conv_ranks")
_LARGEST = {"block_ranks": 1024.0, "block_conv_ranks": 1024.0, "block_lrs": 1000.0}


def select(names: Sequence[str], network: NetworkSettings, family: Family) -> dict[str, Choice]:
    """The layers to train, in the order of ``names``.

    Raises UserError for a pattern that matches nothing, a block the family does not have, and when nothing is left.
    """
    chosen = _chosen(names, network)
    own = {field: values_of(field, chosen, network, family) for field in VALUES}
    rates = own["block_lrs"]
    found = {name: Choice(_sized(network, name, own), rates.get(name, 1.0)) for name in chosen}
    found = {name: found[name] for name in found if rates.get(name, 1.0) and own["block_ranks"].get(name, 1.0)}
    found = {n: c for n, c in found.items() if own["block_conv_ranks"].get(n, 1.0) or not is_kernel(n)}
    if not found:
        raise UserError("selection.nothing_left")
    return found


def problems(settings: RunSettings) -> Iterator[Problem]:
    """What is wrong with each field, seen from the layers that models of the family have."""
    names, network, family = known_names(settings), settings.network, settings.model.family
    if not names:
        return
    wrong = False
    for field in (*PATTERNS, *VALUES):
        try:
            if field in PATTERNS:
                matching(getattr(network, field), names)
            else:
                values_of(field, names, network, family)
        except UserError as error:
            wrong = True
            yield Problem.of(f"network.{field}", error)
    if not wrong:
        try:
            select(names, network, family)
        except UserError as error:
            yield Problem.of("network.include" if network.include else "network.exclude", error)


def known_names(settings: RunSettings) -> tuple[str, ...]:
    """Layers that models of the family have and these settings could train; empty for a family without a table."""
    family, network = settings.model.family, settings.network
    layers, targets = known.layers(family), known.default_targets(family)
    inside = {name for name in layers if network.convolutions and _beside_attention(name, family)}
    names = [name for name in layers if name in targets or name in inside or block_of(name, family) == "CLIP"]
    text = settings.train.train_text_encoder
    return tuple(name for name in names if text or not name.startswith("lora_te"))


_KERNEL = re.compile(r"_(conv[12]?|conv_in|conv_out|in_layers_2|out_layers_3|\d_op|input_blocks_0_0|unet_out_2)$")
"""3x3 convolutions under diffusers' names, and under those of SDXL's LoRA files."""


def is_kernel(name: str) -> bool:
    """Whether a layer is a 3x3 convolution, to which the convolution rank applies."""
    return _KERNEL.search(name) is not None


def _beside_attention(name: str, family: Family) -> bool:
    """Layers of the residual blocks and the samplers, which a convolution rank brings in; not the first convolution."""
    return family != "flux" and block_of(name, family) not in (REST, "BASE", "IN00")


# ---- patterns --------------------------------------------------------------------------------------------------------

_ENTRY = re.compile(r"/(?:[^/\\\n]|\\.)*/|[^,\n]+")


def patterns(text: str) -> list[str]:
    """The patterns of a text, between commas and lines; a /regular expression/ may hold commas."""
    return [entry for found in _ENTRY.finditer(text) if (entry := found[0].strip())]


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern as a search in a layer's name. Raises UserError for a regular expression that is none.

    With * or ? it is for the whole name, else for words of it: attn2 is in ..._attn2_to_q but not in ..._attn21.
    """
    if len(pattern) > 1 and pattern.startswith("/") and pattern.endswith("/"):
        try:
            return re.compile(pattern[1:-1])
        except re.error as error:
            raise UserError("selection.no_regex", pattern=pattern[:80], error=str(error)) from None
    if any(sign in pattern for sign in "*?["):
        return re.compile(rf"\A{fnmatch.translate(pattern)}")
    return re.compile(rf"(?<![^_]){re.escape(pattern)}(?![^_])")


def matching(text: str, names: Collection[str]) -> set[str]:
    """The names that one of the patterns matches. Raises UserError for a pattern that matches none."""
    found: set[str] = set()
    for pattern in patterns(text):
        found |= _matches(pattern, names)
    return found


def _matches(pattern: str, names: Collection[str]) -> set[str]:
    search = compiled(pattern).search
    found = {name for name in names if search(name)}
    if not found:
        raise UserError("selection.pattern_nothing", pattern=pattern[:80], example=next(iter(names), ""))
    return found


def _chosen(names: Sequence[str], network: NetworkSettings) -> list[str]:
    wanted = matching(network.include, names) if patterns(network.include) else set(names)
    unwanted = matching(network.exclude, names)
    return [name for name in names if name in wanted and name not in unwanted]


# ---- numbers for blocks ----------------------------------------------------------------------------------------------

_VALUE = re.compile(r"(/(?:[^/\\\n]|\\.)*/|[^,;\n=]+)\s*=\s*([^,;\n]*)")


def values_of(field: str, names: Sequence[str], network: NetworkSettings, family: Family) -> dict[str, float]:
    """The number of every layer that a field speaks of. Patterns come before blocks, the first one first.

    The name of a preset stands for the LoRA's own rank or alpha in its blocks and 0 in the others.
    """
    text = getattr(network, field, "")
    if (preset := preset_of(text, family)) is not None:
        unit = _own(field, network)
        return {name: unit * preset.get(block_of(name, family), 1.0) for name in names}
    by_pattern, rest = _split(text, family)
    by_block = stated(rest, family)
    for block, value in by_block.items():
        _check(field, block, value)
    found = {name: by_block[block] for name in names if (block := block_of(name, family)) in by_block}
    for pattern, value in reversed(by_pattern):
        _check(field, pattern, value)
        found |= dict.fromkeys(_matches(pattern, names), value)
    return found


def _split(text: str, family: Family) -> tuple[list[tuple[str, float]], str]:
    """Patterns with their numbers, and the rest, which speaks of blocks."""
    found, rest = [], []
    entries = list(_VALUE.finditer(text))
    if not entries:
        return [], text
    for entry in entries:
        name, number = entry[1].strip(), entry[2].strip()
        if _is_pattern(name, family):
            found.append((name, _number(name, number)))
        else:
            rest.append(f"{name}={number}")
    left = _VALUE.sub("", text).strip(" ,;\n")
    if left:
        raise UserError("blocks.not_numbers", text=left[:80])
    return found, ",".join(rest)


def _is_pattern(name: str, family: Family) -> bool:
    """Whether it is for layer names; what is written in capitals is meant for a block."""
    if name.startswith("/") or any(sign in name for sign in "*?_"):
        return True
    try:
        return not parse_names(name, family)
    except UserError:
        return name != name.upper()


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError("blocks.not_numbers", text=f"{name}={text}"[:80]) from None


def _check(field: str, where: str, value: float) -> None:
    most = _LARGEST.get(field, 4096.0)
    if not 0 <= value <= most:
        raise UserError("selection.out_of_range", where=where[:80], value=f"{value:g}", most=f"{most:g}")
    if field in _WHOLE and value != int(value):
        raise UserError("selection.not_whole", where=where[:80], value=f"{value:g}")


def _own(field: str, network: NetworkSettings) -> float:
    """What the LoRA has where nothing else is said."""
    conv_rank = getattr(network, "conv_rank", None) or network.rank
    sizes = {"block_ranks": network.rank, "block_conv_ranks": conv_rank, "block_alphas": network.alpha}
    return float(sizes.get(field, getattr(network, "conv_alpha", 1.0) if field == "block_conv_alphas" else 1.0))


def _sized(network: NetworkSettings, name: str, own: Mapping[str, Mapping[str, float]]) -> NetworkSettings:
    """The settings with a layer's own sizes; alpha keeps its ratio to the rank unless it is given."""
    if not any(name in own[field] for field in VALUES[:-1]):
        return network
    rank, alpha = _size(network, name, own, *VALUES[0:2])
    conv_rank, conv_alpha = _size(network, name, own, *VALUES[2:4])
    return network.sized(rank, alpha, conv_rank, conv_alpha)


def _size(
    network: NetworkSettings, name: str, own: Mapping[str, Mapping[str, float]], ranks: str, alphas: str
) -> tuple[int, float]:
    usual, alpha = _own(ranks, network), _own(alphas, network)
    rank = own[ranks].get(name) or usual
    return int(rank), own[alphas].get(name) or alpha * rank / usual


def rates_differ(settings: RunSettings) -> bool:
    """Whether blocks that are trained are to learn at rates of their own; False where that can't be told."""
    if not settings.network.block_lrs:
        return False
    family = settings.model.family
    try:
        found = values_of("block_lrs", known_names(settings), settings.network, family)
    except UserError:
        return False
    return bool(set(found.values()) - {0.0, 1.0})


# ---- for the page ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Count:
    """What a selection comes to."""

    chosen: int
    of: int
    text: int
    """Of the chosen, those in text encoders."""
    ranks: tuple[int, int]
    """Smallest and largest."""
    rates: tuple[float, float]


def count(settings: RunSettings) -> Count | None:
    """Layers, ranks and rates, by the family's table; None without one. Raises UserError as ``select``."""
    names = known_names(settings)
    if not names:
        return None
    found = select(names, settings.network, settings.model.family)
    ranks = [choice.settings.rank for choice in found.values()]
    rates = [choice.rate for choice in found.values()]
    text = sum(name.startswith("lora_te") for name in found)
    return Count(len(found), len(names), text, (min(ranks), max(ranks)), (min(rates), max(rates)))
