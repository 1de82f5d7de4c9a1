"""What the weights of a LoRA show, as HTML: bars by block, shares of the parts, and what a smaller rank would keep."""

import re
from collections.abc import Sequence
from itertools import groupby
from math import isfinite

from app.i18n import say
from app.inspect.curve import curve_svg
from app.inspect.html import fold, number, percent, safe, table, tag, tool_button, words
from app.inspect.view import columns, section
from app.live import size_words
from lora_core.i18n import Language
from lora_core.inspect.report import BlockReport, BlockWeights, HeaderReport, ModuleReport, WeightReport, part_name

LAYERS_SHOWN = 60


def weights_html(header: HeaderReport, weights: WeightReport, language: Language) -> str:
    """Everything about the weights."""
    chart = blocks_html(weights.blocks, header.blocks, language) + layers_html(weights.modules, language)
    side = section(say("inspector.shares", language), shares_html(weights, language))
    side += section(say("inspector.energy", language), energy_html(header, weights, language))
    return columns(
        section(say("inspector.blocks", language), chart, "in-wide"), tag("div", side, "in-side") if side else ""
    )


def waiting_html(size: int, language: Language) -> str:
    """Shown while the weights are read."""
    text = say("inspector.reading", language, size=size_words(size))
    spinner = tag("span", "", "in-spinner", aria_hidden="true")
    return tag("div", spinner + words(text), "in-waiting", role="status")


def ask_html(size: int, language: Language) -> str:
    """Shown instead for a file so large that it is read only when asked for."""
    ask = words(say("inspector.large", language, size=size_words(size)))
    return tag("div", ask + tool_button("weights", say("inspector.read_weights", language)), "in-waiting")


# ---- bars by block ---------------------------------------------------------------------------------------------------


def group_of(block: str) -> str:
    """BASE, IN, MID, OUT, T5 ...: the name of a block without the two digits of its number."""
    return re.sub(r"\d\d$", "", block)


def blocks_html(blocks: Sequence[BlockWeights], known: Sequence[BlockReport], language: Language) -> str:
    """A bar a block, in the model's order, and the same as a table."""
    if not blocks:
        return ""
    highest = {name: max((getattr(b, name) for b in blocks), default=0) or 1 for name in MEASURES}
    grouped = [(group, list(found)) for group, found in groupby(blocks, lambda block: group_of(block.block))]
    drawn = "".join(group_html(group, found, highest, language) for group, found in grouped)
    label, usual = say("inspector.chart", language), largest_words(blocks, language)
    picture = tag("div", drawn, "in-chart", role="img", aria_label=label, data_measure=MEASURES[0])
    told = tag("p", safe(usual), "in-readout", aria_live="polite", data_usual=usual)
    body = table(block_heads(language), block_rows(blocks, known), "in-numbers", say("inspector.blocks", language))
    return (
        switch_html(language)
        + told
        + picture
        + fold(say("inspector.as_table", language), tag("div", body, "in-scroll"))
    )


MEASURES = ("norm", "strength")
"""What the bars can show, the usual one first."""


def switch_html(language: Language) -> str:
    """Which measure the bars show."""
    buttons = "".join(
        tag(
            "button",
            safe(say(f"inspector.measure.{name}", language)),
            type="button",
            data_measure=name,
            aria_pressed="true" if name == MEASURES[0] else "false",
            title=say(f"inspector.measure.{name}_help", language),
        )
        for name in MEASURES
    )
    return tag("div", buttons, "in-switch", role="group")


def group_html(group: str, blocks: Sequence[BlockWeights], highest: dict[str, float], language: Language) -> str:
    """The bars of one side of the model, with its name below."""
    bars = "".join(bar_html(block, highest, language) for block in blocks)
    return tag(
        "div", tag("div", bars, "in-bars") + words(group, "in-group"), "in-bar-group", style=f"--count:{len(blocks)}"
    )


def bar_html(block: BlockWeights, highest: dict[str, float], language: Language) -> str:
    """One bar. Its height follows the measure that is chosen; hovering tells its numbers."""
    tip = say(
        "inspector.bar",
        language,
        block=block.block,
        norm=number(block.norm),
        share=percent(block.share),
        strength=number(block.strength),
        rank=number(block.effective_rank, 2),
        layers=block.layers,
    )
    heights = ";".join(f"--{name}:{_height(getattr(block, name), top):.2f}%" for name, top in highest.items())
    fill = tag("div", "", "in-fill", style=heights)
    return tag(
        "div",
        fill + words(short_block(block.block), "in-name"),
        f"in-bar in-{group_of(block.block).lower()}",
        data_tip=tip,
    )


def _height(value: float, highest: float) -> float:
    return max(0.0, min(100.0, 100 * value / highest)) if isfinite(value) else 0.0


