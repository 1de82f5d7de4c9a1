"""What a page shows, kept for the next visit."""

import json
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any


def save_draft(values: Mapping[str, Any], path: Path) -> None:
    """Keep what the page shows, legal or not. A disk that can't be written is no reason to fail."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(dict(values), ensure_ascii=False, default=str), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)


def read_draft(path: Path) -> dict[str, Any]:
    """What ``save_draft`` kept; nothing where there is none or it can't be read. Its values are to be checked."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def of_right_kind(
    kept: Mapping[str, Any], defaults: Mapping[str, Any], choices: Mapping[str, Collection[Any]]
) -> dict[str, Any]:
    """A value for every key: what was kept, or the default where that is of another kind.

    ``choices`` are what a key may be, where that is not everything of its kind. 0 is an empty optional number.
    """
    values = {
        key: kept[key] if key in kept and _fits(kept[key], default, choices.get(key)) else default
        for key, default in defaults.items()
    }
    return values | {key: None for key, default in defaults.items() if default is None and values[key] == 0}


def _fits(value: Any, default: Any, choices: Collection[Any] | None) -> bool:
    """Whether a field with this default can show a value, legal or not yet."""
    if choices is not None:
        return type(value) in (str, int) and value in choices
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, str):
        return isinstance(value, str)
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))
