"""The calm page in a real browser: levels, marks, search, own presets, and the model type that follows the file."""

import re

import pytest

from lora_core.demo import MINI_MODEL
from tests.browser.waiting import fill_in, until


def box(page, path: str):
    return page.locator(f"#f-{path.replace('.', '-')} :is(input, textarea)").first


def is_seen(page, path: str) -> bool:
    return page.locator(f"#f-{path.replace('.', '-')}").is_visible()


def open_tab(page, name: str) -> None:
    page.click(f"#tab_{name}-button")
    page.wait_for_selector(f"#tab_{name}", state="visible")


def set_level(page, level: str) -> None:
    page.click(f"[data-level={level}]")
    page.wait_for_selector(f"[data-level={level}][aria-pressed=true]")


REMEMBER_LEVELS = """() => {
  window.levelsShown = [];
  const note = () => {
    const level = document.querySelector("#kb_levels [aria-pressed=true]")?.dataset.level;
    if (level && level !== (window.levelsShown.at(-1) ?? "standard")) window.levelsShown.push(level);
  };
  new MutationObserver(note).observe(document.querySelector("#kb_levels"), { childList: true, subtree: true });
}"""


@pytest.fixture
def form(open_page):
    """The page with an empty form."""

    def open_it(**options):
        page = open_page(**{"level": None} | options)
        page.click("#reset_settings")
        page.click("#reset_now")
        page.wait_for_selector("#reset_dialog", state="hidden")
        page.wait_for_timeout(500)
        return page

    return open_it


def test_a_level_hides_fields_keeps_values_and_is_remembered(form, visit):
    page = form()
    open_tab(page, "parameters")
    set_level(page, "expert")
    page.wait_for_selector("#parameters_memory", state="visible")
    fill_in(page, box(page, "train.seed"), "7")
    page.wait_for_selector("#f-train-seed .kb-undo")
    set_level(page, "beginner")
    until(page, lambda: not is_seen(page, "train.seed"))
    assert is_seen(page, "train.epochs")
    assert not page.is_visible("#parameters_memory")
    assert not page.is_visible("#parameters_sweep")
    until(page, lambda: "Seed" in page.inner_text(".kl-note"))
    page.reload()
    page.wait_for_selector("[data-level=beginner][aria-pressed=true]")
    open_tab(page, "parameters")
    page.wait_for_selector(".kl-note")
    assert not is_seen(page, "train.seed")
    page.click(".kl-show")
    page.wait_for_selector("[data-level=standard][aria-pressed=true]")
    until(page, lambda: is_seen(page, "train.seed"))
    assert box(page, "train.seed").input_value() == "7"
    assert visit.errors == []


def test_an_answer_from_before_the_choice_does_not_take_it_back(form):
    page = form()
    open_tab(page, "parameters")
    set_level(page, "beginner")
    late, holding = [], [True]
    keep = lambda route: late.append((route, route.fetch())) if holding else route.continue_()  # noqa: E731
    page.route("**/gradio_api/run/**", keep)
    fill_in(page, box(page, "train.epochs"), "3")
    until(page, lambda: any('"beginner"' in answer.text() for _, answer in late))
    holding.clear()
    set_level(page, "standard")
    until(page, lambda: is_seen(page, "train.seed"))
    page.evaluate(REMEMBER_LEVELS)
    for route, answer in late:
        route.fulfill(response=answer)
    with page.expect_response("**/gradio_api/run/**"):  # a newer one has gone through, so the late ones have arrived
        fill_in(page, box(page, "train.epochs"), "4")
    set_level(page, "expert")
    assert page.evaluate("window.levelsShown") == ["expert"]


def test_a_changed_field_is_marked_and_put_back(form):
    page = form()
    open_tab(page, "parameters")
    fill_in(page, box(page, "network.rank"), "32")
    mark = page.locator("#f-network-rank .kb-undo")
    mark.wait_for()
    assert mark.get_attribute("title") == "Changed. Back to the default: 16"
    mark.focus()
    page.keyboard.press("Enter")
    mark.wait_for(state="detached")
    until(page, lambda: box(page, "network.rank").input_value() == "16")


def test_a_section_is_put_back_at_once(form):
    page = form()
    open_tab(page, "parameters")
    fill_in(page, box(page, "train.epochs"), "3")
    fill_in(page, box(page, "train.train_batch_size"), "2")
    until(page, lambda: page.locator(".kb-undo-part", has_text="2 changed").count() == 1)
    page.click(".kb-undo-part")
    until(page, lambda: box(page, "train.epochs").input_value() == "10")
    until(page, lambda: box(page, "train.train_batch_size").input_value() == "1")
    page.wait_for_selector(".kb-undo-part", state="detached")


