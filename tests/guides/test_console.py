"""``kumakobo first-lora``: a settings file that trains, or words that say why not."""

import pytest
from PIL import Image

from lora_core.cli import main
from lora_core.data.folders import scan
from lora_core.settings.files import load_settings


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUMAKOBO_LANG", "en")
    folder = tmp_path / "絵 folder"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


def first_lora(*words):
    return main(["first-lora", *map(str, words)])


def test_the_settings_written_train_the_pictures(pictures, tmp_path, capsys):
    path = tmp_path / "mine.toml"
    words = (pictures, "--trigger", "usu", "--class", "bear", "--base", "built-in", "--output", path)
    assert first_lora(*words) == 0
    assert "90 steps × 4 epochs = 360 steps" in capsys.readouterr().out
    (subset,) = scan(load_settings(path).dataset).subsets
    assert (subset.folder, subset.repeats, subset.class_tokens) == (pictures, 30, "usu bear")
    kept = path.read_bytes()
    assert first_lora(*words) == 2
    assert path.read_bytes() == kept
    for _ in range(2):
        assert first_lora(*words[:-2]) == 0
    names = {path.name for path in (tmp_path / "home" / "guides" / "usu_bear").iterdir()}
    assert names == {"dataset.toml", "settings.toml", "settings-2.toml"}


def test_what_stands_in_the_way_is_said(pictures, capsys):
    assert first_lora(pictures, "--base", "built-in") == 2
    assert "trigger word" in capsys.readouterr().err
    assert first_lora(pictures, "--trigger", "usu") == 1
    assert "error: Choose a source model" in capsys.readouterr().out
