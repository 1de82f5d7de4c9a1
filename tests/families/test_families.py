"""What holds for every model family."""

import subprocess
import sys

import pytest

from lora_core.families import FAMILIES
from lora_core.settings.fields import unions_of


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_known_by_its_own_name(name: str):
    assert FAMILIES[name].name == name


def test_every_model_type_of_the_form_has_a_family():
    assert set(FAMILIES) == set(unions_of()["model"])


def test_the_table_of_families_needs_no_torch():
    code = "import sys, lora_core.families as f; assert list(f.FAMILIES); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_family_is_a_key_error():
    with pytest.raises(KeyError):
        FAMILIES["sd9"]
