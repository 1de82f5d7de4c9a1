"""Kohya's keys: each one is accounted for, and nothing is dropped."""

import pytest

from lora_core.i18n import LANGUAGES, catalogue
from lora_core.settings.fields import fields_of
from lora_core.settings.kohya import import_tree, report
from lora_core.settings.kohya.needs import NEEDS
from lora_core.settings.kohya.table import ABSENT, ALIASES, OLD, ROWS
from tests.settings.kohya_files import KEYS, SCRIPTS, entry, gui, nothing, scripts


def test_the_table_holds_every_key_of_the_gui_with_its_default():
    assert {k: row.gui for k, row in ROWS.items() if row.gui is not ABSENT and k in KEYS["gui"]} == KEYS["gui"]
    assert set(KEYS["legacy"]) <= ROWS.keys() | OLD.keys()


def test_the_table_holds_every_option_of_train_network_with_its_default():
    names = {name: ALIASES.get(name, name) for name in KEYS["train_network"]}
    own = {"network_args", "network_module", "caption_extention"}  # taken apart, or an old spelling
    differing = {
        name: ROWS[key].scripts
        for name, key in names.items()
        if name not in own and ROWS[key].scripts != KEYS["train_network"][name]
    }
    assert not differing


@pytest.mark.parametrize("odd", [False, True], ids=["defaults", "everything changed"])
def test_every_key_of_the_gui_is_told_once(odd):
    values = KEYS["gui"] | dict.fromkeys(KEYS["legacy"])
    values = {key: changed(value) for key, value in values.items()} if odd else values
    found = [e.key for e in import_tree(values, "x", nothing).entries if e.given]
    assert sorted(found) == sorted(values)


@pytest.mark.parametrize("scope", ["train_network", "other_scripts"])
def test_every_option_of_sd_scripts_is_told_once(scope):
    options = dict.fromkeys(KEYS[scope], "1")
    options = {k: v for k, v in options.items() if k not in ("network_args", "network_module", "dataset_config")}
    found = [e.key for e in scripts(**options).entries if e.given]
    assert sorted(found) == sorted(options | SCRIPTS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_entry_has_its_sentence(language):
    told = import_tree({key: changed(value) for key, value in KEYS["gui"].items()}, "x", nothing)
    for e in told.entries:
        assert e.message(language) or e.group == "mapped", e
        assert "{" not in e.message(language)
    assert len(report.lines(told, language)) > 20


@pytest.mark.parametrize("value", [{}, {"a": {"b": 1}}, [{}], "'"], ids=str)
def test_a_key_of_a_wrong_kind_is_told_as_any_other(value):
    for name in ("gui", "train_network"):
        values = dict.fromkeys(KEYS[name].keys() - {"network_args", "additional_parameters"}, value)
        told = import_tree(values | ({"LoRA_type": "Standard"} if name == "gui" else {}), "x", nothing)
        assert {e.key for e in told.entries if e.given} >= values.keys() - {"network_module"}


def test_every_topic_has_a_sentence():
    words = catalogue("en")
    topics = {row.topic for row in ROWS.values() if row.topic}
    assert not {t for t in topics if f"kohya.todo.{t}" not in words and f"kohya.idle.{t}" not in words}
    assert {row.needs for row in ROWS.values() if row.needs} <= NEEDS.keys()


def test_a_kohya_name_of_a_field_leads_to_it():
    assert {f.kohya for f in fields_of().values() if f.kohya} <= ROWS.keys()


def test_a_field_that_is_added_takes_its_key_without_a_line_in_the_table(monkeypatch):
    """Stands for a later version: the same field under the Kohya name of an option that is not here yet."""
    from dataclasses import replace

    fields = dict(fields_of())
    fields["noise.noise_offset"] = replace(fields["noise.noise_offset"], kohya="ip_noise_gamma")
    for module in ("draft", "rules"):
        monkeypatch.setattr(f"lora_core.settings.kohya.{module}.fields_of", lambda: fields, raising=False)
    told = gui(ip_noise_gamma=0.2)
    assert entry(told, "ip_noise_gamma").path == "noise.noise_offset"
    assert told.settings.noise.noise_offset == 0.2


def changed(value):
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else f"{value or ''}x"
