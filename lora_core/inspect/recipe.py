"""The training recipe in a LoRA's metadata: every key read, in groups, said in words."""

import json
import math
import re
import time
from collections.abc import Mapping
from typing import Any

from lora_core.i18n import Language, text
from lora_core.inspect import bounded
from lora_core.inspect.recipe_keys import BASE_MODELS, ELSEWHERE, KEYS, Kind
from lora_core.inspect.report import GROUPS, RecipeEntry
from lora_core.settings.fields import fields_of
from lora_core.settings.fields import label as setting_label

MOST_KEYS = 500
"""Entries that are shown; sd-scripts writes about 90."""


def recipe_of(metadata: Mapping[str, str]) -> tuple[RecipeEntry, ...]:
    """All metadata as entries: known keys in the order of our table, then the unknown ones by name."""
    known = [_entry(key, metadata[key]) for key in KEYS if key in metadata]
    others = sorted(key for key in metadata if key not in KEYS and key not in ELSEWHERE)
    unknown = [RecipeEntry(bounded.plain(key, 100), "other", meaning(metadata[key]), False) for key in others]
    return tuple(sorted([*known, *unknown][:MOST_KEYS], key=lambda entry: GROUPS.index(entry.group)))


def _entry(key: str, raw: str) -> RecipeEntry:
    group, kind = KEYS[key]
    return RecipeEntry(key, group, _value(raw, kind), True, kind)


def _value(raw: str, kind: Kind) -> Any:
    if raw.strip() in ("None", ""):
        return None
    if kind in ("text", "base", "optimizer"):
        return bounded.plain(raw)
    if kind == "tags":
        return len({tag for tags in bounded.mapping(bounded.parse(raw)).values() for tag in bounded.mapping(tags)})
    if kind == "datasets":
        return _json(_without_tags(raw))
    if kind in ("json", "folders", "buckets"):
        return _json(raw)
    return meaning(raw)


def _json(raw: str) -> Any:
    parsed = bounded.parse(raw, bounded.LARGEST_SHOWN)
    return bounded.plain(raw) if parsed is None else bounded.bounded(parsed)


def _without_tags(raw: str) -> str:
    """Data sets without their tags and buckets, which are long and told elsewhere."""
    parsed = bounded.parse(raw)
    parts = [bounded.mapping(part) for part in parsed] if isinstance(parsed, list) else None
    left_out = ("tag_frequency", "bucket_info")
    return raw if parts is None else json.dumps([{k: v for k, v in p.items() if k not in left_out} for p in parts])


def meaning(raw: str) -> Any:
    """What str() of a Python value was: a number, True, False, None, a list or table in JSON; else the text itself."""
    words = raw.strip() if len(raw) <= bounded.LARGEST_SHOWN else ""
    if words in ("True", "False", "None"):
        return {"True": True, "False": False, "None": None}[words]
    if re.fullmatch(r"[+-]?\d{1,18}", words):
        return int(words)
    if re.fullmatch(r"[+-]?(\d{1,40}\.?\d{0,40}|\.\d{1,40})([eE][+-]?\d{1,3})?", words):
        number = float(words)
        return number if math.isfinite(number) else words
    if words.startswith(("{", "[")):
        return _json(words)
    return bounded.plain(raw)


# ---- in words --------------------------------------------------------------------------------------------------------


def label_of(entry: RecipeEntry, language: Language = "en") -> str:
    """The name of a setting; an unknown key is its own."""
    if entry.kind == "setting":
        return setting_label(entry.key, language) if entry.key in fields_of() else entry.key
    return text(f"recipe.{entry.key}", language) if entry.known else entry.key


def shown_value(entry: RecipeEntry, language: Language = "en") -> str:
    """The value of a setting in words, one line of bounded length."""
    return bounded.plain(_said(entry, language))


def _said(entry: RecipeEntry, language: Language) -> str:
    value = entry.value
    if value is None:
        return text("inspect.value.not_set", language)
    if entry.kind == "time" and isinstance(value, int | float):
        return _moment(value)
    if entry.kind == "resolution":
        return resolution(value)
    if entry.kind == "optimizer":
        return optimizer(str(value))
    if entry.kind == "base":
        return BASE_MODELS.get(str(value), str(value))
    if entry.kind == "tags" and isinstance(value, int):
        return text("inspect.value.tags", language, count=value)
    if entry.kind == "folders" and isinstance(value, dict):
        return _folders(value, language)
    if entry.kind == "buckets" and isinstance(value, dict):
        return text("inspect.value.buckets", language, count=len(bounded.mapping(value.get("buckets"))))
    return words_of(value, language)


def words_of(value: Any, language: Language = "en") -> str:
    """Any value as text: yes and no, numbers without noise, tables as key=value."""
    if value is None:
        return text("inspect.value.not_set", language)
    if isinstance(value, bool):
        return text("inspect.value.yes" if value else "inspect.value.no", language)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={words_of(inner, language)}" for key, inner in value.items()) or "–"
    if isinstance(value, list | tuple):
        inner = [
            f"({words_of(item, language)})" if isinstance(item, Mapping) else words_of(item, language) for item in value
        ]
        return ", ".join(inner) or "–"
    return str(value)


def number(value: float) -> str:
    """A number as people write it: 0.0001 rather than 1e-04, 16 rather than 16.0."""
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-9 <= abs(value) < 1e12:
        return f"{value:.6g}"
    return f"{value:.12f}".rstrip("0").rstrip(".") if abs(value) < 1 else f"{value:.6f}".rstrip("0").rstrip(".")


def _moment(seconds: float) -> str:
    """A time in this machine's zone; the number itself where no calendar reaches."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        return number(float(seconds))


def resolution(value: Any) -> str:
    """ "(512, 768)", "512,768", "512x768" or 512 as 512 × 768 px; other text as it is."""
    sides = re.fullmatch(r"\s*[\[(]?\s*(\d{1,6})\s*(?:[,x×]\s*(\d{1,6})\s*)?,?\s*[\])]?\s*", words_of(value))
    return f"{sides[1]} × {sides[2] or sides[1]} px" if sides else words_of(value)


def optimizer(value: str) -> str:
    """ "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1)" as "AdamW8bit (weight_decay=0.1)"."""
    found = re.fullmatch(r"(?:\w+\.)*(\w+)\((.*)\)", value, re.DOTALL)
    if not found:
        return re.sub(r"^(?:\w+\.)+(?=\w+$)", "", value)
    return f"{found[1]} ({found[2].replace(',', ', ')})" if found[2] else found[1]


def _folders(table: Mapping[str, Any], language: Language) -> str:
    rows = [
        text(
            "inspect.value.folder",
            language,
            name=name,
            repeats=words_of(bounded.mapping(row).get("n_repeats"), language),
            images=words_of(bounded.mapping(row).get("img_count"), language),
        )
        for name, row in table.items()
    ]
    return ", ".join(rows) or "–"
