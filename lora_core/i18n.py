"""The words a person reads, in English and Japanese, from the TOML files in locales/."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

Language = Literal["en", "ja"]
LANGUAGES: tuple[Language, ...] = ("en", "ja")
_FOLDER = Path(__file__).parent / "locales"


@cache
def catalogue(language: Language, folder: Path = _FOLDER) -> dict[str, str]:
    """All texts of one language by key.

    Every ``locales/<language>/*.toml`` is one flat table of ``"key" = "text"``; a key stands in one file only.
    """
    texts: dict[str, str] = {}
    for path in sorted((folder / language).glob("*.toml")):
        part = tomllib.loads(path.read_text(encoding="utf-8"))
        if twice := texts.keys() & part.keys():
            raise ValueError(f"{path}: keys that another file of the language has: {sorted(twice)}")
        texts |= part
    return texts


def text(key: str, language: Language = "en", /, **values: object) -> str:
    """The text of a key with its ``{placeholders}`` filled in.

    Raises KeyError for an unknown key: a missing text is a bug that tests find.
    """
    return catalogue(language)[key].format(**values)
