"""The Merge tab in a real browser: what is said while one fills it in, a merge by the real engine, its file checked."""

import re
from pathlib import Path

import numpy as np
import pytest

from lora_core.demo import MINI_MODEL
from lora_core.io.arrays import open_arrays, save_arrays
from lora_core.merge.blocks import names, parse
from lora_core.merge.lora import load_lora
from lora_core.runs import list_runs
from tests.browser.waiting import fill_in, until
from tests.merge.makers import write_lora

SEVENTEEN = "1,0,0,0,1,1,1,1,1,1,1,1,1,1,1,1,0.5"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("LoRA 置き場")
    write_lora(folder / "くま.safetensors", "sd1", rank=4, alpha=2.0)
    write_lora(folder / "hat.safetensors", "sd1", rank=8, seed=1)
    write_lora(folder / "large.safetensors", "sdxl")
    return folder


@pytest.fixture
def merge(app, open_page):
    """The page on the Merge tab as it is on a first visit."""

    def open_it(**options):
        (app.home / "merge.json").unlink(missing_ok=True)
        page = open_page(**options)
        page.click("#tab_merge-button")
        page.wait_for_selector("#merge_go", state="visible")
        page.wait_for_function("document.querySelector('#f-merge-name :is(input, textarea)').placeholder !== ''")
        return page

    return open_it


def box(page, key: str):
    return page.locator(f"#f-merge-{key} :is(input, textarea)").first


def choose_files(page, *paths: Path) -> None:
    for row, path in enumerate(paths, 1):
        fill_in(page, box(page, f"path{row}"), str(path))
    for row, _ in enumerate(paths, 1):
        page.wait_for_selector(f"#merge_card{row} .mg-card")


def open_weights(page, row: int) -> None:
    page.click(f"#merge_mix{row} > button")
    page.wait_for_selector(f"#merge_editor{row} .bw-chart")


def weights(page, row: int) -> dict[str, float]:
    bars = page.locator(f"#merge_editor{row} [role=slider]")
    found = bars.evaluate_all("bars => bars.map((bar) => [bar.dataset.block, +bar.getAttribute('aria-valuenow')])")
    return dict(found)


def share(page) -> float:
    return float(page.get_attribute("#merge_energy .mg-energy", "data-share"))


def close_to(result: Path, sources: list[tuple[Path, float]]) -> float:
    """The largest relative error over layers of a merged file against the sum of its sources, in float64."""
    merged = load_lora(result)
    parts = [(load_lora(path), ratio) for path, ratio in sources]
    errors = []
    for name in parts[0][0].names():
        wanted = sum(ratio * file.change(name).dense().astype(np.float64) for file, ratio in parts)
        errors.append(np.linalg.norm(merged.change(name).dense() - wanted) / np.linalg.norm(wanted))
    return max(errors)


@pytest.mark.parametrize(
    ("locale", "button", "kept"),
    [("en-US", "Merge", "Nothing is lost in any layer."), ("ja-JP", "マージする", "どの層でも何も失われません。")],
    ids=["en", "ja"],
)
def test_two_loras_become_one(merge, files, visit, tmp_path, locale, button, kept):
    page = merge(locale=locale)
    assert page.inner_text("#merge_go") == button
    choose_files(page, files / "くま.safetensors", files / "hat.safetensors")
    fill_in(page, box(page, "ratio2"), "0.5")
    fill_in(page, box(page, "folder"), str(tmp_path))
    page.wait_for_selector(f".mg-kept:has-text('{kept}')")
    page.wait_for_selector("#merge_summary code:text-is('<lora:くま_hat:1>')")
    page.click("#merge_go")
    page.wait_for_selector("#merge_result .mg-result:has-text('くま_hat.safetensors')")
    made = tmp_path / "くま_hat.safetensors"
    assert close_to(made, [(files / "くま.safetensors", 1.0), (files / "hat.safetensors", 0.5)]) < 5e-3
    assert list(tmp_path.iterdir()) == [made]
    page.reload()
    page.click("#tab_merge-button")
    page.wait_for_selector("#merge_result .mg-result:has-text('くま_hat.safetensors')")
    until(page, lambda: box(page, "ratio2").input_value() == "0.5")
    page.click("#merge_inspect")
    page.wait_for_selector("#f-inspect-path", state="visible")
    until(page, lambda: page.locator("#f-inspect-path :is(input, textarea)").first.input_value() == str(made))
    page.click("#tab_merge-button")
    page.click("#merge_train_on")
    page.wait_for_selector("#tab_parameters-button[aria-selected=true]")
    page.click("#parameters_start > button")
    until(
        page, lambda: page.locator("#f-network-network_weights :is(input, textarea)").first.input_value() == str(made)
    )
    assert visit.errors == []
    assert visit.foreign == []


