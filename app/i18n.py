"""Words of the page: ``t`` for what the browser translates, ``say`` for what the server writes, in one language."""

from collections.abc import Mapping
from pathlib import Path

import gradio as gr
from gradio.i18n import I18nData

from lora_core.i18n import LANGUAGES, Language, catalogue
from lora_core.settings.fields import choice_label, fields_of, help_text, label

COOKIE = "kumakobo_lang"
LOCALES = Path(__file__).parent / "locales"
_PREFIX = "kb_"
"""Keeps our keys apart from Gradio's own, which share one namespace."""


def words() -> gr.I18n:
    """Everything the browser may have to show, for ``launch(i18n=...)``."""
    return gr.I18n(**{language: _for_browser(language) for language in LANGUAGES})


def t(key: str) -> I18nData:
    """A text of app/locales that the browser shows in the person's language. KeyError for an unknown key."""
    if key not in catalogue("en", LOCALES):
        raise KeyError(key)
    return I18nData(_browser_key(key))


def t_label(path: str) -> I18nData:
    return I18nData(_browser_key(f"field.{path}.label"))


def t_help(path: str) -> I18nData:
    return I18nData(_browser_key(f"field.{path}.help"))


def t_choice(path: str, value: object) -> I18nData | str:
    """What a value of a choice is called; a plain text where it is the same in every language."""
    names = {choice_label(path, value, language) for language in LANGUAGES}
    return names.pop() if len(names) == 1 else I18nData(_browser_key(f"choice.{path}.{value}"))


def say(key: str, language: Language, /, **values: object) -> str:
    """A text of app/locales with its ``{placeholders}`` filled in."""
    return catalogue(language, LOCALES)[key].format(**values)


def language_of(request: gr.Request | None) -> Language:
    """The language this page is shown in: the person's choice, else the browser's first language."""
    if request is None:
        return "en"
    cookies: Mapping[str, str] = request.cookies or {}
    if (chosen := cookies.get(COOKIE)) in LANGUAGES:
        return "ja" if chosen == "ja" else "en"
    first = (request.headers or {}).get("accept-language", "").split(",")[0].strip().lower()
    return "ja" if first == "ja" or first.startswith("ja-") else "en"


def _browser_key(key: str) -> str:
    return _PREFIX + key.replace(".", "_").replace(" ", "_")


def _for_browser(language: Language) -> dict[str, str]:
    texts = {_browser_key(key): value for key, value in catalogue(language, LOCALES).items()}
    for path, field in fields_of().items():
        texts[_browser_key(f"field.{path}.label")] = label(path, language)
        texts[_browser_key(f"field.{path}.help")] = help_text(path, language)
        for value in field.choices:
            texts[_browser_key(f"choice.{path}.{value}")] = choice_label(path, value, language)
    return texts
