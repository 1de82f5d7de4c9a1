"""Single values of the Merge tab, checked: numbers within limits, paths this page may touch. Errors name the field."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.folder_view import is_allowed
from app.i18n import say
from app.merge.form import Values
from lora_core.errors import UserError
from lora_core.i18n import Language
from lora_core.settings.base import clean_path


@dataclass(frozen=True)
class Term:
    """A word of app/locales that stands in a sentence and is said in the sentence's language."""

    key: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def said(self, language: Language) -> str:
        return say(self.key, language, **self.values)


class FormError(ValueError):
    """What is missing or can't be used, as a sentence of app/locales.

    ``missing``: nothing was filled in yet, which is no mistake before the button is pressed.
    """

    def __init__(self, key: str, *, missing: bool = False, **values: Any):
        super().__init__(key)
        self.key, self.missing, self.values = key, missing, values

    def message(self, language: Language = "en") -> str:
        terms = {name: v.said(language) if isinstance(v, Term) else v for name, v in self.values.items()}
        return say(self.key, language, **terms)


def error_words(error: FormError | UserError, language: Language) -> str:
    """The sentence of an error of the form or of the engine, begun with a capital."""
    words = error.message(language)
    return words[:1].upper() + words[1:]


def field_term(key: str) -> Term:
    """What a field is called; those of the rows with the row's number."""
    if found := re.fullmatch(r"(path|ratio|weights)(\d)", key):
        return Term(f"merge_tab.of_row.{found[1]}", {"row": found[2]})
    return Term(f"merge_tab.{key}")


def path_of(values: Values, key: str, roots: Sequence[Path] = ()) -> Path | None:
    """The path somebody typed, without quotes around it; None for an empty box. FormError outside the roots."""
    cleaned = clean_path(str(values[key]))
    if not cleaned:
        return None
    if "\0" in cleaned:
        raise FormError("merge_tab.bad_path", where=field_term(key))
    path = Path(cleaned)
    if not is_allowed(path, roots):
        raise FormError("browse.not_allowed")
    return path


def needed(values: Values, key: str, roots: Sequence[Path] = ()) -> Path:
    path = path_of(values, key, roots)
    if path is None:
        raise FormError(f"merge_tab.needs.{'resize' if key == 'path1' else key}", missing=True)
    return path


def number(values: Values, key: str, low: float, high: float) -> float:
    """A number between two limits. FormError for anything else, an emptied box too."""
    value = values[key]
    legal = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not legal or not low <= value <= high:
        raise FormError("merge_tab.bad_number", where=field_term(key), low=f"{low:g}", high=f"{high:g}")
    return float(value)


def whole(values: Values, key: str, low: int, high: int) -> int:
    """A whole number between two limits; FormError for anything else."""
    value = number(values, key, low, high)
    if not value.is_integer():
        raise FormError("merge_tab.bad_whole", where=field_term(key))
    return int(value)


def optional_whole(values: Values, key: str, low: int, high: int) -> int | None:
    return None if values[key] is None else whole(values, key, low, high)
