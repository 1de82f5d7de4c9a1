"""Errors and problems that speak to the person at the screen, in their language."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lora_core.i18n import Language, text


class UserError(ValueError):
    """Something the user can put right. The text says what, where and what to do.

    ``key`` names the sentence in locales/, ``args`` fills it. ``str()`` is the English text.
    """

    def __init__(self, key: str, **values: Any):
        super().__init__(text(key, "en", **values))
        self.key = key
        self.values = values

    def message(self, language: Language = "en") -> str:
        return text(self.key, language, **self.values)

    def __reduce__(self):
        return (_rebuild, (type(self), self.key, self.values))


def _rebuild(cls: type[UserError], key: str, values: dict[str, Any]) -> UserError:
    return cls(key, **values)


@dataclass(frozen=True)
class Problem:
    """One finding of a check: which setting (dotted path), which sentence, how grave."""

    path: str
    key: str
    values: dict[str, Any] = field(default_factory=dict)
    severity: Literal["error", "warning"] = "error"
    fix: dict[str, Any] = field(default_factory=dict)
    """Settings (dotted path -> value) that cure it; empty when only the user can."""

    def message(self, language: Language = "en") -> str:
        return text(self.key, language, **self.values)

    @classmethod
    def of(cls, path: str, error: UserError, severity: Literal["error", "warning"] = "error") -> "Problem":
        return cls(path, error.key, error.values, severity)


class ProblemsFound(Exception):
    """A check found errors; all of them are told at once, for nobody wants to meet them one at a time."""

    def __init__(self, problems: Sequence[Problem]):
        super().__init__("\n".join(problem.message("en") for problem in problems))
        self.problems = problems


class Stopped(Exception):
    """The person asked to stop while a picture was being drawn."""