def short_block(block: str) -> str:
    """What stands below a bar: the number alone, as its group's name stands below that."""
    return block[len(group_of(block)) :]


def largest_words(blocks: Sequence[BlockWeights], language: Language) -> str:
    """What stands above the bars while none is pointed at."""
    strongest = sorted(blocks, key=lambda block: block.norm, reverse=True)[:3]
    return say("inspector.largest", language, blocks=", ".join(f"{b.block} {number(b.norm)}" for b in strongest))


BLOCK_COLUMNS = ("block", "layers", "norm", "share", "strength", "effective", "ranks", "alphas")


def block_heads(language: Language) -> list[str]:
    return [say(f"inspector.column.{name}", language) for name in BLOCK_COLUMNS]


def block_rows(blocks: Sequence[BlockWeights], known: Sequence[BlockReport]) -> list[list[str]]:
    by_name = {block.block: block for block in known}
    return [
        [
            block.block,
            str(block.layers),
            number(block.norm),
            percent(block.share, 1),
            number(block.strength),
            number(block.effective_rank),
            _several(by_name[block.block].ranks if block.block in by_name else ()),
            _several(by_name[block.block].alphas if block.block in by_name else ()),
        ]
        for block in blocks
    ]


def _several(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values[:6]) + (" …" if len(values) > 6 else "")


LAYER_COLUMNS = ("layer", "algorithm", "rank", "norm", "relative", "effective")


def layers_html(modules: Sequence[ModuleReport], language: Language) -> str:
    """The layers that change most for their size, as a table."""
    measured = [module for module in modules if module.relative is not None]
    if not measured:
        return ""
    shown = sorted(measured, key=lambda module: module.relative or 0, reverse=True)[:LAYERS_SHOWN]
    rows = [
        [
            module.name,
            module.algorithm,
            str(module.rank or "–"),
            number(module.norm),
            f"{number(module.relative)}×",
            number(module.effective_rank),
        ]
        for module in shown
    ]
    heads = [say(f"inspector.column.{name}", language) for name in LAYER_COLUMNS]
    body = tag("div", table(heads, rows, "in-numbers"), "in-scroll")
    return fold(say("inspector.layer_table", language, shown=len(rows), count=len(modules)), body)


# ---- parts -----------------------------------------------------------------------------------------------------------


def shares_html(weights: WeightReport, language: Language) -> str:
    """One bar split by the parts of the model, with a legend."""
    shares = {part: share for part, share in weights.shares.items() if isfinite(share)}
    if not shares:
        return ""
    stripes = "".join(
        tag("div", "", f"in-stripe in-part-{name}", style=f"flex-grow:{max(share, 0.002):.4f}")
        for name, share in shares.items()
    )
    legend = "".join(
        tag(
            "li",
            tag("i", "", f"in-part-{name}", aria_hidden="true")
            + words(part_name(name, weights.family, language))
            + words(percent(share), name="b"),
        )
        for name, share in shares.items()
    )
    return tag("div", stripes, "in-split", aria_hidden="true") + tag("ul", legend, "in-legend")


# ---- what a smaller rank keeps ---------------------------------------------------------------------------------------


def energy_html(header: HeaderReport, weights: WeightReport, language: Language) -> str:
    """The curve, and a sentence with the rank that would do."""
    points = [point for point in weights.energy if isfinite(point.share)]
    if not points:
        return ""
    said = words(rank_words(header, weights, language), "in-text", name="p")
    smaller = proposed_rank(header, weights)
    button = tool_button("resize", say("inspector.resize_to", language, rank=smaller), rank=smaller) if smaller else ""
    rows = [[str(point.rank), percent(point.share, 1)] for point in points]
    heads = [say("inspector.column.rank", language), say("inspector.column.kept", language)]
    numbers = fold(say("inspector.as_table", language), table(heads, rows, "in-numbers"))
    return said + button + curve_svg(points, weights.rank_for_99, language) + numbers


def rank_words(header: HeaderReport, weights: WeightReport, language: Language) -> str:
    rank = weights.rank_for_99
    if rank is None:
        return say("inspector.energy_unknown", language)
    if proposed_rank(header, weights) is None:
        return say("inspector.energy_full", language)
    values = {"rank": rank, "lower": weights.rank_for_95 or rank, "now": max(header.ranks, default=0)}
    return say("inspector.energy_99", language, **values)


def proposed_rank(header: HeaderReport, weights: WeightReport) -> int | None:
    """The smaller rank that keeps 99%; None when the file is no larger than that."""
    rank, now = weights.rank_for_99, max(header.ranks, default=0)
    return rank if rank is not None and 0 < rank < now else None
