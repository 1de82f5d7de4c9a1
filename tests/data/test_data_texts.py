"""Every sentence about data exists in every language, with the same blanks to fill in, and is used."""

import re
import string
from pathlib import Path

import pytest

import lora_core
from lora_core.i18n import LANGUAGES, catalogue

ROOT = Path(lora_core.__file__).parent
KEYS = sorted(key for key in catalogue("en") if key.startswith(("data.", "plan.")))


def blanks(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_same_keys(language):
    assert sorted(key for key in catalogue(language) if key.startswith(("data.", "plan."))) == KEYS


@pytest.mark.parametrize("key", KEYS)
def test_the_same_blanks(key):
    assert len({frozenset(blanks(catalogue(language)[key])) for language in LANGUAGES}) == 1


def test_the_code_and_the_catalogue_agree():
    sources = "".join(path.read_text(encoding="utf-8") for path in [*(ROOT / "data").glob("*.py"), ROOT / "plan.py"])
    used = set(re.findall(r'"((?:data|plan)\.\w+)"', sources))
    variants = {f"{key}{ending}" for key in used for ending in ("_one", "_more")} & set(KEYS)
    assert used | variants == set(KEYS)
