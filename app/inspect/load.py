"""Training settings from a LoRA into the form: which of them, and what to say about it."""

from pathlib import Path
from typing import Any

from app.form import Values, read_legal
from app.i18n import say
from app.inspect.html import clipped, fold, table, tag, tool_button, words
from app.inspect.settings import Taken, from_metadata, kept_places
from app.merge.values import FormError
from lora_core.i18n import Language, text
from lora_core.io.metadata import SETTINGS_KEY
from lora_core.settings.fields import choice_label, fields_of, label, section_label, values_of
from lora_core.settings.files import load_settings


def settings_in(path: Path, metadata: dict[str, str], values: Values) -> Taken:
    """What a file was trained with, laid over what the page shows (``values``).

    Raises FormError when the file does not say, UserError when its settings can't be used.
    """
    now = read_legal(values)
    if SETTINGS_KEY in metadata:
        loaded = kept_places(load_settings(path), now)
        before = values_of(now)
        return Taken(loaded, {path: value for path, value in values_of(loaded).items() if before.get(path) != value})
    found = from_metadata(metadata, now)
    if not found.taken:
        raise FormError("inspector.settings_none")
    return found


def loaded_html(found: Taken, name: str, language: Language) -> str:
    """What was taken over and what was not, with the way to the fields."""
    title = words(say("inspector.loaded", language, count=len(found.taken), name=name), "in-loaded-title", name="div")
    button = tool_button("parameters", say("inspector.to_parameters", language))
    taken = fold(say("inspector.taken", language), taken_html(found.taken, language), note=str(len(found.taken)))
    left = fold(
        say("inspector.left", language), left_html(found.left, language), note=str(len(found.left)), is_open=True
    )
    return tag("div", title + button + taken + left, "in-card in-loaded", role="status")


def taken_html(taken: dict[str, Any], language: Language) -> str:
    if not taken:
        return ""
    heads = [say("inspector.column.setting", language), say("inspector.column.value", language)]
    rows = [[setting_name(path, language), setting_value(path, value, language)] for path, value in taken.items()]
    return tag("div", table(heads, rows, "in-settings"), "in-scroll")


def setting_name(path: str, language: Language) -> str:
    return f"{section_label(path.partition('.')[0], language)} › {label(path, language)}"


def setting_value(path: str, value: Any, language: Language) -> str:
    """A value as the form shows it."""
    if value in (None, ""):
        return say("fix.empty", language)
    if isinstance(value, bool):
        return say("fix.on" if value else "fix.off", language)
    if fields_of()[path].kind == "choice":
        return choice_label(path, value, language)
    return clipped(f"{value:g}" if isinstance(value, float) else str(value), 300)


def left_html(left: dict[str, str], language: Language) -> str:
    """Options of the file that the form has no place for, by their own names."""
    if not left:
        return ""
    heads = [say("inspector.column.setting", language), say("inspector.column.value", language)]
    rows = [[left_name(key, language), clipped(value, 300)] for key, value in left.items()]
    return words(say("inspector.left_help", language), "in-note", name="p") + table(heads, rows, "in-settings")


def left_name(key: str, language: Language) -> str:
    """What sd-scripts' option is called; network arguments have only their own name."""
    try:
        return f"{text(f'recipe.{key}', language)} ({key})"
    except KeyError:
        return key
