"""Numbers and names as parts of a sentence."""

from collections.abc import Iterable

from lora_core.i18n import Language, text

FEW = 3
"""So many names are spelled out; of more, the rest is counted."""


def counted(key: str, number: int, language: Language) -> str:
    """ "15 images" or "1 image": the text of ``key``, or of ``key`` with ``_one`` behind it."""
    return text(f"{key}_one" if number == 1 else key, language, number=number)


def enumerated(names: Iterable[str]) -> str:
    """ "a, b, c, … (+7)": the first few names and how many more there are."""
    names = list(names)
    rest = len(names) - FEW
    return ", ".join(names[:FEW]) + (f", … (+{rest})" if rest > 0 else "")
