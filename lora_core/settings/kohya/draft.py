"""Settings in the making: what a Kohya file says, what has been taken over, and what is told about it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_core.settings.fields import SettingField, fields_of, values_of
from lora_core.settings.kohya.entries import Dialect, Entry, Given, Group
from lora_core.settings.kohya.table import ABSENT, ROWS, Row
from lora_core.settings.kohya.values import NotReadable, is_empty, number, switch, whole, words
from lora_core.settings.run import RunSettings

HIDDEN = "***"


class Draft:
    """Reads by key with Kohya's rules for what is left out, and books where each key went."""

    def __init__(self, given: Mapping[str, Given], dialect: Dialect, may_read: Callable[[Path], bool]):
        self.given = given
        self.dialect: Dialect = dialect
        self.may_read = may_read
        self.changes: dict[str, Any] = {}
        self.entries: dict[str, Entry] = {}
        self.defaults = values_of(RunSettings())

    # ---- reading

    def value(self, key: str) -> Any:
        """What Kohya would train with: the GUI's empty values are never passed on, and sd-scripts' defaults step in."""
        given = self.given.get(key)
        row = ROWS.get(key, Row())
        if given is None:
            value = row.gui if self.dialect == "gui" and row.gui is not ABSENT else row.scripts
            dialect = self.dialect
        else:
            value, dialect = given.value, given.dialect
        if value is ABSENT:
            return None
        if dialect == "gui" and is_empty(value) and row.scripts is not ABSENT:
            return row.scripts
        return value

    def was_dropped(self, key: str) -> bool:
        """The file gives an empty value or 0 that the GUI would not have passed on."""
        given = self.given.get(key)
        return given is not None and given.dialect == "gui" and is_empty(given.value)

    def number(self, key: str) -> float | None:
        return self._read(key, number)

    def whole(self, key: str) -> int | None:
        return self._read(key, whole)

    def flag(self, key: str) -> bool:
        return bool(self._read(key, switch))

    def text(self, key: str) -> str:
        return str(self._read(key, words) or "").strip()

    def _read(self, key: str, reader: Callable[[Any], Any]) -> Any:
        """A value that can't be read counts as its default and is told as such."""
        try:
            return reader(self.value(key))
        except NotReadable:
            self.unsupported(key, "why.unreadable")
            row = ROWS[key]
            default = row.gui if self.dialect == "gui" and row.gui is not ABSENT else row.scripts
            return None if default is ABSENT else default

    def field(self, path: str) -> SettingField | None:
        """Our setting of a path, if this version has it."""
        return fields_of().get(path)

    def path_for(self, key: str) -> str:
        """Our setting that takes a key, if this version has it: the field of that Kohya name, or the table's."""
        if ROWS[key].to in fields_of():
            return ROWS[key].to
        return next((path for path, field in fields_of().items() if field.kohya == key), "")

    def has_field_for(self, key: str) -> bool:
        return bool(self.path_for(key))

    def is_in_variant(self, path: str) -> bool:
        """The setting exists for the optimizer, schedule or network that was chosen."""
        field = fields_of()[path]
        if not field.variants:
            return True
        chooser = next(p for p, f in fields_of().items() if f.section == field.section and f.is_discriminator)
        return self.changes.get(chooser, self.defaults.get(chooser)) in field.variants

    def by_rule(self, path: str) -> bool:
        """A rule has set it; what else the field's Kohya name would do must not undo that."""
        return path in self.changes

    # ---- booking

    def mapped(self, key: str, path: str, value: Any, reason: str = "", **values: Any) -> None:
        self.changes[path] = value
        self._book(key, "mapped", path, value, reason, values)

    def differs(self, key: str, reason: str, path: str = "", value: Any = None, **values: Any) -> None:
        if path:
            self.changes[path] = value
        self._book(key, "different", path, value, reason, values)

    def unsupported(self, key: str, reason: str, **values: Any) -> None:
        self._book(key, "unsupported", "", None, reason, values)

    def idle(self, key: str, reason: str = "why.off", **values: Any) -> None:
        self._book(key, "no_effect", "", None, reason, values)

    def _book(self, key: str, group: Group, path: str, value: Any, reason: str, values: Mapping[str, Any]) -> None:
        """The first word on a key stays; a key that the file leaves out is told only if it changes a default of ours."""
        if key in self.entries:
            return
        given = self.given.get(key)
        if given is None:
            if not path or (value == self.defaults.get(path, ABSENT)):
                return
            self.entries[key] = Entry(key, self.value(key), group, path, value, reason, values, given=False)
        else:
            shown = HIDDEN if ROWS.get(key, Row()).secret and given.value else given.value
            self.entries[key] = Entry(given.name, shown, group, path, value, reason, values)

    def keep_only(self, paths: Sequence[str]) -> None:
        """Take back what was only filled in from Kohya's defaults, but for some settings."""
        given = {entry.path for entry in self.entries.values() if entry.given}
        self.changes = {path: value for path, value in self.changes.items() if path in paths or path in given}
        self.entries = {k: e for k, e in self.entries.items() if e.given or e.path in paths}

    def withdraw(self, path: str, reason: str, **values: Any) -> None:
        """A setting that refused its value keeps its default, and its keys are told as not supported."""
        self.changes.pop(path, None)
        for key, entry in self.entries.items():
            if entry.path == path:
                new: dict[str, Any] = {"group": "unsupported", "path": "", "result": None}
                self.entries[key] = replace(entry, **new, reason=reason, values=values)
