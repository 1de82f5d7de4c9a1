"""SDXL and FLUX.1 in a real browser: presets, fields that do not apply, the model type that follows, a training."""

import pytest
from PIL import Image

from lora_core import jobs
from lora_core.events import RunFinished, SampleSaved
from lora_core.settings.fields import choice_label, fields_of
from lora_core.settings.presets import find_preset
from tests.browser.test_calm_page import box, form, is_seen, open_tab, set_level  # noqa: F401  form is a fixture
from tests.browser.test_end_to_end import fill, keys_of, newest, percent, wait_for
from tests.browser.waiting import until
from tests.models_sdxl import tiny_file

TABS = {
    "model.clip_skip": "source_model",
    "model.max_token_length": "source_model",
    "model.prediction_type": "source_model",
    "model.clip_l": "source_model",
    "model.t5": "source_model",
    "model.guidance": "source_model",
    "train.text_encoder_2_lr": "parameters",
    "loss.min_snr_gamma": "parameters",
    "noise.zero_terminal_snr": "parameters",
    "noise.timestep_sampling": "parameters",
}
"""Fields that count for some families only, and the tab that each stands on."""
SD = {"model.max_token_length", "model.prediction_type", "loss.min_snr_gamma", "noise.zero_terminal_snr"}
SEEN = {
    "sd15_character": SD | {"model.clip_skip"},
    "sdxl_24gb": SD | {"train.text_encoder_2_lr"},
    "flux_character": {"model.clip_l", "model.t5", "model.guidance", "noise.timestep_sampling"},
}
"""Preset -> which of these are there. All others are not."""


def open_parts(page, tab: str) -> None:
    """Unfolds whatever is folded away on a tab."""
    closed = page.locator(f"#tab_{tab} .kb-advanced > button.label-wrap:not(.open):visible")
    while closed.count():
        closed.first.click()
        page.wait_for_timeout(50)


def choose_preset(page, name: str) -> None:
    page.click("#preset input")
    page.get_by_role("option").filter(has_text=find_preset(name).title("en")).first.click()


def shown(page, path: str, value):
    """What a field shows, as the kind of value that is expected of it."""
    if isinstance(value, bool):
        return box(page, path).is_checked()
    found = box(page, path).input_value()
    return float(found or "nan") if isinstance(value, int | float) and not fields_of()[path].choices else found


def check_shows(page, path: str, value) -> None:
    """Waits until a field shows a value as a person sees it."""
    wanted = choice_label(path, value, "en") if fields_of()[path].choices else value
    try:
        until(page, lambda: shown(page, path, value) == wanted)
    except AssertionError:
        raise AssertionError(f"{path}: {shown(page, path, value)!r}, not {wanted!r}") from None


def seen_of(page) -> set[str]:
    """Which of the fields above can be seen, all parts unfolded."""
    found = set()
    for tab in dict.fromkeys(TABS.values()):
        open_tab(page, tab)
        open_parts(page, tab)
        found |= {path for path, place in TABS.items() if place == tab and is_seen(page, path)}
    return found


def test_a_preset_fills_the_form_and_what_does_not_apply_vanishes(form, visit):  # noqa: F811
    page = form()
    set_level(page, "expert")
    for name, expected in SEEN.items():
        choose_preset(page, name)
        open_tab(page, "source_model")
        open_parts(page, "source_model")
        values = find_preset(name).values
        check_shows(page, "model.family", values["model.family"])
        until(page, lambda expected=expected: seen_of(page) == expected)
        for path, value in values.items():
            if fields_of()[path].section in ("network", "optimizer", "schedule", "train", "loss", "noise"):
                check_shows(page, path, value)
    assert visit.errors == []


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "画像" / "2_usu bear"
    folder.mkdir(parents=True)
    for i in range(2):
        Image.radial_gradient("L").resize((64, 64)).convert("RGB").rotate(40 * i).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("usu bear, red", encoding="utf-8")
    return folder.parent


def test_the_model_type_follows_an_sdxl_file_which_is_trained_to_the_end(
    real_app, open_page, show_monitor, visit, tmp_path, pictures
):
    model = tiny_file(tmp_path / "小さな model.safetensors", "sdxl")
    page = open_page(url=real_app.url)
    open_parts(page, "source_model")
    assert box(page, "model.family").input_value() == "Stable Diffusion 1.x"
    assert is_seen(page, "model.clip_skip")
    fill(page, "model.base", str(model))
    check_shows(page, "model.family", "sdxl")
    until(page, lambda: not is_seen(page, "model.clip_skip"))
    until(page, lambda: "SDXL" in page.inner_text("#kb_steps"))

    choose_preset(page, "sdxl_character")
    open_tab(page, "parameters")
    check_shows(page, "train.train_text_encoder", False)
    assert box(page, "model.base").input_value() == str(model)
    fill(page, "dataset.resolution", "64")
    fill(page, "train.max_train_steps", "3")
    open_tab(page, "folders")
    fill(page, "dataset.train_dir", str(pictures))
    fill(page, "save.output_dir", str(tmp_path / "out"))
    fill(page, "save.output_name", "usu_xl")
    open_tab(page, "samples")
    fill(page, "sample.prompts", "usu bear --w 64 --h 64 --s 2")
    page.click("#train_button")
    page.wait_for_selector("#monitor_status .rs:visible, #kb_problems li:visible, #kb_problems a:visible")
    assert page.is_visible("#monitor_status .rs"), page.inner_text("#kb_problems")

    run = newest(real_app)
    wait_for(page, run, lambda: page.locator("#monitor_status .rs[data-state=finished]").count())
    assert percent(page) == 100
    until(page, lambda: "usu_xl.safetensors" in page.inner_text("#monitor_files"))
    drawn = sum(isinstance(event, SampleSaved) for event in run.read_events())
    assert drawn
    until(page, lambda: page.locator("#sample_gallery .sg-item img").count() == drawn)
    final = jobs.last_event(run, (RunFinished,)).path
    assert final == tmp_path / "out" / "usu_xl.safetensors"
    names = keys_of(final)
    assert any(name.startswith("lora_unet_input_blocks_") for name in names)
    assert not any(name.startswith("lora_te") for name in names)
    assert visit.errors == []
    assert visit.foreign == []
