"""The page as a whole: what it imports, what it exposes, what its words are."""

import re
import subprocess
import sys
from types import SimpleNamespace

import gradio as gr
import pytest

from app.i18n import COOKIE, LOCALES, language_of, say, t, words
from app.page import TABS, Context
from app.theme import kohya_names
from app.ui import build
from lora_core.i18n import LANGUAGES, catalogue
from lora_core.runs import PROJECT
from lora_core.settings.fields import fields_of


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> gr.Blocks:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUMAKOBO_HOME", str(tmp_path_factory.mktemp("home")))
        return build(Context())


def test_building_the_page_does_not_import_torch():
    heavy = ("torch", "diffusers", "transformers", "accelerate")
    code = "import sys; from app.ui import build; from app.page import Context; build(Context()); "
    code += f"print([module for module in {heavy} if module in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_no_event_is_public(page):
    assert [event.api_name for event in page.fns.values() if event.api_visibility != "private"] == []


def test_the_tabs_stand_in_their_order(page):
    assert [b.id for b in page.blocks.values() if isinstance(b, gr.Tab) and b.parent.elem_id == "kb_tabs"] == list(TABS)


def test_the_same_texts_in_every_language():
    english, japanese = (catalogue(language, LOCALES) for language in LANGUAGES)
    assert english.keys() == japanese.keys()
    assert {key for key in english if _placeholders(english[key]) != _placeholders(japanese[key])} == set()


def test_no_text_is_empty_or_left_in_english():
    english, japanese = (catalogue(language, LOCALES) for language in LANGUAGES)
    same = {key for key in english if english[key] == japanese[key]}
    assert all(text.strip() for text in [*english.values(), *japanese.values()])
    assert {key for key in same if len(english[key].split()) > 3 and not key.endswith("placeholder")} == set()


def test_the_browser_gets_the_same_keys_in_every_language():
    english, japanese = words().translations_dict.values()
    assert english.keys() == japanese.keys()
    assert all(key.startswith("kb_") for key in english)


def test_unknown_texts_are_found_when_the_page_is_built():
    with pytest.raises(KeyError):
        t("no.such.text")


def test_numbers_in_sentences():
    assert say("steps.steps", "en", steps=1500) == "1,500 steps"
    assert say("steps.steps", "ja", steps=1500) == "1,500 ステップ"


@pytest.mark.parametrize(
    ("cookie", "accept", "language"),
    [
        (None, "ja-JP,ja;q=0.9,en;q=0.8", "ja"),
        (None, "en-US,en;q=0.9,ja;q=0.8", "en"),
        (None, "fr-FR,ja;q=0.5", "en"),
        (None, "", "en"),
        ("ja", "en-US", "ja"),
        ("en", "ja", "en"),
        ("xx", "ja", "ja"),
    ],
)
def test_the_language_is_the_persons_choice_else_the_browsers(cookie, accept, language):
    cookies = {COOKIE: cookie} if cookie else {}
    request = SimpleNamespace(cookies=cookies, headers={"accept-language": accept})
    assert language_of(request) == language


def test_kohyas_name_stands_at_every_field_that_has_one():
    rules = kohya_names()
    assert rules.count("content:") == sum(field.kohya is not None for field in fields_of().values())
    assert '#f-network-rank .info-text::after{content:"network_dim"}' in rules


def _placeholders(text: str) -> set[str]:
    return set(re.findall(r"{(\w+)", text))
