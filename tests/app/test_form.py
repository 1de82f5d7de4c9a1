"""The form is derived from the settings: every field once, everything comes back as it was put in."""

import math
from typing import Any

import gradio as gr
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app import form as forms
from app.drafts import save_draft
from app.form import Form, belongs, choose_variant, component_for, load_draft, read, read_legal
from app.page import Context
from app.ui import build
from lora_core.i18n import LANGUAGES
from lora_core.settings import RunSettings
from lora_core.settings.fields import (
    SettingField,
    choice_label,
    chooser_of,
    fields_of,
    help_text,
    label,
    unions_of,
    values_of,
)
from lora_core.settings.presets import apply_preset, list_presets
from lora_core.settings.problems import SettingsError

FIELDS = fields_of()
VARIANTS = [(section, variant) for section, variants in unions_of().items() for variant in variants]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> gr.Blocks:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUMAKOBO_HOME", str(tmp_path_factory.mktemp("home")))
        return build(Context())


@pytest.fixture(scope="module")
def components(page: gr.Blocks) -> dict[str, Any]:
    """The components of fields by element id, as often as they stand on the page."""
    found: dict[str, list[Any]] = {}
    for block in page.blocks.values():
        found.setdefault(getattr(block, "elem_id", None) or "", []).append(block)
    return found


def shown(settings: RunSettings) -> dict[str, Any]:
    """What the page holds for these settings, by path."""
    return {path: forms.for_component(FIELDS[path], value) for path, value in forms.values_shown(settings).items()}


@pytest.mark.parametrize("path", FIELDS)
def test_every_field_is_on_the_page_once(components, path):
    assert len(components.get(forms.element_id(path), [])) == 1


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("path", FIELDS)
def test_every_field_has_label_and_help(path, language):
    assert label(path, language).strip()
    assert help_text(path, language).strip()
    assert all(choice_label(path, value, language).strip() for value in FIELDS[path].choices)


def test_a_field_has_one_place():
    with gr.Blocks():
        form = Form()
        form.field("network.rank")
        with pytest.raises(ValueError, match="twice"):
            form.field("network.rank")


def test_defaults_round_trip():
    assert read(shown(RunSettings())) == RunSettings()


@pytest.mark.parametrize("preset", list_presets(), ids=lambda preset: preset.name)
def test_presets_round_trip(preset):
    settings = apply_preset(RunSettings(), preset)
    assert read(shown(settings)) == settings


@pytest.mark.parametrize(("section", "variant"), VARIANTS)
def test_a_variant_shows_its_own_fields_and_reads_them(section, variant):
    values = shown(RunSettings()) | {chooser_of(section): variant}
    values |= choose_variant(values, section)
    model = unions_of()[section][variant]
    visible = {path for path, field in FIELDS.items() if field.section == section and belongs(field, values)}
    assert visible == {f"{section}.{name}" for name in model.model_fields}
    legal = read_legal(values)
    chooser = chooser_of(section)
    assert values_of(legal)[chooser] == variant
    assert {k: v for k, v in values_of(legal).items() if FIELDS[k].section == section and k != chooser} == {
        f"{section}.{name}": info.default for name, info in model.model_fields.items() if f"{section}.{name}" != chooser
    }


def test_choosing_a_variant_keeps_what_was_typed():
    values = shown(RunSettings()) | {"optimizer.name": "Adafactor", "optimizer.weight_decay": 0.05}
    assert choose_variant(values, "optimizer")["optimizer.weight_decay"] == 0.05
    assert choose_variant(values | {"optimizer.weight_decay": 0.01}, "optimizer")["optimizer.weight_decay"] == 0.0


def test_writing_draws_nothing_anew():
    with gr.Blocks():
        form = Form()
        for path in FIELDS:
            form.field(path)
    settings = RunSettings.model_validate({"optimizer": {"name": "Prodigy"}})
    updates = form.write(settings, {})
    assert len(updates) == len(FIELDS)
    assert all(update.keys() == {"value", "__type__"} for update in updates.values())
    shown = {path: update["value"] for path, update in zip(form.components, updates.values(), strict=True)}
    (skipped,) = form.write(settings, shown).values()
    assert "value" not in skipped
    (name,) = form.write(settings, shown | {"optimizer.name": "Lion"}).values()
    assert name["value"] == "Prodigy"


