"""The list of settings that everything else is derived from."""

import subprocess
import sys

import pytest

from lora_core.i18n import LANGUAGES, catalogue
from lora_core.settings import RunSettings
from lora_core.settings.fields import (
    choice_label,
    chooser_of,
    fields_of,
    help_text,
    label,
    section_label,
    unions_of,
    values_of,
)
from lora_core.settings.overlay import nest, settings_from
from lora_core.settings.problems import SettingsError

FIELDS = fields_of()
UNIONS = unions_of()


def test_settings_of_each_section_stand_together_in_declared_order():
    sections = [field.section for field in FIELDS.values()]
    assert list(dict.fromkeys(sections)) == [name for name in RunSettings.model_fields if name != "version"]
    assert sections == sorted(sections, key=list(dict.fromkeys(sections)).index)


def test_the_choice_of_a_variant_comes_before_its_settings():
    for section, variants in UNIONS.items():
        header = next(field for field in FIELDS.values() if field.section == section)
        assert header.is_discriminator
        assert header.choices == tuple(variants)


@pytest.mark.parametrize("path", FIELDS)
def test_a_field_knows_the_default_of_the_model(path):
    values = values_of(RunSettings())
    if path in values:
        assert FIELDS[path].default == values[path]


@pytest.mark.parametrize(("section", "variant"), [(s, v) for s, variants in UNIONS.items() for v in variants])
def test_a_variant_has_exactly_the_fields_that_name_it(section, variant):
    settings = settings_from(nest({chooser_of(section): variant}), "")
    having = {path: f for path, f in FIELDS.items() if f.section == section and variant in f.variants}
    values = {path: value for path, value in values_of(settings).items() if path.startswith(f"{section}.")}
    assert values.keys() == having.keys()
    assert values == {path: field.defaults[variant] for path, field in having.items()}


LIMITED = [path for path, f in FIELDS.items() if f.minimum is not None or f.maximum is not None]


@pytest.mark.parametrize("path", LIMITED)
def test_limits_are_those_that_are_enforced(path):
    field = FIELDS[path]
    inside, outside = _at_the_limits(field)
    for value in inside:
        _set(path, value)
    for value in outside:
        with pytest.raises(SettingsError) as caught:
            _set(path, value)
        assert [problem.path for problem in caught.value.problems] == [path]


@pytest.mark.parametrize("path", FIELDS)
def test_not_set_is_allowed_exactly_where_the_field_is_optional(path):
    if FIELDS[path].optional:
        _set(path, None)
    else:
        with pytest.raises(SettingsError):
            _set(path, None)


@pytest.mark.parametrize("path", [path for path, f in FIELDS.items() if f.choices])
def test_every_choice_is_accepted(path):
    for value in FIELDS[path].choices:
        _set(path, value)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("path", FIELDS)
def test_every_setting_has_label_and_help(path, language):
    assert label(path, language).strip()
    assert "\n" not in help_text(path, language).strip()
    assert help_text(path, language).rstrip().endswith((".", "。", ")", "か。", "から。", "99)"))


def test_japanese_texts_are_of_settings_that_exist():
    expected = {f"{path}.{kind}" for path in FIELDS for kind in ("label", "help")}
    found = {key for key in catalogue("ja") if key.endswith((".label", ".help")) and key.split(".")[0] in _sections()}
    assert found == expected


def test_english_texts_of_settings_stand_in_the_code_only():
    stray = {key for key in catalogue("en") if key.removesuffix(".label").removesuffix(".help") in FIELDS}
    assert stray == {f"{chooser_of(section)}.help" for section in UNIONS}


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_of_choices_are_of_choices_that_exist(language):
    named = {key for key in catalogue(language) if ".choice." in key and key.split(".")[0] in _sections()}
    assert named <= {f"{path}.choice.{value}" for path, f in FIELDS.items() for value in f.choices}
    assert choice_label("optimizer.name", "AdamW", language).startswith("AdamW")
    assert choice_label("train.adapter_precision", "bf16", language) == "bf16"


def test_labels_of_a_section_differ():
    for language in LANGUAGES:
        for section in _sections():
            labels = [label(path, language) for path, f in FIELDS.items() if f.section == section]
            assert len(set(labels)) == len(labels), (language, section)
            assert section_label(section, language)


def test_japanese_labels_are_not_the_english_ones():
    same = {path for path in FIELDS if label(path, "ja") == label(path, "en")}
    names = {"model.vae", "model.clip_skip", "model.clip_l", "model.t5", "loss.min_snr_gamma"}
    names |= {"loss.huber_c", "loss.huber_scale", "loss.debiased_estimation_loss", "noise.adaptive_noise_scale"}
    names |= {"noise.zero_terminal_snr"}
    assert same == names  # what is called the same in Japanese


def test_kohya_names_are_given_once():
    names = [field.kohya for field in FIELDS.values() if field.kohya]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("module", ["fields", "files", "presets", "overlay", "problems"])
def test_the_settings_can_be_read_without_torch(module):
    code = f"import lora_core.settings.{module}, lora_core.checks, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _sections() -> set[str]:
    return {field.section for field in FIELDS.values()}


def _set(path: str, value: object) -> RunSettings:
    field = FIELDS[path]
    variant = {chooser_of(field.section): field.variants[0]} if field.variants else {}
    return settings_from(nest(variant | {path: value}), "test")


def _at_the_limits(field) -> tuple[list[float], list[float]]:
    """Values just inside and just outside of what is allowed."""
    step = 1 if field.kind == "integer" else 1e-9
    inside, outside = [], []
    if field.minimum is not None:
        inside.append(field.minimum + (step if field.open_minimum else 0))
        outside.append(field.minimum - (0 if field.open_minimum else step))
    if field.maximum is not None:
        inside.append(field.maximum - (step if field.open_maximum else 0))
        outside.append(field.maximum + (0 if field.open_maximum else max(step, field.maximum * 1e-9)))
        outside[-1] = int(outside[-1]) if field.kind == "integer" else outside[-1]
    if field.kind == "integer" and field.maximum is not None:
        outside[-1] = int(field.maximum) + 1
    return inside, outside
