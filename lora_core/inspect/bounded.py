"""Text and values out of a file that strangers made: bounded in length and depth, without what could act on a screen.

A LoRA's metadata may hold anything: markup, megabytes, marks that turn the direction of writing, numbers in place of
text. Nothing here raises; what can't be read stays the text it was, cut.
"""

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

LONGEST = 2000
"""Characters of one text that are kept."""
MOST_ITEMS = 200
"""Entries of one list or table that are kept."""
DEEPEST = 6
"""Lists within lists that are kept."""
LARGEST_SHOWN = 100_000
"""Characters of JSON that are shown as a value rather than as the text they are, cut."""
LARGEST_JSON = 32_000_000
"""Characters of JSON that are parsed at all; the tags of the largest data sets take a few million."""
CUT = "…"
"""The mark where something was left out."""

_SEPARATORS = ("Cc", "Zl", "Zp")
_JOINERS = "\u200c\u200d"  # within words of Persian and Hindi, and within emoji


def plain(text: object, longest: int = LONGEST) -> str:
    """One line of text without control characters, marks of direction and lone surrogates, cut to a length."""
    words = text if isinstance(text, str) else str(text)
    cut = len(words) > longest
    shown = "".join(map(_harmless, words[:longest])).strip()
    return re.sub(r" {2,}", " ", shown) + (CUT if cut else "")


def _harmless(char: str) -> str:
    if char.isascii():
        return char if char.isprintable() else " "
    category = unicodedata.category(char)
    if category in _SEPARATORS:
        return " "
    if category == "Cs":
        return "\ufffd"
    return "" if category == "Cf" and char not in _JOINERS else char


def parse(text: str, longest: int = LARGEST_JSON) -> Any:
    """What JSON text means, unbounded; None when it is none, or too much of it."""
    if len(text) > longest:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def bounded(value: Any, depth: int = DEEPEST) -> Any:
    """A JSON value with short texts, short lists, little depth and finite numbers (others become text)."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 10**18 else f"{CUT}{str(value % 10**18)[-18:]}"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return plain(value)
    if depth <= 0:
        return CUT
    if isinstance(value, Mapping):
        items = list(value.items())[:MOST_ITEMS]
        inner = {plain(key, 200): bounded(item, depth - 1) for key, item in items}
        return inner | ({CUT: len(value) - MOST_ITEMS} if len(value) > MOST_ITEMS else {})
    if isinstance(value, list | tuple):
        return [bounded(item, depth - 1) for item in value[:MOST_ITEMS]] + ([CUT] if len(value) > MOST_ITEMS else [])
    return plain(value)


def count(value: Any) -> int | None:
    """A whole number of 0 or more, as number or text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if 0 <= number < 1e15 else None


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a table, else an empty one."""
    return value if isinstance(value, Mapping) else {}
