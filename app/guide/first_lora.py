"""The page of First LoRA: a wish out of the panel, what it says of it, and the settings it puts into the form."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from app.form import element_id
from app.guide.paths import number_of, path_of
from app.i18n import say
from app.machine import Card, cards
from lora_core.data.wording import counted
from lora_core.errors import Problem, UserError
from lora_core.guides.first_lora import Proposal, Wish, plan_of, preflight, propose
from lora_core.guides.offers import KINDS, offers_for, presets_of
from lora_core.guides.pictures import Pictures, find_pictures
from lora_core.i18n import Language
from lora_core.settings import RunSettings
from lora_core.settings.presets import find_preset

NOT_YET = frozenset({"data.no_folder", "guides.no_trigger"})
"""What is simply not filled in so far: said as the next thing to do, not as a mistake."""
_WORDS = (
    *("pictures", "words", "trigger", "trigger_help", "class", "class_help", "purpose", "kind", "preset", "proposed"),
    *("numbers", "repeats", "epochs", "why", "why_text", "check", "nothing_wrong", "go", "fill", "train", "source"),
)
_MOST_LETTERS = 500
_STEP = {
    **dict.fromkeys(("guides.no_trigger", "guides.trigger_is_class"), 1),
    **dict.fromkeys(("guides.other_family", "guides.no_model_file", "model.no_such_family"), 2),
    **dict.fromkeys(("guides.number", "guides.no_number"), 3),
}
"""What is wrong -> the step, from 0, in which it is said; the first, about the pictures, where nothing is said here."""

View = dict[str, Any]


@cache
def first_card() -> Card | None:
    """The card that trains; asked once, for it takes a moment and does not change."""
    return next(iter(cards()), None)


def wish_of(typed: str, data: Mapping[str, Any], roots: Sequence[Path]) -> Wish:
    """The wish in what the panel sends. Raises UserError for a folder out of bounds and for numbers that are none."""
    kind = _text(data, "kind")
    return Wish(
        path_of(typed, roots),
        _text(data, "trigger"),
        _text(data, "class"),
        next((known for known in KINDS if known == kind), "character"),
        _text(data, "preset"),
        number_of(_text(data, "repeats")),
        number_of(_text(data, "epochs")),
    )


def view_of(typed: str, data: Mapping[str, Any], settings: RunSettings, roots: Sequence[Path], says: Language) -> View:
    """What the panel shows of a wish: the proposal, or what is missing."""
    try:
        wish = wish_of(typed, data, roots)
        proposal = propose(wish, settings, gigabytes())
    except UserError as error:
        return blank(says) | _seen(typed, roots, says) | missing(error, says)
    return blank(says) | proposal_view(proposal, wish, says)


def blank(language: Language) -> View:
    """The panel before anything is known."""
    return {
        "words": {name: say(f"guide.first.{name}", language) for name in _WORDS},
        "kinds": [[kind, say(f"guide.kind.{kind}", language)] for kind in KINDS],
        "presets": [],
        "found": "",
        "missing": "",
        "error": "",
        "filled": "",
    }


def missing(error: UserError, language: Language) -> View:
    """Why there is no proposal."""
    return {"missing" if error.key in NOT_YET else "error": error.message(language), "at": _STEP.get(error.key, 0)}


def proposal_view(proposal: Proposal, wish: Wish, language: Language) -> View:
    """A proposal in words."""
    plan = plan_of(proposal)
    names = [offer.preset for offer in offers_for(proposal.source, wish.kind)]
    names += [name for name in presets_of(proposal.source) if name not in names]
    problems = [*proposal.notes, *preflight(proposal)]
    title = proposal.preset.title(language)
    return {
        "found": found_words(proposal.pictures, language),
        "trigger": proposal.trigger,
        "class": proposal.class_word,
        "several": proposal.repeats is None,
        "repeats": proposal.repeats,
        "epochs": proposal.epochs,
        "presets": [[name, find_preset(name).title(language)] for name in names],
        "chosen": ""
        if wish.preset
        else say("guide.first.proposed_one", language, preset=proposal.preset.title(language)),
        "purpose": proposal.preset.purpose(language),
        "card": card_words(proposal, language),
        "rule": rule(proposal, language),
        "aim": say("guide.first.aim", language, preset=title, steps=proposal.aim),
        "plan": plan.lines(language) if plan else [],
        "problems": [_said(problem, language) for problem in problems],
        "ready": not any(problem.severity == "error" for problem in problems),
    }


def rule(proposal: Proposal, language: Language) -> str:
    """The arithmetic with its numbers: "20 pictures × 10 repeats × 10 epochs / 2 = 1,000 steps"."""
    values = {"epochs": proposal.epochs, "batch": proposal.batch, "steps": proposal.steps}
    if proposal.repeats is None:
        return say("guide.first.rule_several", language, shown=proposal.shown, **values)
    values |= {"pictures": proposal.pictures.count, "repeats": proposal.repeats}
    return say("guide.first.rule", language, **values)


def card_words(proposal: Proposal, language: Language) -> str:
    """What the preset was chosen by."""
    if proposal.source.built_in:
        return say("guide.first.card_built_in", language)
    card = first_card()
    if card is None:
        return say("guide.first.card_unknown", language)
    return say("guide.first.card", language, name=card.name, memory=f"{card.total:.0f}")


def found_words(pictures: Pictures, language: Language) -> str:
    """How many pictures and captions, and that they stay where they are."""
    return say(
        "guide.first.found",
        language,
        images=counted("data.images", pictures.count, language),
        captions=counted("data.captions", pictures.captions, language),
    )


def _seen(typed: str, roots: Sequence[Path], language: Language) -> View:
    """The pictures, where they are there but something else is missing."""
    try:
        return {"found": found_words(find_pictures(wish_of(typed, {}, roots).folder), language)}
    except UserError:
        return {}


def _said(problem: Problem, language: Language) -> dict[str, Any]:
    message = problem.message(language)
    place = None
    if problem.path.startswith("model."):  # all else is filled in from here
        place = {"tab": "source_model", "field": element_id(problem.path)}
    return {"severity": problem.severity, "text": message[:1].upper() + message[1:], "place": place}


def gigabytes() -> float | None:
    """Memory of the card that trains; None where nobody can tell."""
    card = first_card()
    return card.total if card else None


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    return value.strip()[:_MOST_LETTERS] if isinstance(value, str) else ""
