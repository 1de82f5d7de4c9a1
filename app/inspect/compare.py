"""Two LoRAs side by side, as HTML: how alike their changes are in each block, and where their settings differ."""

from collections.abc import Sequence
from math import isfinite

from app.i18n import say
from app.inspect.html import clipped, facts, fold, number, table, tag, words
from app.inspect.view import columns, section
from lora_core.i18n import Language
from lora_core.inspect.report import BlockComparison, Comparison, Difference, RecipeEntry

LISTED = 40


def comparison_html(found: Comparison, language: Language) -> str:
    """The whole comparison."""
    blocks = section(
        say("inspector.compare.blocks", language),
        blocks_html(found.blocks, language) + legend_html(language),
        "in-wide",
    )
    differing = section(say("inspector.compare.settings", language), differences_html(found, language))
    title = words(
        say("inspector.compare.title", language, a=found.a.path.name, b=found.b.path.name), "in-title", name="h2"
    )
    said = words(verdict(found, language), "in-text in-verdict", name="p")
    head = tag("div", title + said + facts(compared(found, language)) + lists_html(found, language), "in-card")
    return head + columns(blocks, differing)


def verdict(found: Comparison, language: Language) -> str:
    """What the number means: the same, a near copy, related, or strangers."""
    if found.same_hash:
        return say("inspector.compare.same", language)
    if found.cosine is None:
        return say("inspector.compare.unknown", language)
    level = next(name for name, least in LEVELS if found.cosine >= least)
    return say(f"inspector.compare.{level}", language, cosine=cosine_words(found.cosine, 3))


LEVELS = (("near", 0.98), ("close", 0.5), ("related", 0.1), ("strangers", -0.1), ("opposite", -2.0))
"""Word -> the smallest cosine it stands for. Changes that have nothing to do with each other are near 0."""


def compared(found: Comparison, language: Language) -> list[tuple[str, str]]:
    values = {
        "cosine": cosine_words(found.cosine, 3),
        "norms": f"{number(found.norm_a)} / {number(found.norm_b)}",
        "distance": number(found.distance),
        "common": f"{found.common:,}",
    }
    return [(say(f"inspector.compare.{key}", language), value) for key, value in values.items()]


def lists_html(found: Comparison, language: Language) -> str:
    """The names of layers that only one of them has, folded away."""
    lists = {"only_a": found.only_a, "only_b": found.only_b, "unmeasured": found.unmeasured}
    return "".join(
        fold(say(f"inspector.compare.{key}", language), _names(layers), note=f"{len(layers):,}")
        for key, layers in lists.items()
        if layers
    )


def _names(layers: Sequence[str]) -> str:
    shown = [*layers[:LISTED], *(["…"] if len(layers) > LISTED else [])]
    return tag("ul", "".join(words(clipped(name, 300), name="li") for name in shown), "in-names")


# ---- blocks ----------------------------------------------------------------------------------------------------------


def blocks_html(blocks: Sequence[BlockComparison], language: Language) -> str:
    """A bar from the middle a block: right is alike, left is opposite."""
    rows = "".join(block_row(block, language) for block in blocks)
    heads = [say(f"inspector.column.{name}", language) for name in ("block", "cosine", "norm_a", "norm_b", "layers")]
    numbers = [
        [block.block, cosine_words(block.cosine, 3), number(block.norm_a), number(block.norm_b), str(block.layers)]
        for block in blocks
    ]
    body = tag("div", table(heads, numbers, "in-numbers"), "in-scroll")
    return tag("div", rows, "in-cosines", aria_hidden="true") + fold(say("inspector.as_table", language), body)


def block_row(block: BlockComparison, language: Language) -> str:
    cosine = max(-1.0, min(1.0, block.cosine)) if block.cosine is not None and isfinite(block.cosine) else None
    side = "in-like" if (cosine or 0) >= 0 else "in-unlike"
    bar = tag("i", "", side, style=f"width:{50 * abs(cosine or 0):.1f}%")
    tip = say(
        "inspector.compare.tip",
        language,
        block=block.block,
        cosine=cosine_words(block.cosine, 3),
        a=number(block.norm_a),
        b=number(block.norm_b),
    )
    value = cosine_words(block.cosine, 2)
    return tag(
        "div",
        words(block.block, "in-name") + tag("span", bar, "in-axis") + words(value, "in-value"),
        "in-cosine",
        title=tip,
    )


def cosine_words(cosine: float | None, digits: int) -> str:
    """With a fixed number of digits, as cosines are compared with each other; never "-0.00"."""
    if cosine is None or not isfinite(cosine):
        return "–"
    return f"{round(cosine, digits) + 0.0:.{digits}f}"


def legend_html(language: Language) -> str:
    return words(say("inspector.compare.legend", language), "in-note", name="p")


# ---- settings --------------------------------------------------------------------------------------------------------


def differences_html(found: Comparison, language: Language) -> str:
    """The settings in which they differ, side by side."""
    if not found.differences:
        return words(say("inspector.compare.no_differences", language), "in-text", name="p")
    heads = [say("inspector.column.setting", language), clipped(found.a.path.name, 60), clipped(found.b.path.name, 60)]
    rows = [difference_row(difference, language) for difference in found.differences[:300]]
    return tag("div", table(heads, rows, "in-settings"), "in-scroll")


def difference_row(difference: Difference, language: Language) -> list[str]:
    return [clipped(difference.label(language), 200), _said(difference.a, language), _said(difference.b, language)]


def _said(entry: RecipeEntry | None, language: Language) -> str:
    return "–" if entry is None else clipped(entry.shown(language), 300)
