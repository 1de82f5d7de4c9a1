"""Finds settings by what people remember of them: label, help, Kohya's name or path, in either language. Torch-free."""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache

from lora_core.i18n import LANGUAGES
from lora_core.settings.fields import choice_label, fields_of, help_text, label

MOST = 12
_KATAKANA = {code: code - 0x60 for code in range(ord("ァ"), ord("ヶ") + 1)}
_SKIPPED = re.compile(r"[\s_\-ー・./()（）「」、。:：%％]+")


def plain(text: str) -> str:
    """Text as it is compared: width, case, kana, long vowels and separators make no difference.

    >>> plain("Ｍｉｎ SNR-Gamma") == plain("min_snr_gamma"), plain("オプティマイザー") == plain("ｵﾌﾟﾃｨﾏｲｻﾞ")
    (True, True)
    """
    return _SKIPPED.sub("", unicodedata.normalize("NFKC", text).casefold().translate(_KATAKANA))


@dataclass(frozen=True)
class Entry:
    """What a setting can be found by, as it is compared."""

    path: str
    names: tuple[str, ...]
    """Labels in every language, Kohya's name, the path and its last part: short names that are remembered."""
    texts: str
    """Help and choices."""


@cache
def entries() -> tuple[Entry, ...]:
    found = []
    for path, field in fields_of().items():
        names = [label(path, language) for language in LANGUAGES]
        names += [name for name in (field.kohya, path, field.name) if name]
        words = [help_text(path, language) for language in LANGUAGES]
        words += [choice_label(path, value, language) for value in field.choices for language in LANGUAGES]
        words += [str(value) for value in field.choices]
        found.append(Entry(path, tuple(dict.fromkeys(map(plain, names))), "\n".join(map(plain, words))))
    return tuple(found)


def find(query: str, most: int = MOST) -> list[str]:
    """Paths of the settings that fit, the best first. Every word of the query has to be found somewhere."""
    words = [word for word in map(plain, query.split()) if word]
    whole = plain(query)
    ranked = [
        (rank, place, entry.path) for place, entry in enumerate(entries()) if (rank := _rank(entry, words, whole))
    ]
    return [path for _, _, path in sorted(ranked)[:most]]


def _rank(entry: Entry, words: list[str], whole: str) -> int:
    """1 is best, 0 does not fit: a whole name, its beginning, within names, within help."""
    if not words:
        return 0
    if whole in entry.names:
        return 1
    if any(name.startswith(whole) for name in entry.names):
        return 2
    if all(any(word in name for name in entry.names) for word in words):
        return 3
    return 4 if all(word in entry.texts or any(word in name for name in entry.names) for word in words) else 0
