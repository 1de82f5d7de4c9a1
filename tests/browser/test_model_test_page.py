"""The Model test tab in a real browser: pictures with a LoRA, the grid of a training, and bad input in words."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lora_core import jobs, picture_worker
from lora_core.demo import MINI_MODEL
from lora_core.events import CheckpointSaved, RunFinished, append
from lora_core.runs import PROJECT, create_run, list_runs
from lora_core.settings import RunSettings
from lora_core.settings.generate import GenerateSettings
from tests.browser.test_merge_page import mini_lora
from tests.browser.test_monitor_page import choose_run
from tests.browser.waiting import fill_in, until
from tests.merge.makers import write_lora

pytestmark = pytest.mark.skipif(
    not (MINI_MODEL / "model_index.json").exists(), reason="the built-in model is not there"
)
TITLES = {"en-US": "Draw", "ja-JP": "生成する"}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("LoRA 置き場")
    mini_lora(folder / "usu.safetensors")
    shutil.copy(folder / "usu.safetensors", folder / "usu-000001.safetensors")
    return folder


@pytest.fixture
def tab(app, open_page):
    """The page on the tab as it is on a first visit."""

    def open_it(**options):
        (app.home / "model_test.json").unlink(missing_ok=True)
        page = open_page(**options)
        page.click("#tab_model_test-button")
        page.wait_for_selector("#mt_go", state="visible")
        page.wait_for_timeout(500)
        return page

    return open_it


def box(page, key: str):
    return page.locator(f"#f-mt-{key} :is(input, textarea)").first


def pictures(page) -> int:
    return page.locator("#mt_pictures .sg-item img").count()


@pytest.mark.parametrize("locale", list(TITLES))
def test_a_prompt_becomes_a_picture_with_the_lora(tab, app, files, visit, locale):
    page = tab(locale=locale)
    assert page.inner_text("#mt_go") == TITLES[locale]
    assert page.is_hidden("#train_button")
    fill_in(page, box(page, "prompts"), "a bear\na (cat:1.2) <lora:usu:0.5>")
    fill_in(page, box(page, "lora"), str(files / "usu.safetensors"))
    fill_in(page, box(page, "steps"), "1")
    page.wait_for_timeout(500)
    page.keyboard.press("Control+Enter")
    page.set_default_timeout(180_000)
    page.wait_for_selector("#mt_results .mg-result")
    until(page, lambda: pictures(page) == 2)
    (run,) = list_runs(app.root)
    texts = [Image.open(path).text["parameters"].splitlines()[0] for path in sorted(run.path.glob("*.png"))]
    assert texts == ["a bear <lora:usu:1>", "a (cat:1.2) <lora:usu:0.5>"]
    page.reload()
    page.click("#tab_model_test-button")
    until(page, lambda: pictures(page) == 2)
    until(page, lambda: box(page, "steps").input_value() == "1")
    assert visit.errors == []
    assert visit.foreign == []


def test_the_grid_of_the_latest_training_is_one_click(tab, app, files):
    save = {"output_name": "usu", "output_dir": str(files)}
    sample = {"prompts": "usu bear --w 64 --h 64", "steps": 1}
    create_run(RunSettings.model_validate({"model": {"base": "built-in"}, "save": save, "sample": sample}), app.root)
    page = tab()
    page.click("#mt_latest")
    page.wait_for_selector("#f-mt-run_folder", state="visible")
    until(page, lambda: box(page, "run_folder").input_value() == str(files))
    fill_in(page, box(page, "columns_values"), "0, 1")
    page.wait_for_timeout(500)
    page.click("#mt_go")
    page.set_default_timeout(180_000)
    page.wait_for_selector("#mt_results .rs-fetch")
    until(page, lambda: pictures(page) == 5)
    assert [path.name for path in (files / "grid").glob("*.png")] == ["grid-00-1.png"]


FREE = {
    "en-US": ("Loaded: Built-in mini model", "Free memory"),
    "ja-JP": ("読み込み済み：付属の小型モデル", "メモリを解放"),
}


@pytest.mark.parametrize("locale", list(FREE))
def test_the_model_stays_loaded_until_it_is_freed(tab, app, files, tmp_path, visit, locale):
    """The first and the third picture have the same settings, and those of a process of its own."""
    page = tab(locale=locale)
    page.set_default_timeout(180_000)
    assert page.locator("#mt_loaded .mt-free").count() == 0
    fill_in(page, box(page, "lora"), str(files / "usu.safetensors"))
    fill_in(page, box(page, "steps"), "1")
    for number, prompt in enumerate(("a bear <lora:usu:0.5>", "a bear", "a bear <lora:usu:0.5> "), start=1):
        fill_in(page, box(page, "prompts"), prompt)
        page.wait_for_timeout(500)
        page.click("#mt_go:not([disabled])")
        until(page, lambda number=number: len(list_runs(app.root)) == number and idle(app.root))
    runs = list_runs(app.root)[::-1]
    first, second, third = (jobs.read_job(run) for run in runs)
    assert first.pid == second.pid == third.pid
    by_itself = GenerateSettings.model_validate_json(runs[0].settings.read_text("utf-8"))
    command = [sys.executable, "-m", "lora_core", "job", str(create_run(by_itself, tmp_path).path)]
    subprocess.run(command, check=True, cwd=PROJECT, env={**os.environ, "KUMAKOBO_HOME": str(tmp_path)})
    fresh = next(tmp_path.rglob("*.png"))
    drawn = [Image.open(next(run.path.glob("*.png"))) for run in runs]
    assert drawn[0].tobytes() == drawn[2].tobytes() == Image.open(fresh).tobytes()
    assert drawn[1].tobytes() != drawn[0].tobytes()
    loaded, free = FREE[locale]
    page.wait_for_selector(f"#mt_loaded span:has-text('{loaded}')")
    assert page.inner_text("#mt_loaded .mt-free") == free
    page.click("#mt_loaded .mt-free:not([disabled])")
    page.wait_for_selector("#mt_loaded .mt-free", state="detached")
    assert picture_worker.process(app.root) is None
    assert visit.errors == []


def idle(root: Path) -> bool:
    return jobs.current(root) is None and not jobs.queue(root)


@pytest.mark.parametrize(("locale", "words"), [("en-US", "saved along the way"), ("ja-JP", "途中で保存された")])
def test_a_folder_without_epochs_is_told(tab, app, tmp_path, locale, words):
    page = tab(locale=locale)
    page.locator("#f-mt-mode label").nth(1).click()
    page.wait_for_selector("#f-mt-run_folder", state="visible")
    fill_in(page, box(page, "prompts"), "a bear")
    fill_in(page, box(page, "run_folder"), str(tmp_path))
    page.wait_for_timeout(500)
    page.click("#mt_go")
    page.wait_for_selector(f"#mt_problems [role=alert]:has-text('{words}')")
    assert list_runs(app.root) == []


@pytest.mark.parametrize(
    ("name", "prompt", "words"),
    [
        ("large.safetensors", "a bear", "large.safetensors was made for SDXL"),
        ("", "a bear <lora:gone:1>", "There is no LoRA named gone"),
        ("", "", "No prompt is given"),
    ],
)
def test_what_cannot_be_drawn_is_told_at_once(tab, app, tmp_path, name, prompt, words):
    write_lora(tmp_path / "large.safetensors", "sdxl")
    page = tab()
    fill_in(page, box(page, "prompts"), prompt)
    fill_in(page, box(page, "lora"), str(tmp_path / name))
    page.wait_for_timeout(500)
    page.click("#mt_go")
    page.wait_for_selector(f"#mt_problems [role=alert]:has-text('{words}')")
    assert list_runs(app.root) == []


@pytest.mark.parametrize("locale", list(TITLES))
def test_a_phone_needs_no_sideways_scrolling(tab, locale):
    page = tab(locale=locale, width=390, height=844)
    page.locator("#f-mt-mode label").nth(1).click()
    page.wait_for_selector("#f-mt-run_folder", state="visible")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_from_the_monitor_to_the_kept_epoch_and_its_proof(tab, app, files, tmp_path, visit):
    folder = tmp_path / "出力 out"
    shutil.copytree(files, folder, ignore=shutil.ignore_patterns("grid"))
    save = {"output_name": "usu", "output_dir": str(folder)}
    sample = {"prompts": "usu bear --w 64 --h 64", "steps": 1, "seed": 5}
    run = create_run(
        RunSettings.model_validate({"model": {"base": "built-in"}, "save": save, "sample": sample}), app.root
    )
    append(run.events, CheckpointSaved(path=folder / "usu-000001.safetensors", step=1, epoch=1))
    append(run.events, RunFinished(reason="completed", step=1))
    page = tab()
    page.click("#tab_monitor-button")
    page.click("#monitor_grid:not([disabled])")
    until(page, lambda: box(page, "run_folder").input_value() == str(folder))
    assert box(page, "columns_values").input_value() == "0, 0.4, 0.6, 0.8, 1"
    assert box(page, "seed").input_value() == "5"
    fill_in(page, box(page, "columns_values"), "0, 1")
    page.wait_for_timeout(500)
    page.click("#mt_go")
    page.set_default_timeout(180_000)
    page.wait_for_selector("#mt_results .rs-fetch")
    until(page, lambda: pictures(page) == 5)

    shown = page.locator("#mt_pictures .sg-item button")
    shown.nth(2).click()
    page.click("#mt_pictures .sg-compare")
    shown.nth(1).click()
    page.wait_for_selector("#mt_pictures .sg-other", state="visible")
    page.click("#mt_pictures .sg-close")

    shown.nth(2).click()
    page.click("#mt_pictures .sg-ask")
    assert page.input_value("#mt_pictures .sg-keep input") == "usu-best"
    page.click("#mt_pictures .sg-keep button")
    page.wait_for_selector("#mt_results .rs-kept:has-text('usu-000001.safetensors')")
    kept = folder / "usu-best.safetensors"
    assert kept.read_bytes() == (folder / "usu-000001.safetensors").read_bytes()

    fill_in(page, box(page, "lora"), str(kept))
    page.wait_for_timeout(500)
    page.click("#mt_proof")
    page.wait_for_selector("#mt_results .mt-proof li")
    until(page, lambda: pictures(page) == 2)
    assert page.get_attribute("#mt_results .mt-proof", "data-severity") in ("good", "caution")
    page.click("#tab_monitor-button")
    choose_run(page, "usu ·")
    page.wait_for_selector("#monitor_files .rs-kept:has-text('usu-best.safetensors')")
    assert visit.errors == []
    assert visit.foreign == []
