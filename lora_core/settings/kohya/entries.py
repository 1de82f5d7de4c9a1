"""What became of each key of a Kohya file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lora_core.i18n import Language, text
from lora_core.settings.run import RunSettings

Group = Literal["mapped", "different", "unsupported", "no_effect"]
GROUPS: tuple[Group, ...] = ("unsupported", "different", "mapped", "no_effect")
"""In the order in which a person wants to read them."""

Dialect = Literal["gui", "scripts"]
"""Whose habits a value follows: the GUI passes on no 0 and no empty text, sd-scripts takes all as written."""


@dataclass(frozen=True)
class Given:
    """One value of a file under the name it has there."""

    name: str
    value: Any
    dialect: Dialect


@dataclass(frozen=True)
class Entry:
    """One key, what it became and why. ``reason`` names a sentence of locales/*/kohya.toml."""

    key: str
    value: Any
    group: Group
    path: str = ""
    """Our setting that took the value; empty when none did."""
    result: Any = None
    """The value it has here."""
    reason: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    given: bool = True
    """False: the file leaves it out, and Kohya's default was taken over because ours is another."""

    def message(self, language: Language = "en") -> str:
        """Why it is so, or what to do; empty when there is nothing to say."""
        if not self.reason:
            return ""
        values = {name: v.message(language) if hasattr(v, "message") else v for name, v in self.values.items()}
        return text(f"kohya.{self.reason}", language, **values)


@dataclass(frozen=True)
class Imported:
    """Settings out of a Kohya file, with an entry for every key of it."""

    settings: RunSettings
    entries: tuple[Entry, ...]
    source: str
    """The file, for headings."""

    def of(self, group: Group) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.group == group)