@pytest.mark.parametrize(
    ("locale", "words"),
    [("en-US", "Only files of one family"), ("ja-JP", "同じ種類のモデル用どうし")],
    ids=["en", "ja"],
)
def test_a_mix_of_families_is_refused_at_once(app, merge, files, locale, words):
    page = merge(locale=locale)
    choose_files(page, files / "くま.safetensors", files / "large.safetensors")
    page.wait_for_selector(f"#merge_card2 .mg-bad:has-text('{words}')")
    page.click("#merge_go")
    page.wait_for_selector(f"#merge_summary [role=alert]:has-text('{words}')")
    assert list_runs(app.root) == []


def test_the_line_follows_the_rank(merge, files):
    page = merge()
    choose_files(page, files / "くま.safetensors", files / "hat.safetensors")
    page.wait_for_selector(".mg-kept:has-text('Rank 16 keeps 100%')")
    slider = page.locator("#f-merge-rank input[type=range]")
    slider.focus()
    for _ in range(12):
        page.keyboard.press("ArrowLeft")
    page.wait_for_selector(".mg-kept:has-text('Rank 4 keeps')")
    few = share(page)
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".mg-kept:has-text('Rank 5 keeps')")
    assert 0 < few < share(page) < 1
    until(page, lambda: page.locator("#merge_energy polyline").count() == 2)


def test_seventeen_numbers_are_pasted(merge, files):
    page = merge()
    choose_files(page, files / "くま.safetensors")
    open_weights(page, 1)
    assert set(weights(page, 1).values()) == {1}
    fill_in(page, box(page, "weights1"), SEVENTEEN)
    page.wait_for_function("document.querySelector('#merge_editor1 [data-block=OUT11]').ariaValueNow === '0.5'")
    assert weights(page, 1) == dict(parse(SEVENTEEN, "sd1").by_block)
    fill_in(page, box(page, "weights1"), "1,2,3")
    page.wait_for_selector("#merge_editor1 .bw-error:has-text('3 layer weights were given')")


def test_bars_keys_and_presets_write_the_text(merge, files):
    page = merge()
    choose_files(page, files / "くま.safetensors")
    open_weights(page, 1)
    page.locator("#merge_editor1 select").select_option("OUTALL")
    line = "document.querySelector('#f-merge-weights1 textarea, #f-merge-weights1 input').value"
    page.wait_for_function(f"{line} !== ''")
    until(page, lambda: parse(box(page, "weights1").input_value(), "sd1") == parse("OUTALL", "sd1"))
    page.locator("#merge_editor1 [data-block=OUT00]").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Home")
    page.wait_for_function(f"{line}.includes(',0.95,0,')")
    page.locator("#merge_editor1 [data-block=IN04]").click()
    page.wait_for_function(f"{line}.startsWith('1,0,0,0,0,0.5,')")
    page.locator("#merge_editor1 .bw-head", has_text="BASE").click()
    page.wait_for_function(f"{line}.startsWith('0,')")
    written = parse(box(page, "weights1").input_value(), "sd1").by_block
    assert {block: written[block] for block in ("BASE", "IN04", "OUT00", "OUT01", "OUT02")} == {
        "BASE": 0,
        "IN04": 0.5,
        "OUT00": 0.95,
        "OUT01": 0,
        "OUT02": 1,
    }
    assert weights(page, 1).keys() == set(names("sd1"))