@pytest.mark.parametrize("path", [path for path, field in FIELDS.items() if field.optional])
def test_an_empty_box_is_not_set(path):
    empty = None if FIELDS[path].kind in ("integer", "number") else ""
    variants = FIELDS[path].variants
    chosen = {chooser_of(FIELDS[path].section): variants[0]} if variants else {}
    assert values_of(read(shown(RunSettings()) | chosen | {path: empty}))[path] is None


@pytest.mark.parametrize(
    "path", [path for path, f in FIELDS.items() if f.kind in ("integer", "number") and not f.optional]
)
def test_an_emptied_number_is_a_problem_at_its_field(path):
    values = shown(RunSettings()) | {path: None}
    for section, variants in unions_of().items():
        if FIELDS[path].section == section:
            values |= {chooser_of(section): next(name for name in variants if name in FIELDS[path].variants)}
    with pytest.raises(SettingsError) as error:
        read(values)
    assert [problem.path for problem in error.value.problems] == [path]
    assert "None" not in error.value.problems[0].message("en")


@pytest.mark.parametrize(
    ("path", "typed"),
    [("network.rank", 1.5), ("network.rank", 0), ("train.learning_rate", -1), ("dataset.resolution", "big")],
)
def test_what_is_wrong_is_said_at_the_field_in_both_languages(path, typed):
    values = shown(RunSettings()) | {path: typed}
    with pytest.raises(SettingsError) as error:
        read(values)
    (problem,) = error.value.problems
    assert problem.path == path
    assert problem.message("en") != problem.message("ja")
    assert values_of(read_legal(values))[path] == FIELDS[path].default


def test_whole_numbers_come_as_floats_from_the_browser():
    assert read(shown(RunSettings()) | {"network.rank": 8.0}).network.rank == 8


@pytest.mark.parametrize(
    ("typed", "path"),
    [
        ('"C:\\pictures\\bear"', "C:\\pictures\\bear"),
        ("'/data/20_usu bear'", "/data/20_usu bear"),
        ("file:///data/a%20b", "/data/a b"),
        ("  /data/絵  ", "/data/絵"),
    ],
)
def test_pasted_paths_are_cleaned(typed, path):
    assert str(read(shown(RunSettings()) | {"dataset.train_dir": typed}).dataset.train_dir) == path


def test_tilde_is_home():
    train_dir = read(shown(RunSettings()) | {"dataset.train_dir": "~/bear"}).dataset.train_dir
    assert train_dir is not None
    assert "~" not in str(train_dir)


@pytest.mark.parametrize("path", FIELDS)
def test_components_take_none_of_our_checks_away(path):
    """Gradio would refuse numbers beyond its limits with an English message; limits are ours to check."""
    with gr.Blocks():
        component = component_for(FIELDS[path])
    if isinstance(component, gr.Number):
        assert component.minimum is None
        assert component.maximum is None
        assert component.preprocess(-1e9) == -1e9
        assert component.preprocess(None) is None


def test_a_draft_survives_legal_or_not(tmp_path):
    values = shown(RunSettings()) | {"network.rank": None, "dataset.train_dir": "C:\\絵", "optimizer.name": "Prodigy"}
    save_draft(values, tmp_path / "form.json")
    assert load_draft(tmp_path / "form.json") == values


@pytest.mark.parametrize("kept", ["", "[1]", "{", '{"network.rank": "x", "gone.field": 1, "optimizer.name": "SGD"}'])
def test_a_draft_that_does_not_fit_is_left_out(tmp_path, kept):
    (tmp_path / "form.json").write_text(kept, encoding="utf-8")
    assert load_draft(tmp_path / "form.json") == shown(RunSettings())


def legal_value(field: SettingField) -> st.SearchStrategy[Any]:
    if field.kind == "switch":
        return st.booleans()
    if field.kind == "choice":
        return st.sampled_from(field.choices)
    if field.kind in ("integer", "number"):
        low, high = field.minimum or 0, field.maximum or 1e6
        if field.kind == "integer":
            number: st.SearchStrategy[Any] = st.integers(math.ceil(low), int(high))
        else:
            number = st.floats(low, high, exclude_min=field.open_minimum, exclude_max=field.open_maximum)
        return st.none() | number if field.optional else number
    if field.path in (
        "dataset.resolution",
        "save.output_name",
        "optimizer.args",
        "schedule.step_rules",
        "validation.fold",
    ):
        return st.just(field.default)
    return st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=20)


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_anything_legal_round_trips(data):
    values = {path: data.draw(legal_value(field), label=path) for path, field in FIELDS.items()}
    settings = read(values)
    assert read(shown(settings)) == settings
