"""A concept slider of prompts or folders: the preset for every family, and nothing of another training left."""

import pytest
from PIL import Image

from lora_core.checks import combination_problems
from lora_core.cli import main
from lora_core.errors import UserError
from lora_core.guides.slider import Wish, settings_for
from lora_core.plan import preview
from lora_core.settings import RunSettings
from lora_core.settings.files import load_settings
from lora_core.settings.overlay import with_values

HAPPY = Wish("bear", "happy bear", "sad bear", keep="old\nyoung")


@pytest.fixture
def folders(tmp_path):
    for name, start in (("less", 0), ("more", 5)):
        (tmp_path / name).mkdir()
        for number in range(start, start + 3):
            Image.new("RGB", (64, 64), (40 * number, 0, 0)).save(tmp_path / name / f"{number}.png")
    return tmp_path / "less", tmp_path / "more"


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "flux"])
def test_every_family_trains_the_prompts_alone(tmp_path, family):
    page = with_values(
        RunSettings(),
        {
            "model.family": family,
            "dataset.config": tmp_path / "other.toml",
            "dataset.pair_before": tmp_path / "a.png",
            "dataset.trigger_words": "usu",
            "validation.every_n_epochs": 1,
        },
    )
    settings = settings_for(HAPPY, page)
    assert combination_problems(settings) == []
    assert settings.draws_its_pictures
    assert settings.model.family == family
    assert (settings.slider.more, settings.slider.keep) == ("happy bear", "old\nyoung")
    assert (settings.sample.prompts, settings.save.output_name) == ("bear", "slider_happy_bear")
    assert preview(settings).plan.total_steps == 160


def test_flux_is_trained_with_the_guidance_it_is_used_with():
    settings = settings_for(HAPPY, with_values(RunSettings(), {"model.family": "flux"}))
    assert settings.model.guidance == settings.sample.guidance == 3.5


def test_folders_take_the_place_of_prompts(folders):
    page = with_values(RunSettings(), {"slider.target": "cat", "slider.more": "big cat", "slider.less": "small cat"})
    settings = settings_for(Wish("bear", folder_less=folders[0], folder_more=folders[1]), page)
    assert combination_problems(settings) == []
    assert not settings.slider.is_on
    assert (settings.dataset.pair_before, settings.dataset.pair_after) == folders
    assert (settings.dataset.trigger_words, settings.save.output_name) == ("bear", "slider_more")


def test_prompts_of_the_page_stay():
    page = with_values(RunSettings(), {"sample.prompts": "a bear in the snow"})
    assert settings_for(HAPPY, page).sample.prompts == "a bear in the snow"


def test_what_is_no_slider_is_refused(folders, tmp_path):
    bad = {
        "guides.slider_target": Wish("", "happy bear", "sad bear"),
        "checks.slider_more": Wish("bear", " ", "sad bear"),
        "checks.slider_less": Wish("bear", "happy bear"),
        "checks.slider_same": Wish("bear", "happy bear", " happy bear "),
        "guides.slider_folders": Wish(folder_less=folders[0]),
        "data.sets_same": Wish(folder_less=folders[0], folder_more=folders[0]),
    }
    for key, wish in bad.items():
        with pytest.raises(UserError) as refused:
            settings_for(wish, RunSettings())
        assert refused.value.key == key


def test_the_terminal_writes_settings_that_train(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUMAKOBO_LANG", "en")
    path = tmp_path / "mine.toml"
    words = ("slider", "bear", "--more", "blue bear", "--less", "red bear", "--base", "built-in", "--output", path)
    assert main([*map(str, words), "--keep", "old", "--keep", "young"]) == 0
    settings = load_settings(path)
    assert (settings.slider.less, settings.slider.keep) == ("red bear", "old\nyoung")
    assert (settings.dataset.resolution, settings.sample.guidance) == ("64", 3.0)
    kept = path.read_bytes()
    assert main([*map(str, words)]) == 2
    assert path.read_bytes() == kept
    assert main(["slider", "bear", "--more", "blue bear"]) == 2
    assert "no prompt for less" in capsys.readouterr().err
