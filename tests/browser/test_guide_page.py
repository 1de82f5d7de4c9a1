"""First LoRA in a real browser: from a plain folder to a run, on the built-in model."""

import shutil

import pytest
from PIL import Image

from lora_core.data.folders import scan
from lora_core.guides import first_runs
from lora_core.runs import list_runs
from lora_core.settings.files import load_settings
from tests.browser.test_form_page import box, form, open_tab
from tests.browser.test_merge_page import mini_lora
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


@pytest.fixture
def own_run(app, monkeypatch):
    """A run under the name that First LoRA filled in, as its Train model starts it."""
    monkeypatch.setenv("KUMAKOBO_HOME", str(app.home))
    shutil.rmtree(app.home / "out", ignore_errors=True)
    first_runs.remember("usu_bear")
    return app.enqueue("usu_bear", steps=60, per_epoch=30, seconds=0.1, samples=60)


def test_the_run_is_seen_to_its_end_and_its_epoch_kept_compared_and_sent(form, app, own_run, visit):
    page, out = form(locale="ja-JP"), app.home / "out"
    open_tab(page, "guide")
    page.wait_for_selector("#guide_run .rs:is([data-state=running], [data-state=finished])")
    page.wait_for_selector("#guide_run .rs[data-state=finished]")
    assert page.locator("#guide_run_file option").count() == 3
    for name in ("usu_bear-000001", "usu_bear-000002", "usu_bear"):
        mini_lora(out / f"{name}.safetensors")
    page.select_option("#guide_run_file", "1")
    page.click("#guide_run_keep")
    page.wait_for_selector("#guide_run .rs-kept:has-text('usu_bear-best.safetensors')")
    assert (out / "usu_bear-best.safetensors").read_bytes() == (out / "usu_bear-000002.safetensors").read_bytes()
    page.click("#guide_run_send")
    page.wait_for_selector("#handover_dialog", state="visible")
    until(page, lambda: page.input_value("#handover_name :is(input, textarea)") == "usu_bear-best")
    page.click("#handover_dialog .kb-cancel")
    page.wait_for_selector("#handover_dialog", state="hidden")
    page.click("#guide_run_grid")
    page.wait_for_selector("#mt_go", state="visible")
    until(page, lambda: page.input_value("#f-mt-run_folder :is(input, textarea)") == str(out))
    assert visit.errors == []
    assert visit.foreign == []


def test_a_file_that_went_away_is_told(form, app, own_run):
    page = form()
    open_tab(page, "guide")
    page.wait_for_selector("#guide_run .rs[data-state=finished]")
    for path in (app.home / "out").glob("*.safetensors"):
        path.unlink()
    page.click("#guide_run_keep")
    page.wait_for_selector(".toast-body:has-text('gone')")
    page.wait_for_selector("#guide_run_keep", state="detached")


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
