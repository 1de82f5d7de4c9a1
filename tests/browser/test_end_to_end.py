"""The main job in a real browser with the real trainer: preset, Train model, watch, reload, Stop and save, a LoRA."""

import json
import re
import struct
import time
from pathlib import Path

import pytest

from lora_core import jobs
from lora_core.demo import DATASET, MINI_MODEL
from lora_core.events import CheckpointSaved, RunFailed, RunFinished, SampleSaved
from lora_core.runs import RunFolder, list_runs
from lora_core.settings.files import load_settings
from tests.browser.waiting import fill_in, until


def fill(page, path: str, value: str) -> None:
    box = page.locator(f"#f-{path.replace('.', '-')} :is(input, textarea)").first
    fill_in(page, box, value)
    box.press("Tab")


def tab(page, name: str) -> None:
    page.click(f"#tab_{name}-button")


def begin(page, steps: int, name: str) -> None:
    """The demo preset, made short, and Train model."""
    page.click("#preset input")
    page.click("#preset [role=option]:has-text('Demo'), [role=option]:has-text('Demo')")
    page.wait_for_function("document.querySelector('#f-model-base :is(input, textarea)').value !== ''")
    tab(page, "parameters")
    fill(page, "train.max_train_steps", str(steps))
    tab(page, "folders")
    fill(page, "save.output_name", name)
    tab(page, "samples")
    fill(page, "sample.every_n_steps", "2")
    fill(page, "sample.prompts", "usu bear --w 64 --h 64 --s 2")
    page.click("#train_button")
    page.wait_for_selector("#monitor_status .rs:visible, #kb_problems li:visible, #kb_problems a:visible")
    assert page.is_visible("#monitor_status .rs"), page.inner_text("#kb_problems")


def wait_for(page, run: RunFolder, condition, seconds: float = 300):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := condition():
            return value
        failed = jobs.last_event(run, (RunFailed,))
        assert failed is None, f"{failed.message['en']}\n{failed.detail}"
        page.wait_for_timeout(200)
    raise AssertionError("it did not happen:\n" + jobs.log_tail(run)[-3000:])


def newest(app) -> RunFolder:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if runs := list_runs(app.root):
            return runs[0]
        time.sleep(0.1)
    raise AssertionError("Train model started nothing")


def percent(page) -> float:
    return float(page.get_attribute("#monitor_status [role=progressbar]", "aria-valuenow") or 0)


def step(page) -> int:
    found = re.match(r"([\d,]+) / ", page.text_content("#monitor_status .rs-numbers dd:first-of-type") or "")
    return int(found[1].replace(",", "")) if found else 0


def keys_of(path: Path) -> set[str]:
    """Tensor names of a .safetensors file, from its header."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length)).keys() - {"__metadata__"}


@pytest.mark.skipif(not (MINI_MODEL / "model_index.json").exists(), reason="the built-in model is not there")
def test_from_train_model_to_a_lora(real_app, open_page, show_monitor, visit):
    assert any(DATASET.iterdir())
    page = open_page(url=real_app.url)
    begin(page, steps=4000, name="ui_bear")
    run = newest(real_app)
    wait_for(page, run, lambda: step(page) > 0)
    wait_for(page, run, lambda: page.locator("#sample_gallery .sg-item img").count())
    before = step(page)

    page.reload()
    show_monitor(page)
    wait_for(page, run, lambda: step(page) > before)
    until(page, lambda: page.text_content("#monitor_summary").strip())
    wait_for(page, run, lambda: jobs.last_event(run, (SampleSaved,)).step > 0)

    page.click("#monitor_stop_save")
    wait_for(page, run, lambda: page.locator("#monitor_status .rs[data-state=stopped]").count())
    page.wait_for_selector("#monitor_files .rs-final")
    saved = jobs.last_event(run, (CheckpointSaved,))
    parts = {key.split("_")[1] for key in keys_of(saved.path)}
    assert parts == {"unet", "te"}
    assert saved.state.is_dir()
    assert visit.foreign == []
    assert visit.errors == []


@pytest.mark.skipif(not (MINI_MODEL / "model_index.json").exists(), reason="the built-in model is not there")
def test_a_short_run_finishes(real_app, open_page):
    page = open_page(url=real_app.url)
    begin(page, steps=3, name="short_bear")
    page.wait_for_function("document.querySelector('#monitor_status').textContent.includes('short_bear')")
    run = newest(real_app)
    wait_for(page, run, lambda: page.locator("#monitor_status .rs[data-state=finished]").count())
    assert percent(page) == 100
    final = jobs.last_event(run, (RunFinished,)).path
    assert final.name == "short_bear.safetensors"
    assert keys_of(final)


@pytest.mark.skipif(not (MINI_MODEL / "model_index.json").exists(), reason="the built-in model is not there")
def test_three_prompts_become_a_slider_and_its_grid(real_app, open_page, visit):
    """From the guide to a LoRA of two steps, without a picture, and on to its grid at strengths from -2 to 2."""
    page = open_page(url=real_app.url, locale="ja-JP", height=1500)
    page.click("#reset_settings")
    page.click("#reset_now")
    page.wait_for_selector("#reset_dialog", state="hidden")
    tab(page, "source_model")
    fill(page, "model.base", "built-in")
    tab(page, "guide")
    page.click("#guide_slider_title > button")
    page.wait_for_selector("#guide_slider .kb-hint")
    prompts = {"target": "bear", "more": "blue bear", "less": "red bear"}
    for name, words in prompts.items():
        fill_in(page, page.locator(f"#guide_slider_{name}"), words)
    until(page, lambda: page.locator("#guide_slider .gd-said > *").count() == 0)
    page.click("#guide_slider_fill")
    page.wait_for_selector("#guide_slider_train", state="visible")
    until(page, lambda: "160" in page.inner_text("#kb_steps"))
    tab(page, "parameters")
    fill(page, "train.max_train_steps", "2")
    tab(page, "samples")
    fill(page, "sample.steps", "1")
    until(page, lambda: "160" not in page.inner_text("#kb_steps"))
    tab(page, "guide")
    page.click("#guide_slider_train")
    run = until(page, lambda: next((r for r in list_runs(real_app.root) if "slider_blue_bear" in r.path.name), None))
    settings = load_settings(run.settings)
    assert prompts.items() <= settings.slider.model_dump().items()
    wait_for(page, run, lambda: jobs.last_event(run, (RunFinished,)))
    tab(page, "guide")
    page.click("#guide_slider_grid")
    page.wait_for_selector("#f-mt-columns_values", state="visible")
    until(page, lambda: page.locator("#f-mt-columns_values :is(input, textarea)").input_value() == "-2, -1, 0, 1, 2")
    until(page, lambda: page.locator("#f-mt-run_name :is(input, textarea)").input_value() == "slider_blue_bear")
    assert visit.foreign == []
    assert visit.errors == []
