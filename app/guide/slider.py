"""The page of the concept slider: a wish out of the panel and the boxes, and what is said of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.guide.paths import path_of
from app.i18n import say
from lora_core.data.picture_sets import read_sets
from lora_core.errors import UserError
from lora_core.guides.slider import Wish, problems_of
from lora_core.i18n import Language
from lora_core.settings import RunSettings

NOT_YET = frozenset({"guides.slider_target", "guides.slider_folders", "checks.slider_more", "checks.slider_less"})
"""What is simply not filled in so far: said as the next thing to do, not as a mistake."""
_BOXES = ("target", "more", "less", "keep")
_WORDS = (*_BOXES, *(f"{name}_help" for name in _BOXES), "fill", "train")
_MOST_LETTERS = 1000

View = dict[str, Any]


def wish_of(data: Mapping[str, Any], folders: Sequence[str], roots: Sequence[Path]) -> Wish:
    """What the panel sends and the two boxes name. Raises UserError for a folder out of bounds."""
    words = {name: str(data.get(name) or "").strip()[:_MOST_LETTERS] for name in _BOXES}
    less, more = (path_of(typed, roots) for typed in folders)
    return Wish(**words, folder_less=less, folder_more=more)


def view_of(data: Mapping[str, Any], folders: Sequence[str], roots: Sequence[Path], language: Language) -> View:
    """What the panel shows of a wish: what is found, and what is missing."""
    try:
        wish = wish_of(data, folders, roots)
        problems = problems_of(wish, RunSettings())
        pairs = found_words(wish, language) if not any(problem.severity == "error" for problem in problems) else ""
    except UserError as error:
        return blank(language) | {"lines": [[_severity(error.key, "error"), error.message(language)]]}
    lines = [[_severity(problem.key, problem.severity), problem.message(language)] for problem in problems]
    return blank(language) | {"lines": lines, "found": pairs, "pictures": wish.is_pictures}


def found_words(wish: Wish, language: Language) -> str:
    """How many pairs two folders make; of opposites a warning tells."""
    if wish.folder_less is None or wish.folder_more is None:
        return ""
    pairs = read_sets(wish.folder_less, wish.folder_more).pairs
    return say("guide.slider.pairs", language, count=len(pairs)) if pairs else ""


def blank(language: Language) -> View:
    """The panel before anything is known."""
    words = {name: say(f"guide.slider.{name}", language) for name in _WORDS}
    return {"words": words, "lines": [], "found": "", "filled": "", "pictures": False}


def _severity(key: str, severity: str) -> str:
    return "missing" if key in NOT_YET else severity
