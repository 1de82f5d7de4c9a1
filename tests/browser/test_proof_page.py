"""Does it do anything? In a real browser, on the built-in model; a LoRA that works is in test_model_test_page.py."""

import pytest

from lora_core.demo import MINI_MODEL
from lora_core.io.arrays import read_arrays, save_arrays
from lora_core.runs import list_runs
from tests.browser.test_merge_page import mini_lora
from tests.browser.test_model_test_page import box, tab
from tests.browser.waiting import fill_in
from tests.merge.makers import write_lora

__all__ = ["tab"]
pytestmark = pytest.mark.skipif(
    not (MINI_MODEL / "model_index.json").exists(), reason="the built-in model is not there"
)


def test_a_lora_that_changes_nothing_is_a_red_flag(tab, app, tmp_path, visit):
    lora = tmp_path / "何もしない.safetensors"
    mini_lora(lora)
    tensors, metadata = read_arrays(lora)
    for name in tensors:
        if "lora_up" in name:
            tensors[name] = tensors[name] * 0
    save_arrays(tensors, metadata, lora, "fp16")
    page = tab(locale="ja-JP")
    fill_in(page, box(page, "prompts"), "usu bear")
    fill_in(page, box(page, "lora"), str(lora))
    fill_in(page, box(page, "steps"), "1")
    page.wait_for_timeout(500)
    page.click("#mt_proof")
    page.set_default_timeout(300_000)
    page.wait_for_selector("#mt_results .mt-proof[data-severity=bad] li")
    assert "何も変えません" in page.inner_text("#mt_results .mt-proof li >> nth=0")
    assert visit.errors == []
    assert visit.foreign == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "Choose the LoRA file"),
        ("gone.safetensors", "gone.safetensors"),
        ("large.safetensors", "was made for SDXL"),
    ],
    ids=["none", "gone", "wrong family"],
)
def test_what_cannot_be_proved_is_told_at_once(tab, app, tmp_path, name, words):
    write_lora(tmp_path / "large.safetensors", "sdxl")
    page = tab()
    fill_in(page, box(page, "prompts"), "a bear")
    fill_in(page, box(page, "lora"), str(tmp_path / name) if name else "")
    page.wait_for_timeout(500)
    page.click("#mt_proof")
    page.wait_for_selector(f"#mt_problems [role=alert]:has-text('{words}')")
    assert list_runs(app.root) == []
