"""Any legal settings survive every way they are written down: TOML, JSON, overrides, a change of variant and back."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lora_core.checks import combination_problems
from lora_core.i18n import LANGUAGES
from lora_core.settings import RunSettings
from lora_core.settings.fields import SettingField, chooser_of, fields_of, unions_of, values_of
from lora_core.settings.files import load_settings, save_settings
from lora_core.settings.overlay import apply_fix, apply_overrides, nest, settings_from, with_values
from lora_core.settings.presets import apply_preset, list_presets

few = hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

_TEXTS = {
    "save.output_name": st.sampled_from(["my_lora", "くま 2", "a.b-c"]),
    "dataset.resolution": st.sampled_from(["512", "600,900", "64,64"]),
    "schedule.step_rules": st.sampled_from(["1", "1:500,0.1", "1:50%,0.3:80%,0.1"]),
    "validation.fold": st.sampled_from(["", "1/2", "4/4", "20/20"]),
    "optimizer.args": st.sampled_from(["", "betas=(0.9,0.99) eps=1e-8", "mode=fast"]),
}
_FOLDERS = ["/data", "/絵/うす くま", "C:\\Users\\usu bear\\new", "relative/folder", '/it\'s "here"/x']
_ODD_TEXTS = ['"""', "a\nb\n", "\n", "\\n", "# no\r\ncomment", "'''", "none", "", "{demo}", "a=b, c"]


def values_for(field: SettingField) -> st.SearchStrategy[Any]:
    """Legal values of one setting."""
    if field.path in _TEXTS:
        return _TEXTS[field.path]
    by_kind = {
        "choice": lambda: st.sampled_from(field.choices),
        "switch": st.booleans,
        "path": lambda: st.sampled_from(_FOLDERS).map(Path),
        "text": lambda: st.text(max_size=40) | st.sampled_from(_ODD_TEXTS),
        "integer": lambda: st.integers(int(field.minimum or 0), int(field.maximum or 10**6)),
        "number": lambda: st.floats(
            field.minimum,
            field.maximum if field.maximum is not None else 1e6,
            exclude_min=field.open_minimum,
            exclude_max=field.open_maximum,
        ),
    }
    values = by_kind[field.kind]()
    return st.none() | values if field.optional else values


@st.composite
def any_values(draw: st.DrawFn) -> dict[str, Any]:
    """Legal changes to the default settings, by dotted path."""
    chosen = {section: draw(st.sampled_from(list(variants))) for section, variants in unions_of().items()}
    values: dict[str, Any] = {chooser_of(section): variant for section, variant in chosen.items()}
    for path in draw(st.sets(st.sampled_from(list(fields_of())), max_size=12)):
        field = fields_of()[path]
        if not field.is_discriminator and (not field.variants or chosen[field.section] in field.variants):
            values[path] = draw(values_for(field))
    return values


any_settings = any_values().map(lambda values: settings_from(nest(values), "drawn"))


@pytest.mark.parametrize("ending", [".toml", ".json"])
@few
@given(settings=any_settings)
def test_a_file_gives_back_the_settings_written_to_it(settings, ending, tmp_path):
    path = save_settings(settings, tmp_path / f"設定{ending}", overwrite=True)
    assert load_settings(path) == settings


@few
@given(settings=any_settings)
def test_values_by_path_are_the_settings(settings):
    assert settings_from(nest(values_of(settings)), "") == settings
    assert with_values(RunSettings(), values_of(settings)) == settings


@few
@given(values=any_values())
def test_overrides_as_text_do_what_the_values_do(values):
    texts = {path: "none" if value is None else str(value) for path, value in values.items()}
    plain = {path: text for path, text in texts.items() if text == text.strip()}
    settings = apply_overrides(RunSettings(), [f"{path}={text}" for path, text in plain.items()])
    assert settings == with_values(RunSettings(), {path: values[path] for path in plain})


@few
@given(settings=any_settings, name=st.sampled_from(sorted(unions_of()["optimizer"])))
def test_another_optimizer_keeps_all_other_sections(settings, name):
    switched = with_values(settings, {"optimizer.name": name})
    assert switched.optimizer.name == name
    assert switched.model_copy(update={"optimizer": settings.optimizer}) == settings


@few
@given(settings=any_settings)
def test_every_finding_is_a_sentence_and_every_fix_cures_it(settings):
    for problem in combination_problems(settings):
        assert problem.path in fields_of()
        assert all(problem.message(language).strip() for language in LANGUAGES)
        if problem.fix:
            cured = combination_problems(apply_fix(settings, problem))
            assert (problem.path, problem.key) not in {(other.path, other.key) for other in cured}


@few
@given(settings=any_settings, preset=st.sampled_from(list_presets()))
def test_a_preset_applies_to_any_settings_and_only_once_counts(settings, preset):
    once = apply_preset(settings, preset)
    assert apply_preset(once, preset) == once
    for path, value in preset.values.items():
        assert values_of(once)[path] == _typed(path, value)


def _typed(path: str, value: Any) -> Any:
    return values_of(with_values(RunSettings(), _with_variant(path) | {path: value}))[path]


def _with_variant(path: str) -> dict[str, Any]:
    field = fields_of()[path]
    return {chooser_of(field.section): field.variants[-1]} if field.variants and not field.is_discriminator else {}