@pytest.mark.parametrize(
    ("locale", "typed", "path"),
    [
        ("en-US", "prior loss", "loss.prior_loss_weight"),
        ("en-US", "gradient_accumulation_steps", "train.gradient_accumulation_steps"),
        ("ja-JP", "ﾗﾝｸﾄﾞﾛｯﾌﾟｱｳﾄ", "network.rank_dropout"),
    ],
    ids=["label", "kohya", "half-width kana"],
)
def test_a_search_leads_into_a_closed_part_above_the_level(form, tmp_path, locale, typed, path):
    page = form(locale=locale)
    if path == "loss.prior_loss_weight":
        box(page, "model.base").blur()
        open_tab(page, "folders")
        fill_in(page, box(page, "dataset.reg_dir"), str(tmp_path))
        page.keyboard.press("Tab")
    set_level(page, "standard")
    open_tab(page, "samples")
    page.keyboard.press("Control+k")
    page.keyboard.type(typed)
    page.wait_for_selector(".ks-hit[aria-selected=true]")
    until(page, lambda: page.locator(".ks-needs").count() == 0)
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-level=expert][aria-pressed=true]")
    name = path.replace(".", "-")
    page.wait_for_function(f"document.activeElement.closest('#f-{name}') !== null")
    assert is_seen(page, path)
    assert page.is_visible("#tab_parameters")


def test_a_setting_that_does_not_count_leads_to_what_has_to_change(form):
    page = form()
    page.keyboard.press("Control+k")
    page.keyboard.type("d coefficient")
    page.wait_for_selector(".ks-needs")
    assert "Prodigy" in page.inner_text(".ks-needs")
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.closest('#f-optimizer-name') !== null")


def test_the_model_type_follows_the_file(form):
    page = form()
    page.click("#model_more button")
    family = box(page, "model.family")
    family.click()
    page.get_by_role("option", name="SDXL", exact=True).click()
    until(page, lambda: "SDXL" in page.inner_text("#kb_steps"))
    until(page, lambda: not is_seen(page, "model.clip_skip"))
    fill_in(page, box(page, "model.base"), str(MINI_MODEL))
    until(page, lambda: family.input_value() == "Stable Diffusion 1.x")
    until(page, lambda: is_seen(page, "model.clip_skip"))
    until(page, lambda: "as the file says" in page.inner_text("#model_card"))
    family.click()
    page.get_by_role("option", name="SDXL", exact=True).click()
    until(page, lambda: "SDXL" in page.inner_text("#model_card"))


def test_own_presets_are_saved_loaded_renamed_shared_and_deleted(form, app):
    page, folder = form(), app.home / "presets" / "own"
    open_tab(page, "parameters")
    fill_in(page, box(page, "network.rank"), "48")
    page.wait_for_selector("#f-network-rank .kb-undo")
    page.click("#own_presets")
    fill_in(page, page.locator("#preset_name :is(input, textarea)"), "くまの設定")
    page.click("#preset_save")
    file = folder / "くまの設定.toml"
    until(page, file.exists)
    assert "rank = 48" in file.read_text(encoding="utf-8")

    refused = page.locator("#preset_message .kb-dialog-error")
    until(
        page, lambda: refused.count() or page.click("#preset_save")
    )  # a click before the first answer counts for nothing
    assert "already" in page.inner_text("#preset_message")

    page.click("#preset_own_tab-button")
    until(page, lambda: box_of(page, "preset_own").input_value() == "くまの設定")
    fill_in(page, page.locator("#preset_new_name :is(input, textarea)"), "くま 2")
    page.click("#preset_rename")
    until(page, lambda: not file.exists())
    page.wait_for_selector("#preset_share a[download='くま_2.toml']")
    with page.expect_download() as download:
        page.click("#preset_share a")
    shared = app.home / "shared.toml"
    download.value.save_as(shared)
    assert 'name = "くま 2"' in shared.read_text(encoding="utf-8")

    page.click("#preset_delete")
    page.click("#preset_really")
    until(page, lambda: not list(folder.glob("*.toml")))
    with page.expect_file_chooser() as chooser:
        page.click("#preset_upload")
    chooser.value.set_files(shared)
    until(page, lambda: list(folder.glob("*.toml")))

    page.click("#preset_dialog .kb-cancel")
    page.wait_for_selector("#preset_dialog", state="hidden")
    page.click("#f-network-rank .kb-undo")
    until(page, lambda: box(page, "network.rank").input_value() == "16")
    page.locator("#preset input").click()
    page.get_by_role("option", name=re.compile("★ くま 2")).click()
    until(page, lambda: box(page, "network.rank").input_value() == "48")


def box_of(page, name: str):
    return page.locator(f"#{name} input").first
