"""Values as Kohya's files write them: numbers as text, 0 for "not set", lists in one text."""

import math
from typing import Any

from lora_core.settings.fields import SettingField

_YES, _NO = {"true", "1", "yes", "on"}, {"false", "0", "no", "off", "", "none"}


class NotReadable(Exception):
    """A value that is not what its key takes."""


def is_empty(value: Any) -> bool:
    """What the GUI does not pass on: empty text, None, False and, as 0 == False in Python, every 0."""
    return (
        value is None or (isinstance(value, str) and not value.strip()) or (not isinstance(value, str) and value == 0)
    )


def number(value: Any) -> float | None:
    """A number; None for what is empty. Raises NotReadable for anything else, NaN and infinity included."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "none", "null")):
        return None
    if not isinstance(value, str | int | float):
        raise NotReadable
    try:
        found = float(value)
    except (ValueError, OverflowError):
        raise NotReadable from None
    if not math.isfinite(found):
        raise NotReadable
    return found


def whole(value: Any) -> int | None:
    """A whole number, also written as 30.0 or "30"; None for what is empty."""
    found = number(value)
    if found is not None and found != int(found):
        raise NotReadable
    return None if found is None else int(found)


def switch(value: Any) -> bool:
    """A yes or no, also written as text or number."""
    if value is None or isinstance(value, bool):
        return bool(value)
    word = str(value).strip().lower()
    if word in _YES or word in _NO:
        return word in _YES
    raise NotReadable


def words(value: Any) -> str:
    """A text; numbers are written out, lists are joined by commas. None is empty."""
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(part, str | int | float) for part in value):
        return ",".join(str(part) for part in value)
    if not isinstance(value, str | int | float):
        raise NotReadable
    return str(value)


def loosely(value: Any) -> str:
    """A text, empty for what is none."""
    try:
        return words(value)
    except NotReadable:
        return ""


def as_field(value: Any, field: SettingField) -> Any:
    """A value as one of our settings takes it: Kohya's 0 and empty text are "not set" where that is possible."""
    if field.kind == "switch":
        return switch(value)
    if field.kind in ("integer", "number"):
        found = whole(value) if field.kind == "integer" else number(value)
        if found is None or (found == 0 and field.optional):
            return None if field.optional else field.default
        return found
    text = words(value).strip()
    if field.kind == "choice":
        by_text = {str(choice).lower(): choice for choice in field.choices}
        if not text or text.lower() == "none":
            return None if field.optional else field.default
        if text.lower() not in by_text:
            raise NotReadable
        return by_text[text.lower()]
    if field.kind == "path":
        return text or None
    return words(value) if text else field.default


def same(one: Any, other: Any) -> bool:
    """Equal, but for how a number is written."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    try:
        return float(one) == float(other)
    except (TypeError, ValueError, OverflowError):
        return bool(one == other)