def test_a_file_that_is_there_is_asked_about(app, merge, files, tmp_path):
    page = merge()
    taken = tmp_path / "taken.safetensors"
    taken.write_bytes(b"mine")
    choose_files(page, files / "くま.safetensors", files / "hat.safetensors")
    fill_in(page, box(page, "folder"), str(tmp_path))
    fill_in(page, box(page, "name"), "taken")
    page.wait_for_selector("#merge_summary code:text-is('<lora:taken:1>')")
    page.click("#merge_go")
    page.wait_for_selector("#merge_replace:has-text('taken.safetensors')", state="visible")
    page.click("#merge_replace_no")
    page.wait_for_selector("#merge_replace", state="hidden")
    assert list_runs(app.root) == []
    page.click("#merge_go")
    page.click("#merge_replace_other")
    page.wait_for_selector("#merge_result .mg-result:has-text('taken-2.safetensors')")
    assert taken.read_bytes() == b"mine"
    assert (tmp_path / "taken-2.safetensors").exists()


def test_each_choice_shows_its_own_fields(merge):
    page = merge()
    choices = page.locator("#merge_what label")
    choices.nth(1).click()
    page.wait_for_function("document.querySelector('#f-merge-ratio2 input').value === '-1'")
    choices.nth(2).click()
    page.wait_for_selector("#f-merge-checkpoint", state="visible")
    assert page.locator("#f-merge-method").count() == 0
    choices.nth(3).click()
    page.wait_for_selector("#f-merge-extract_base", state="visible")
    page.wait_for_selector("#f-merge-path1", state="hidden")
    choices.nth(4).click()
    page.wait_for_selector("#f-merge-size_resize", state="visible")
    page.wait_for_selector("#f-merge-path2", state="hidden")
    assert page.is_hidden("#train_button")


def test_rows_come_and_go(merge, files):
    page = merge()
    choose_files(page, files / "くま.safetensors", files / "hat.safetensors")
    page.click("#merge_add")
    page.wait_for_selector("#merge_row3", state="visible")
    fill_in(page, box(page, "path3"), str(files / "large.safetensors"))
    page.wait_for_selector("#merge_card3 .mg-bad")
    page.click("#merge_remove1")
    page.wait_for_selector("#merge_row3", state="hidden")
    until(page, lambda: re.search(r"hat\.safetensors$", box(page, "path1").input_value()))


def test_an_empty_form_says_what_is_missing_when_asked(merge):
    page = merge()
    page.wait_for_selector("#merge_summary .kb-hint")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#merge_summary [role=alert]:has-text('at least two')")


def mini_lora(path: Path) -> None:
    """A LoRA for the built-in model: noise on the queries of its U-Net."""
    rng, tensors = np.random.default_rng(0), {}
    with open_arrays(MINI_MODEL / "unet" / "diffusion_pytorch_model.safetensors") as file:
        for key, info in file.tensors.items():
            if key.endswith("to_q.weight"):
                name = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
                tensors[f"{name}.lora_down.weight"] = 0.1 * rng.standard_normal((2, info.shape[1]), np.float32)
                tensors[f"{name}.lora_up.weight"] = 0.1 * rng.standard_normal((info.shape[0], 2), np.float32)
    save_arrays(tensors, {"ss_base_model_version": "sd_v1"}, path, "fp16")


@pytest.mark.skipif(not (MINI_MODEL / "model_index.json").exists(), reason="the built-in model is not there")
def test_pictures_before_anything_is_saved(merge, tmp_path):
    mini_lora(tmp_path / "a.safetensors")
    page = merge()
    page.locator("#merge_what label").nth(4).click()
    choose_files(page, tmp_path / "a.safetensors")
    page.click("#merge_preview > button")
    fill_in(page, box(page, "preview_prompts"), "a bear")
    fill_in(page, box(page, "preview_steps"), "1")
    page.click("#merge_draw")
    page.set_default_timeout(180_000)
    page.wait_for_function("document.querySelectorAll('#merge_pictures .sg-item img').length === 4")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("locale", ["en-US", "ja-JP"])
def test_a_phone_needs_no_sideways_scrolling(merge, files, locale):
    page = merge(locale=locale, width=390, height=844)
    choose_files(page, files / "くま.safetensors", files / "hat.safetensors")
    open_weights(page, 1)
    for what in range(5):
        page.locator("#merge_what label").nth(what).click()
        page.wait_for_timeout(400)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
