"""Every preset parses, applies, keeps what is the user's, and its numbers are right."""

import re

import pytest

from lora_core.checks import combination_problems
from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES
from lora_core.settings import RunSettings
from lora_core.settings.fields import fields_of, values_of
from lora_core.settings.files import load_settings, save_settings
from lora_core.settings.overlay import with_values
from lora_core.settings.presets import FOLDER, apply_preset, find_preset, lay_over, list_presets, read_preset
from lora_core.settings.problems import SettingsError

PRESETS = list_presets()
each = pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
not_demo = pytest.mark.parametrize("preset", [p for p in PRESETS if p.name != "demo"], ids=lambda preset: preset.name)
MINE = {
    "model.base": "/models/mine.safetensors",
    "dataset.train_dir": "/pictures/mine",
    "dataset.reg_dir": "/pictures/others",
    "save.output_dir": "/loras",
    "save.output_name": "mine",
    "save.author": "me",
    "sample.prompts": "mine --d 3",
    "train.device": "cpu",
}


def test_the_presets_of_the_first_page_are_there():
    names = [preset.name for preset in PRESETS]
    assert names[0] == "demo"
    assert {"sd15_character", "sd15_style", "sd15_object", "sd15_low_memory", "sd15_prodigy"} <= set(names)
    assert len({preset.order for preset in PRESETS}) == len(PRESETS)


@each
def test_the_file_of_a_preset_loads_as_settings_do(preset):
    loaded = load_settings(FOLDER / f"{preset.name}.toml")
    assert loaded == apply_preset(RunSettings(), preset)
    assert loaded != RunSettings()


@each
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_preset_says_for_whom_it_is(preset, language):
    assert preset.title(language).strip()
    assert len(preset.purpose(language)) < 140


@each
def test_a_preset_applies_and_fits_together(preset):
    settings = apply_preset(RunSettings(), preset)
    assert combination_problems(settings) == []
    assert settings != RunSettings()


@each
def test_a_preset_holds_only_what_it_says(preset):
    changed = {
        path for path, value in values_of(apply_preset(RunSettings(), preset)).items() if _default(path) != value
    }
    of_variants = {path for path, field in fields_of().items() if field.variants}
    assert changed <= preset.values.keys() | of_variants


@each
@pytest.mark.parametrize("ending", [".toml", ".json"])
def test_a_preset_survives_saving_and_loading(preset, ending, tmp_path):
    settings = apply_preset(RunSettings(), preset)
    assert load_settings(save_settings(settings, tmp_path / f"a{ending}")) == settings


@not_demo
def test_what_is_the_users_stays(preset):
    applied = values_of(apply_preset(with_values(RunSettings(), MINE), preset))
    mine = values_of(with_values(RunSettings(), MINE))
    assert {path: applied[path] for path in MINE} == {path: mine[path] for path in MINE}


@not_demo
def test_the_outcome_does_not_depend_on_the_preset_before(preset):
    for before in PRESETS:
        assert apply_preset(apply_preset(RunSettings(), before), preset) == apply_preset(RunSettings(), preset)


@each
def test_a_preset_laid_over_settings_changes_only_what_it_names(preset):
    before = with_values(RunSettings(), {"train.max_grad_norm": 0.5, "dataset.caption_prefix": "my "})
    after = values_of(lay_over(before, preset))
    changed = {path for path, value in values_of(before).items() if path in after and after[path] != value}
    assert changed <= preset.values.keys() | {path for path, field in fields_of().items() if field.variants}


@each
def test_the_arithmetic_in_the_comments_is_that_of_the_settings(preset):
    """N images x R repeats x E epochs / batch B [x accumulation A] = S steps."""
    comments = (FOLDER / f"{preset.name}.toml").read_text(encoding="utf-8").replace(",", "")
    number = r"([\d.]+)"
    product = rf"{number} images x {number} repeats x {number} epochs"
    pattern = rf"{product} / batch {number}(?: x accumulation {number})? = {number} steps"
    (found,) = re.findall(pattern, comments)
    images, repeats, epochs, batch, accumulation, steps = (float(part or 1) for part in found)
    train = apply_preset(RunSettings(), preset).train
    assert (epochs, batch) == (train.epochs, train.train_batch_size)
    assert accumulation == train.gradient_accumulation_steps
    assert steps == images * repeats * epochs / batch / accumulation
    assert preset.steps == steps  # what a guide aims at


def test_the_demo_finds_its_model_and_pictures():
    settings = apply_preset(RunSettings(), find_preset("demo"))
    assert settings.model.base == "built-in"
    pictures = [*settings.dataset.train_dir.glob("20_usu bear/*.png")]
    assert len(pictures) >= 15
    assert settings.sample.prompts.strip()


def test_the_demo_writes_into_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path))
    assert apply_preset(RunSettings(), find_preset("demo")).save.output_dir == tmp_path / "output" / "demo"


def test_an_unknown_preset_is_answered_with_those_there_are():
    with pytest.raises(UserError, match="sd15_character"):
        find_preset("nothing")


def test_a_preset_without_a_header_is_refused(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("[train]\nepochs = 1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"name\.en"):
        read_preset(path)


def test_a_preset_with_a_slip_is_refused(tmp_path):
    path = tmp_path / "a.toml"
    head = '[preset]\nname.en="a"\nname.ja="あ"\nfor.en="a"\nfor.ja="あ"\norder=1\n'
    path.write_text(head + "[train]\nepoch = 1\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"train\.epochs"):
        read_preset(path)


def _default(path: str) -> object:
    return values_of(RunSettings()).get(path, fields_of()[path].default)
