"""What became of a Kohya file, in words: for the terminal as lines, for the page as parts."""

from collections.abc import Iterable, Iterator
from typing import Any

from lora_core.i18n import Language, text
from lora_core.settings.fields import fields_of, label
from lora_core.settings.kohya.entries import GROUPS, Entry, Group, Imported

_LONGEST = 60


def headline(imported: Imported, language: Language = "en") -> str:
    """One line: how many settings came along, how many did not."""
    counts: dict[str, object] = {group: len(imported.of(group)) for group in GROUPS}
    return text("kohya.headline", language, source=imported.source, **counts)


def parts(imported: Imported, language: Language = "en") -> Iterator[tuple[Group, str, list[str]]]:
    """(group, heading, lines) for each group that has entries, the urgent first."""
    for group in GROUPS:
        entries = imported.of(group)
        if entries:
            lines = _names(entries, language) if group == "no_effect" else [line(e, language) for e in entries]
            yield group, text(f"kohya.group.{group}", language, count=len(entries)), lines


def lines(imported: Imported, language: Language = "en") -> list[str]:
    """The whole report, one line each."""
    found = [headline(imported, language)]
    for _, heading, inner in parts(imported, language):
        found += ["", heading, *(f"  {one}" for one in inner)]
    return found


def line(entry: Entry, language: Language = "en") -> str:
    """A key, its value, what it became and why: ``network_dim = 8 -> Network rank: 8``."""
    key = entry.key if entry.given else text("kohya.not_in_file", language, key=entry.key)
    start = f"{key} = {_short(entry.value)}"
    if entry.path:
        name = label(entry.path, language) if entry.path in fields_of() else entry.path
        start += f" → {name}: {_short(entry.result, language)}"
    reason = entry.message(language)
    return text("kohya.line", language, start=start, reason=reason) if reason else start


def _names(entries: Iterable[Entry], language: Language) -> list[str]:
    """Keys without effect, those of one reason in one line."""
    by_reason: dict[str, list[str]] = {}
    for entry in entries:
        by_reason.setdefault(entry.message(language), []).append(entry.key)
    return [f"{reason} {', '.join(keys)}" for reason, keys in by_reason.items()]


def _short(value: Any, language: Language = "en") -> str:
    if value is None:
        return text("kohya.not_set", language)
    words = " ".join(str(value).lower().split() if isinstance(value, bool) else str(value).split())
    words = words or text("kohya.empty", language)
    return words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…"
