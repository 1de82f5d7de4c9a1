"""Copier LoRA by difference in a real browser with the real trainer and the built-in model: from pictures to a file."""

import pytest
from PIL import Image

from lora_core.io.headers import identify
from lora_core.runs import list_runs, read_job_settings
from tests.browser.test_form_page import box, open_tab
from tests.browser.waiting import fill_in, until


@pytest.fixture
def pair(tmp_path):
    """The same picture with one thing changed, and one of another size."""
    folder = tmp_path / "私の 絵"
    folder.mkdir()
    picture = Image.new("RGB", (64, 64), (200, 180, 160))
    picture.save(folder / "前.png")
    picture.paste((220, 20, 40), (24, 40, 40, 56))
    picture.save(folder / "後.png")
    picture.resize((80, 64)).save(folder / "wide.png")
    return folder


def picture_box(page, name):
    return page.locator(f"#f-guide-{name} :is(input, textarea)").first


def is_done(page, step):
    return page.locator(f"[data-copier={step}].gd-done").count() == 1


def press(page, step):
    button = page.locator(f"#guide_copier_{step}_go")
    until(page, lambda: button.is_enabled())
    button.click()


def test_two_pictures_become_a_saved_lora(open_page, real_app, visit, pair):
    page = open_page(url=real_app.url, width=1200, height=1400)
    page.click("#reset_settings")
    page.click("#reset_now")
    page.wait_for_selector("#reset_dialog", state="hidden")
    earlier = {run.path for run in list_runs(real_app.root)}
    open_tab(page, "source_model")
    fill_in(page, box(page, "model.base"), "built-in")
    open_tab(page, "samples")
    fill_in(page, box(page, "sample.steps"), "2")
    open_tab(page, "guide")
    page.click("#guide_copier_title > button")
    fill_in(page, picture_box(page, "before"), str(pair / "前.png"))
    fill_in(page, page.locator("#guide_copier_new"), "リボン")
    page.click("#guide_copier_new_go")
    until(page, lambda: "two pictures" in page.inner_text("#guide_copier [role=status]"))
    fill_in(page, picture_box(page, "after"), str(pair / "wide.png"))
    page.click("#guide_copier_new_go")
    until(page, lambda: "80" in page.inner_text("#guide_copier [role=status]"))
    fill_in(page, picture_box(page, "after"), str(pair / "後.png"))
    page.wait_for_selector("#guide_pair img")
    page.click("#guide_copier_new_go")
    page.wait_for_selector("[data-copier=train][aria-current=step]")
    assert page.locator("#guide_copier_difference_go").is_disabled()

    fill_in(page, page.locator("#guide_copier_steps"), "2")
    press(page, "train")
    until(page, lambda: is_done(page, "train"), 600)
    assert page.locator("[data-part=after] .gd-state").inner_text() == "done"
    press(page, "difference")
    until(page, lambda: is_done(page, "difference"), 300)
    fill_in(page, page.locator("#guide_copier_prompts"), "bear")
    press(page, "grid")
    until(page, lambda: is_done(page, "grid"), 600)
    page.wait_for_selector("#guide_copier .gd-grids img")

    page.reload()
    page.wait_for_selector("#job_pill .jp")
    open_tab(page, "guide")
    page.click("#guide_copier_title > button")
    page.wait_for_selector("[data-copier=save][aria-current=step]")
    until(page, lambda: picture_box(page, "after").input_value() == str(pair / "後.png"))
    page.select_option("#guide_copier_layer_names", "OUTALL")
    assert page.locator("#guide_copier_layers").input_value() == "OUTALL"
    press(page, "difference")
    until(page, lambda: "リボン-2" in page.inner_text("[data-part=difference]"), 300)
    press(page, "save")
    until(page, lambda: is_done(page, "save"))
    page.click("#guide_copier_send")
    page.wait_for_selector("#handover_dialog", state="visible")

    saved = real_app.home / "output" / "リボン.safetensors"
    assert identify(saved).kind == "lora"
    trained = [read_job_settings(run.settings) for run in list_runs(real_app.root) if run.path not in earlier]
    seeds = {settings.train.seed for settings in trained if hasattr(settings, "train")}
    assert len(seeds) == 1
    assert sorted(path.name for path in pair.iterdir()) == ["wide.png", "前.png", "後.png"]
    assert visit.errors == []
    assert visit.foreign == []
