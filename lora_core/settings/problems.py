"""What pydantic found wrong with settings, as problems a person can read and put right."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lora_core.errors import Problem, UserError
from lora_core.i18n import Language, text
from lora_core.settings.fields import chooser_of, fields_of, label, unions_of

# pydantic's error type -> our sentence. The limits of the type are passed to the sentence as {limit}.
_SENTENCES = {
    "greater_than": ("settings.greater_than", "gt"),
    "greater_than_equal": ("settings.at_least", "ge"),
    "less_than": ("settings.less_than", "lt"),
    "less_than_equal": ("settings.at_most", "le"),
    "string_too_long": ("settings.too_long", "max_length"),
    "string_too_short": ("settings.too_short", "min_length"),
    "finite_number": ("settings.not_a_number", ""),
    "float_parsing": ("settings.not_a_number", ""),
    "float_type": ("settings.not_a_number", ""),
    "int_parsing": ("settings.not_whole", ""),
    "int_parsing_size": ("settings.not_whole", ""),
    "int_type": ("settings.not_whole", ""),
    "int_from_float": ("settings.not_whole", ""),
    "bool_parsing": ("settings.not_yes_no", ""),
    "bool_type": ("settings.not_yes_no", ""),
    "string_type": ("settings.not_text", ""),
    "path_type": ("settings.not_text", ""),
    "model_type": ("settings.not_a_section", ""),
    "model_attributes_type": ("settings.not_a_section", ""),
}


class SettingsError(UserError):
    """Some settings can't be used; ``problems`` has one entry for each. ``source`` is the file or text they came from."""

    def __init__(self, source: str, problems: Iterable[Problem]):
        self.problems = list(problems)
        super().__init__("settings.problems", source=source, problems=_lines(self.problems, "en"))
        self.source = source

    def message(self, language: Language = "en") -> str:
        return text(self.key, language, source=self.source, problems=_lines(self.problems, language))

    def __reduce__(self):
        return (SettingsError, (self.source, self.problems))


def problems_from(error: ValidationError) -> list[Problem]:
    """One problem for each setting that pydantic refused, under its dotted path."""
    return [_problem(details) for details in error.errors(include_url=False)]


def nearest(path: str) -> str | None:
    """The setting that an unknown dotted path most likely meant; Kohya's names are known, too. None if nothing is near."""
    fields = fields_of()
    section, _, name = path.rpartition(".")
    known = {alias: other for other, f in reversed(fields.items()) for alias in (f.name, f.kohya) if alias}
    for alias in (name, path.replace(".", "_")):
        if alias in known and alias != "name":
            return known[alias]
    beside = {f.name: other for other, f in fields.items() if f.section == section}
    for candidates, likeness in ((beside, 0.6), (known, 0.75)):
        if close := difflib.get_close_matches(name, candidates, n=1, cutoff=likeness):
            return candidates[close[0]]
    return None


def unknown(path: str) -> Problem:
    """The problem of a setting that does not exist, naming the nearest one that does."""
    if path in unions_of():
        return Problem(path, "settings.unknown_near", {"near": chooser_of(path)})
    sections = {field.section for field in fields_of().values()}
    if "." not in path and (close := difflib.get_close_matches(path, sections, n=1)):
        return Problem(path, "settings.unknown_near", {"near": f"[{close[0]}]"})
    if near := nearest(path):
        return Problem(path, "settings.unknown_near", {"near": near})
    return Problem(path, "settings.unknown")


def _problem(details: ErrorDetails) -> Problem:
    path = _dotted(details["loc"])
    given = _short(details["input"])
    context = details.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, UserError):
        return Problem.of(path, cause)
    if details["type"] == "extra_forbidden":
        return _extra(path, details["loc"])
    if details["type"] in ("literal_error", "union_tag_invalid"):
        return _wrong_choice(path, _short(context.get("tag", details["input"])))
    if details["type"] == "union_tag_not_found":
        return Problem(chooser_of(str(details["loc"][0])), "settings.not_a_section", {"given": given})
    if details["type"] in _SENTENCES:
        key, limit = _SENTENCES[details["type"]]
        return Problem(path, key, {"given": given} | ({"limit": _number(context[limit])} if limit else {}))
    return Problem(path, "settings.invalid", {"given": given, "detail": details["msg"]})


def _dotted(loc: tuple[int | str, ...]) -> str:
    """The path of a setting: pydantic puts the name of the variant in between, which we leave out."""
    parts = [str(part) for part in loc]
    variants = unions_of().get(parts[0], {}) if parts else {}
    if variants and len(parts) > 1 and parts[1] in variants:
        del parts[1]
    if parts[0] in unions_of() and len(parts) == 1:
        return chooser_of(parts[0])
    return ".".join(parts)


def _extra(path: str, loc: tuple[int | str, ...]) -> Problem:
    field = fields_of().get(path)
    if field is None:
        return unknown(path)
    return Problem(path, "settings.other_variant", {"variant": loc[1], "others": ", ".join(field.variants)})


def _wrong_choice(path: str, given: str) -> Problem:
    field = fields_of().get(path)
    if field is None:
        return Problem(path, "settings.invalid", {"given": given, "detail": path})
    choices = ", ".join(str(choice) for choice in field.choices)
    close = difflib.get_close_matches(given.lower(), {str(c).lower(): c for c in field.choices}, n=1)
    fix = {path: next(c for c in field.choices if str(c).lower() == close[0])} if close else {}
    return Problem(path, "settings.choice", {"given": given, "choices": choices}, fix=fix)


def _short(value: Any) -> str:
    words = str(value) if isinstance(value, str | int | float | Path) else type(value).__name__
    return words if len(words) <= 80 else words[:77] + "..."


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _lines(problems: Iterable[Problem], language: Language) -> str:
    return "\n".join(f"- {_place(problem.path, language)}: {problem.message(language)}" for problem in problems)


def _place(path: str, language: Language) -> str:
    return text("settings.place", language, label=label(path, language), path=path) if path in fields_of() else path
