"""The Inspect tab in a real browser: look, compare, load training settings, clean, edit; and files made to do harm."""

import json

import pytest

from lora_core.io.headers import read_header
from tests.app.inspect.samples import broken, good, hostile, metadata
from tests.browser.waiting import fill_in, until

WORDS = {
    "en-US": {"of": "8 of 264", "recipe": "Training recipe", "cosine": "Cosine by block", "wrong": "contain NaN"},
    "ja-JP": {"of": "8 / 264", "recipe": "学習レシピ", "cosine": "階層別のコサイン類似度", "wrong": "NaN"},
}
in_both = pytest.mark.parametrize("locale", WORDS)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("LoRA の フォルダ")
    good(folder / "usu.safetensors")
    good(folder / "other.safetensors", seed=1, ss_seed="7")
    broken(folder / "broken.safetensors")
    hostile(folder / "hostile.safetensors")
    return folder


def box(page, name: str):
    return page.locator(f"#f-{name} :is(input, textarea)").first


@pytest.fixture
def inspect(open_page):
    """Opens the tab and a file in it."""

    def open_it(path, **options):
        page = open_page(**options)
        page.click("#tab_inspect-button")
        page.wait_for_selector("#f-inspect-path", state="visible")
        show(page, path)
        return page

    return open_it


def show(page, path) -> None:
    fill_in(page, box(page, "inspect-path"), f'"{path}"')
    page.wait_for_function("name => document.querySelector('#inspect_head')?.innerText.includes(name)", arg=path.stem)
    page.wait_for_selector("#inspect_weights .in-chart, #inspect_weights .kb-bad")


@in_both
def test_a_lora_is_told_and_its_training_loaded(inspect, visit, files, locale):
    page, said = inspect(files / "usu.safetensors", locale=locale), WORDS[locale]
    head = page.inner_text("#inspect_head")
    for part in ("Usu the bear", "rank 8", "alpha 4", "<lora:usu:1> usu bear", said["of"]):
        assert part in head
    assert page.evaluate("document.querySelector('#inspect_head img').naturalWidth") == 32
    until(page, lambda: said["recipe"] in page.inner_text("#inspect_details"))
    until(page, lambda: page.locator("#inspect_overview .in-host").count() >= 3)

    page.fill("#inspect_details .in-filter", "EARS")
    visible = page.locator("#inspect_details .in-tag-list > li:visible")
    until(page, lambda: visible.all_inner_texts() == ["bear ears\n28"])
    page.select_option("#inspect_details .in-folder", index=2)
    until(page, lambda: visible.count() == 0)
    page.fill("#inspect_details .in-filter", "")
    until(page, lambda: [row.split("\n")[0] for row in visible.all_inner_texts()] == ["forest", "night"])

    page.click("#inspect_load")
    page.wait_for_selector("#inspect_loaded .in-loaded")
    until(page, lambda: "ss_color_aug" in page.inner_text("#inspect_loaded"))
    page.click("#inspect_loaded [data-tool=parameters]")
    page.wait_for_function("document.querySelector('#f-network-rank input')?.value === '8'")
    until(page, lambda: float(box(page, "train-learning_rate").input_value()) == 0.0003)
    assert visit.errors == []
    assert visit.foreign == []


@in_both
def test_two_are_compared(inspect, visit, files, locale):
    page = inspect(files / "usu.safetensors", locale=locale)
    fill_in(page, box(page, "inspect-other"), str(files / "other.safetensors"))
    page.wait_for_selector("#inspect_compared .in-cosine")
    text = page.inner_text("#inspect_compared")
    assert WORDS[locale]["cosine"] in text
    assert "1234" in text
    fill_in(page, box(page, "inspect-other"), "")
    page.wait_for_selector("#inspect_compared .in-cosine", state="detached")
    assert visit.errors == []


def test_the_bars_tell_their_numbers(inspect, files):
    page = inspect(files / "usu.safetensors")
    usual = page.inner_text("#inspect_weights .in-readout")
    page.hover("#inspect_weights .in-bar.in-mid")
    page.wait_for_function("document.querySelector('#inspect_weights .in-readout').innerText.startsWith('MID:')")
    page.hover("#inspect_head")
    page.wait_for_function(
        "text => document.querySelector('#inspect_weights .in-readout').innerText === text", arg=usual
    )
    page.click("#inspect_weights button[data-measure=strength]")
    until(page, lambda: page.get_attribute("#inspect_weights .in-chart", "data-measure") == "strength")


