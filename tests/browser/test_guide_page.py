"""First LoRA in a real browser: from a plain folder to a run, on the built-in model."""

import pytest
from PIL import Image

from lora_core.data.folders import scan
from lora_core.runs import list_runs
from lora_core.settings.files import load_settings
from tests.browser.test_form_page import box, form, open_tab
from tests.browser.waiting import fill_in, until

__all__ = ["form"]
WORDS = {
    "en-US": ("Fill in the form", "12 pictures × 30 repeats"),
    "ja-JP": ("設定に入力", "画像 12 枚 × 繰り返し 30 回"),
}


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "私の 絵"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("locale", list(WORDS))
def test_a_folder_and_two_words_become_a_training(form, app, visit, pictures, locale):
    fill, rule = WORDS[locale]
    page = form(locale=locale)
    open_tab(page, "source_model")
    fill_in(page, box(page, "model.base"), "built-in")
    open_tab(page, "guide")
    page.fill("#f-guide-folder :is(input, textarea)", str(pictures))
    until(page, lambda: page.locator(".gd-found").inner_text() != "")
    page.fill("#guide_first_trigger", "usu")
    page.fill("#guide_first_class", "bear")
    until(page, lambda: rule in page.inner_text(".gd-rule"))
    assert page.locator("#guide_first_fill").inner_text() == fill
    assert page.is_hidden("#guide_first_train")
    page.click("#guide_first_fill")
    page.wait_for_selector("#guide_first_train", state="visible")
    until(page, lambda: "360" in page.inner_text("#kb_steps"))
    page.click("#guide_first_train")
    page.wait_for_selector("#monitor_status .rs", state="visible")
    (run,) = list_runs(app.root)
    settings = load_settings(run.settings)
    (subset,) = scan(settings.dataset).subsets
    assert (subset.folder, subset.repeats, subset.class_tokens) == (pictures, 30, "usu bear")
    assert (settings.model.base, settings.train.epochs, settings.save.output_name) == ("built-in", 4, "usu_bear")
    assert visit.errors == []
    assert visit.foreign == []


def test_one_picture_is_answered_in_words(form, pictures):
    for number in range(1, 12):
        (pictures / f"{number}.png").unlink()
    page = form()
    open_tab(page, "guide")
    page.fill("#f-guide-folder :is(input, textarea)", str(pictures))
    page.wait_for_selector(".gd-missing.kb-error")
    assert "single picture" in page.inner_text(".gd-missing")
    page.click("#guide_first_fill")
    page.wait_for_selector(".toast-body")
    assert page.is_hidden("#guide_first_train")


def test_a_project_of_four_steps_fills_in_the_first(form, visit, pictures):
    page = form(locale="ja-JP", width=1200, height=1500)
    open_tab(page, "guide")
    page.click("#guide_four_title > button")
    page.fill("#guide_four_new", "うす")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-step=check][aria-current=step]")
    assert page.locator("#guide_four .gd-go:disabled").count() == 2
    page.click("[data-step=check] .gd-go")
    page.wait_for_selector(".toast-body")
    open_tab(page, "folders")
    until(page, lambda: box(page, "save.output_name").input_value() == "うす-1-check")
    assert visit.errors == []
