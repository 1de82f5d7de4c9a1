"""The value of the layer-weight editor, and what a change in it makes of the text line."""

import math
import re
from collections.abc import Collection, Mapping
from itertools import groupby
from typing import Any

from app.i18n import say
from lora_core.errors import UserError
from lora_core.i18n import Language, text
from lora_core.io.kinds import Family
from lora_core.merge.blocks import NAMES, PRESETS, BlockWeights, everything, format_weights, names, parse

LARGEST = 10.0
"""Of a weight set with the editor; the text line takes any number."""
_WORDS = ("preset", "own", "hint", "group", "absent", "remove")


def editor(line: str, family: Family, present: Collection[str], language: Language) -> dict[str, Any] | None:
    """What the editor draws for a text line. None for a family without blocks.

    ``present`` are the blocks that the file changes; the others are drawn pale. With none, all are drawn in full.
    """
    if family not in NAMES:
        return None
    error = ""
    try:
        weights = parse(line, family)
    except UserError as failure:
        weights, error = everything(family), failure.message(language)
    return {
        "rows": [
            {"title": kind, "blocks": [_bar(block, weights, present) for block in blocks]}
            for kind, blocks in _rows(family)
        ],
        "presets": [
            [name, text(preset.key, language), dict(parse(name, family).by_block)] for name, preset in PRESETS.items()
        ],
        "preset": "" if error else preset_of(weights),
        "error": error,
        "words": {word: say(f"merge_tab.blocks.{word}", language) for word in _WORDS},
    }


def preset_of(weights: BlockWeights) -> str:
    """The preset with these very weights, or an empty text."""
    return next((name for name in PRESETS if parse(name, weights.family).by_block == weights.by_block), "")


def line_after(data: Any, family: Family) -> str | None:
    """The text line after an event of the editor. None for what no editor sends."""
    if family not in NAMES or not isinstance(data, Mapping):
        return None
    given = data.get("weights")
    if not isinstance(given, Mapping) or not all(_legal(given.get(block)) for block in names(family)):
        return None
    weights = BlockWeights(family, {block: float(given[block]) for block in names(family)})
    return "" if weights.plain else format_weights(weights)  # the line begins empty, and everything counts fully


def _legal(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and abs(value) <= LARGEST
    )


def _rows(family: Family) -> list[tuple[str, list[str]]]:
    """Blocks by kind: BASE, IN00 to IN11, MID, OUT00 to OUT11."""
    return [(kind, list(blocks)) for kind, blocks in groupby(names(family), lambda block: _split(block)[0])]


def _split(block: str) -> tuple[str, str]:
    """IN04 as (IN, 04); T5 and BASE have no number."""
    found = re.fullmatch(r"([A-Z]+)(\d\d)", block)
    return (found[1], found[2]) if found else (block, "")


def _bar(block: str, weights: BlockWeights, present: Collection[str]) -> dict[str, Any]:
    return {
        "name": block,
        "short": _split(block)[1],
        "weight": weights.by_block.get(block, 1.0),
        "here": not present or block in present,
    }
