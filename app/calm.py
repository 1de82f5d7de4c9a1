"""What keeps the page calm: which settings are hidden, which differ from their default, and where each one is.

The page holds every setting all the time. What is not to be seen is hidden by the browser, by a list of names that is
sent when something changes: nothing is drawn anew, and what is hidden keeps its value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.blocks import Block

from app.form import Form, Values, choose_variant, element_id, for_component
from app.i18n import say
from lora_core.i18n import Language
from lora_core.settings.applies import applies, condition, governor
from lora_core.settings.fields import (
    SettingField,
    choice_label,
    chooser_of,
    default_of,
    fields_of,
    help_text,
    label,
    unions_of,
)
from lora_core.settings.levels import BEGINNER, LEVELS, USUAL, Level, is_shown_at, level_of
from lora_core.settings.search import find

COOKIE = "kumakobo_level"
NAMES_THE_RUN = BEGINNER - {path for path, field in fields_of().items() if field.kind in ("integer", "number")} - {
    "dataset.resolution"
} | {"model.family"}
"""What every run says anew: which model, pictures and names. That it is not the default is no news."""
ABOVE_BEGINNER = frozenset({"parameters_sweep"})
"""Parts that hold no settings of their own, by element id, and are not needed for a first LoRA."""
_MOST_NAMES = 6


@dataclass(frozen=True)
class Layout:
    """Where the settings stand on the page, by dotted path."""

    tabs: Mapping[str, str]
    accordions: Mapping[str, tuple[str, ...]]
    """Element ids of the parts that can be folded away around it, the outermost first."""
    sections: Mapping[str, str]
    """Element id of the smallest part with a title of its own."""

    @classmethod
    def of(cls, form: Form) -> "Layout":
        """Read off the components; a section without an element id is given one."""
        accordions, sections = {}, {}
        for path, component in form.components.items():
            around = list(_parents(component))
            accordions[path] = tuple(b.elem_id for b in reversed(around) if isinstance(b, gr.Accordion) and b.elem_id)
            titled = next((block for block in around if _is_section(block)), None)
            if titled is not None:
                titled.elem_id = titled.elem_id or f"kb_part_{element_id(path)}"
                sections[path] = titled.elem_id
        return cls(dict(form.tab_of), accordions, sections)

    def place(self, path: str) -> dict[str, Any]:
        """The way to a setting, for kumakobo.goTo in the browser."""
        return {
            "field": element_id(path),
            "tab": self.tabs.get(path, ""),
            "accordions": self.accordions.get(path, ()),
            "level": level_of(path) if path in self.tabs else USUAL,
        }


def level_in(cookies: Mapping[str, str] | None) -> Level:
    """The level that this browser remembers."""
    said = (cookies or {}).get(COOKIE)
    return next((level for level in LEVELS if level == said), USUAL)


def look(values: Values, level: Level, layout: Layout, language: Language) -> dict[str, Any]:
    """Everything the browser needs to show the form calmly, for the value of the levels widget."""
    visible = {path for path in layout.tabs if is_shown_at(path, level) and applies(path, values)}
    differing = [path for path in layout.tabs if applies(path, values) and differs(path, values)]
    return {
        "level": level,
        "levels": [[name, say(f"level.{name}", language), say(f"level.{name}.help", language)] for name in LEVELS],
        "legend": say("level.legend", language),
        "hidden": [element_id(path) for path in layout.tabs if path not in visible],
        "accordions": _empty(layout, visible) + (sorted(ABOVE_BEGINNER) if level == "beginner" else []),
        "marks": {element_id(path): _mark(path, values, language) for path in differing if path in visible},
        "parts": _parts(layout, [path for path in differing if path in visible], language),
        "note": _note([path for path in differing if path not in visible], language),
    }


def differs(path: str, values: Values) -> bool:
    """Whether a setting is not what it is by default, as far as that is news."""
    field = fields_of()[path]
    if path in NAMES_THE_RUN or path not in values:
        return False
    return values[path] != for_component(field, default_of(path, values))


def reset(values: Values, paths: list[str]) -> dict[str, Any]:
    """What changes on the page when settings go back to their defaults, a chosen variant and all it has included."""
    after = dict(values)
    for section in unions_of():
        chooser = chooser_of(section)
        if chooser in paths:
            after |= choose_variant(after | {chooser: fields_of()[chooser].default}, section)
    after |= {path: for_component(fields_of()[path], default_of(path, after)) for path in paths}
    return {path: value for path, value in after.items() if value != values.get(path)}


def hits(query: str, values: Values, layout: Layout, language: Language) -> list[dict[str, Any]]:
    """The settings that fit a search, with the way to each, or to what has to change first."""
    found = [path for path in find(query) if path in layout.tabs]
    return [_hit(path, values, layout, language) for path in found]


def _hit(path: str, values: Values, layout: Layout, language: Language) -> dict[str, Any]:
    field = fields_of()[path]
    return {
        "place": layout.place(governor(path, values)),
        "label": label(path, language),
        "tab": say(f"tab.{layout.tabs[path]}", language),
        "kohya": field.kohya or "",
        "help": help_text(path, language),
        "needs": "" if applies(path, values) else _needed(field, language),
    }


def _needed(field: SettingField, language: Language) -> str:
    said = condition(field.path, language)
    if said or not field.defaults:
        return said
    chooser = chooser_of(field.section)
    variants = ", ".join(choice_label(chooser, variant, language) for variant in field.variants)
    return say("search.variants", language, label=label(chooser, language), variants=variants)


def _empty(layout: Layout, visible: set[str]) -> list[str]:
    """Parts that can be folded away and have nothing to show."""
    filled = {part for path in visible for part in layout.accordions[path]}
    return sorted({part for parts in layout.accordions.values() for part in parts} - filled)


def _mark(path: str, values: Values, language: Language) -> str:
    """What the mark at a changed setting says and its button does."""
    field, default = fields_of()[path], default_of(path, values)
    if field.kind == "switch":
        shown = say("fix.on" if default else "fix.off", language)
    elif default in (None, ""):
        shown = say("fix.empty", language)
    elif field.kind == "choice":
        shown = choice_label(path, default, language)
    else:
        shown = f"{default:g}" if isinstance(default, float) else str(default)
    return say("mark.undo", language, default=shown)


def _parts(layout: Layout, marked: list[str], language: Language) -> dict[str, dict[str, Any]]:
    """Titled parts with changed settings: how many, and the button that resets them."""
    paths: dict[str, list[str]] = {}
    for path in marked:
        if path in layout.sections:
            paths.setdefault(layout.sections[path], []).append(path)
    return {
        part: {
            "fields": [element_id(path) for path in changed],
            "words": say("mark.changed", language, count=len(changed)),
            "title": say("mark.reset_part", language),
        }
        for part, changed in paths.items()
    }


def _note(paths: list[str], language: Language) -> dict[str, Any] | None:
    """The line about changed settings that this level hides; they count all the same."""
    if not paths:
        return None
    names = [label(path, language) for path in paths[:_MOST_NAMES]]
    listed = ("、" if language == "ja" else ", ").join(names) + (" …" if len(paths) > _MOST_NAMES else "")
    key = "level.hidden_one" if len(paths) == 1 else "level.hidden"
    return {
        "words": say(key, language, count=len(paths), names=listed),
        "button": say("level.show", language),
        "level": max((level_of(path) for path in paths), key=LEVELS.index),
    }


def _parents(block: Block) -> Any:
    while (parent := getattr(block, "parent", None)) is not None:
        yield parent
        block = parent


def _is_section(block: Block) -> bool:
    classes = getattr(block, "elem_classes", None) or []
    return isinstance(block, gr.Accordion) or "kb-section" in classes