@in_both
def test_what_is_wrong_is_found_and_cleaned(inspect, visit, files, locale):
    page = inspect(files / "broken.safetensors", locale=locale)
    page.wait_for_selector("#inspect_overview .in-is-error")
    until(page, lambda: WORDS[locale]["wrong"] in page.inner_text("#inspect_overview .in-is-error"))
    page.locator("#inspect_overview [data-tool=clean]").first.click()
    page.wait_for_selector("#inspect_tool_clean", state="visible")
    new = box(page, "inspect-output").input_value()
    page.click("#inspect_panel_start")
    page.wait_for_selector("#inspect_job [data-tool=show]")
    page.click("#inspect_job [data-tool=show]")
    page.wait_for_function(
        "path => document.querySelector('#f-inspect-path :is(input, textarea)')?.value === path", arg=new
    )
    page.wait_for_function("!document.querySelector('#inspect_overview [data-tool=clean]')")
    assert not [key for key in read_header(files / new).tensors if "foo" in key or "optimizer" in key]
    assert visit.errors == []


def test_an_edit_takes_the_place_of_the_original_after_asking(inspect, tmp_path):
    path = good(tmp_path / "mine.safetensors")
    page = inspect(path)
    page.click("#inspect_edit")
    page.wait_for_function("document.querySelector('#f-inspect-title :is(input, textarea)')?.value === 'Usu the bear'")
    page.click("#inspect_panel_start")
    page.wait_for_selector("#inspect_panel_message .kb-dialog-error")
    fill_in(page, box(page, "inspect-title"), "くま & <b>")
    page.click("#inspect_panel_start")
    page.click("#inspect_job [data-tool=replace]")
    assert read_header(path).metadata["modelspec.title"] == metadata()["modelspec.title"]
    page.click("#inspect_job [data-tool=replace_yes]")
    page.wait_for_function("document.querySelector('#inspect_head').innerText.includes('くま & <b>')")
    assert read_header(path).metadata["modelspec.title"] == "くま & <b>"


def test_a_proposed_rank_reaches_the_merge_tab(inspect, files):
    page = inspect(files / "usu.safetensors")
    page.click("#inspect_resize")
    page.wait_for_selector("#inspect_tool_resize", state="visible")
    fill_in(page, box(page, "inspect-rank"), "4")
    page.click("#inspect_in_merge")
    page.wait_for_selector("#tab_merge", state="visible")
    page.wait_for_function("document.querySelector('#f-merge-rank input[type=number]')?.value === '4'")
    until(page, lambda: box(page, "merge-path1").input_value() == f'"{files / "usu.safetensors"}"')


def test_hostile_metadata_do_nothing(inspect, visit, files):
    page = inspect(files / "hostile.safetensors")
    assert "<script>" in page.inner_text("#inspect_head .in-title")
    page.click("#in_raw > summary")
    page.fill("#inspect_details .in-filter", "<img")
    until(page, lambda: page.locator("#inspect_details .in-tag-list > li:visible").count() == 1)
    page.click("#inspect_edit")
    page.wait_for_selector("#inspect_tool_edit", state="visible")
    fill_in(page, box(page, "inspect-other"), str(files / "usu.safetensors"))
    page.wait_for_selector("#inspect_compared .in-cosine")
    page.wait_for_timeout(500)
    assert page.evaluate("window.harmed") is None
    assert page.locator("#tab_inspect :is(script, img, iframe)").count() == 0
    show(page, files / "usu.safetensors")
    assert visit.errors == []
    assert visit.foreign == []


@in_both
def test_a_phone_needs_no_sideways_scrolling(inspect, files, locale):
    page = inspect(files / "usu.safetensors", locale=locale, width=390, height=844)
    fill_in(page, box(page, "inspect-other"), str(files / "other.safetensors"))
    page.wait_for_selector("#inspect_compared .in-cosine")
    page.click("#inspect_convert")
    page.wait_for_selector("#inspect_tool_convert", state="visible")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_lora_goes_to_a_web_ui_and_nothing_there_is_replaced_unasked(inspect, visit, files, tmp_path):
    loras = tmp_path / "web UI" / "models" / "Lora"
    loras.mkdir(parents=True)
    (tmp_path / "web UI" / "webui.py").touch()
    page = inspect(files / "usu.safetensors")
    page.click("#inspect_send")
    page.wait_for_selector("#handover_about img", state="visible")
    assert "usu bear" in page.inner_text("#handover_about")
    page.click("#handover_go")
    until(page, lambda: "Choose the folder of your web UI" in page.inner_text("#handover_message"))
    fill_in(page, box(page, "handover-folder"), str(tmp_path / "web UI"))
    fill_in(page, page.locator("#handover_strength input").first, "0.8")
    page.click("#handover_go")
    until(page, lambda: "<lora:usu:0.8> usu bear" in page.inner_text("#handover_message"))
    assert (loras / "usu.safetensors").read_bytes() == (files / "usu.safetensors").read_bytes()
    card = json.loads((loras / "usu.json").read_text(encoding="utf-8"))
    assert (card["activation text"], card["preferred weight"]) == ("usu bear", 0.8)
    (loras / "usu.safetensors").write_bytes(b"mine")
    page.click("#handover_go")
    page.wait_for_selector("#handover_replace", state="visible")
    assert (loras / "usu.safetensors").read_bytes() == b"mine"
    assert visit.errors == []
