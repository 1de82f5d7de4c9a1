"""Presets, recent settings and names for saving."""

from pathlib import Path

import pytest

from app.widgets.preset_dialog import preset_choices
from app.widgets.settings_bar import is_pasted, kohya_report, recent_choices, save_name
from lora_core.i18n import LANGUAGES
from lora_core.runs import create_run
from lora_core.settings import RunSettings
from lora_core.settings.files import remember, save_settings
from lora_core.settings.kohya import import_tree
from lora_core.settings.overlay import with_values
from lora_core.settings.own_presets import save_preset, values_for
from lora_core.settings.presets import find_preset, list_presets


@pytest.mark.parametrize("language", LANGUAGES)
def test_presets_are_offered_with_their_purpose(language):
    choices = preset_choices(language)
    assert [name for _, name in choices] == ["", *(preset.name for preset in list_presets())]
    assert all(words.strip() for words, _ in choices)


def test_own_presets_come_first_with_a_star():
    chosen = ["train"]
    settings = with_values(RunSettings(), {"train.epochs": 3})
    values = values_for(settings, chosen, everything=False, yours=False)
    save_preset("くま用", "", values, chosen)
    assert preset_choices("ja")[1] == ("★ くま用", "くま用")
    assert find_preset("くま用").values == {"train.epochs": 3}


def test_a_run_is_called_by_its_folder():
    run = create_run(RunSettings())
    remember(run.settings)
    assert recent_choices() == [(run.path.name, str(run.settings))]


@pytest.mark.parametrize("name", ["my_lora", "a/b:c", "", "  ", "くま"])
def test_a_name_to_save_under_is_free(name):
    first = Path(save_name(name))
    assert first.suffix == ".toml"
    save_settings(RunSettings(), first)
    second = Path(save_name(name))
    assert second != first
    assert second.parent == first.parent


def test_what_became_of_a_kohya_file_is_folded_away_and_escaped():
    told = import_tree(
        {"LoRA_type": "Standard", "max_resolution": "512", "<b>": "<script>"}, "a<b>.json", lambda _: False
    )
    html = kohya_report(told, "ja")
    assert html.startswith('<details class="kb-kohya"><summary>')
    assert "<script>" not in html
    assert "<b>" not in html
    assert kohya_report(None, "en") == ""


def test_a_pasted_command_is_no_path():
    assert is_pasted("accelerate launch train_network.py --network_dim 8")
    assert not is_pasted("/home/me/train_network.toml")
    assert not is_pasted(None)
