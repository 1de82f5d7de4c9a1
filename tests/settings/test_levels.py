"""How much a page shows: the tables name settings that there are, and each level is as long as it should be."""

import pytest

from lora_core.settings import RunSettings
from lora_core.settings.applies import belongs
from lora_core.settings.fields import chooser_of, fields_of, unions_of, values_of
from lora_core.settings.levels import BEGINNER, LEVELS, STANDARD, is_shown_at, level_of

FIELDS = fields_of()


def test_the_tables_name_settings_and_share_none():
    assert FIELDS.keys() >= BEGINNER | STANDARD
    assert not BEGINNER & STANDARD


@pytest.mark.parametrize("path", FIELDS)
def test_every_setting_has_a_level_and_is_shown_from_there_on(path):
    shown = [is_shown_at(path, level) for level in LEVELS]
    assert shown == sorted(shown)
    assert LEVELS[shown.index(True)] == level_of(path)


@pytest.mark.parametrize(("level", "least", "most"), [("beginner", 10, 14), ("standard", 32, 44)])
@pytest.mark.parametrize("family", unions_of()["model"])
def test_a_level_is_as_long_as_it_should_be(level, least, most, family):
    values = values_of(RunSettings.model_validate({"model": {"family": family}}))
    shown = [path for path in FIELDS if belongs(path, values) and is_shown_at(path, level)]
    assert least <= len(shown) <= most


def test_what_chooses_a_variant_is_no_experts_setting():
    assert not [chooser_of(section) for section in unions_of() if level_of(chooser_of(section)) == "expert"]
