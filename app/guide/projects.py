"""What the panels of flows with projects have in common: the list of projects, and the steps of the one shown."""

from collections.abc import Callable, Sequence
from typing import Any

from app.i18n import say
from lora_core.errors import UserError
from lora_core.guides.projects import P, Projects
from lora_core.i18n import Language

View = dict[str, Any]


def panel_of(
    projects: Projects[P], name: str, language: Language, words: tuple[str, Sequence[str]], view: Callable[[P], View]
) -> View:
    """All a panel shows of a project, by ``view``; of the one worked on last where no name is given.

    ``words``: the beginning of the keys of its words, and how they end.
    """
    known, (prefix, names) = projects.names(), words
    empty: View = {
        "words": {word: say(f"{prefix}.{word}", language) for word in names},
        "projects": known,
        "project": "",
        "steps": [],
        "said": "",
    }
    if not (chosen := name or next(iter(known), "")):
        return empty
    try:
        return empty | view(projects.load(chosen))
    except UserError as error:
        return empty | {"said": error.message(language)}
