"""kumakobo kohya, and kumakobo train with a Kohya file."""

import json
import tomllib
from pathlib import Path

import pytest

from lora_core.cli import main
from lora_core.settings.files import load_settings

KEYS = json.loads((Path(__file__).parent / "data/kohya_keys.json").read_text(encoding="utf-8"))


@pytest.fixture
def kohya(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_LANG", "en")
    path = tmp_path / "kohya.json"
    path.write_text(json.dumps(KEYS["gui"] | {"network_dim": 12, "sample_prompts": "a bear"}), encoding="utf-8")
    return path


def test_the_report_is_printed(kohya, capsys):
    assert main(["kohya", str(kohya)]) == 0
    out = capsys.readouterr().out
    assert "network_dim = 12 → Network rank (dimension): 12" in out


def test_it_becomes_a_file_of_ours_and_goes_back(kohya, tmp_path, capsys):
    ours, theirs, toml = (tmp_path / name for name in ("ours.toml", "theirs.json", "theirs.toml"))
    assert main(["kohya", str(kohya), "-o", str(ours)]) == 0
    assert load_settings(ours).network.rank == 12
    assert main(["kohya", str(ours), "--export", "json", "-o", str(theirs)]) == 0
    assert json.loads(theirs.read_text(encoding="utf-8"))["network_dim"] == 12
    assert main(["kohya", str(ours), "--export", "toml", "-o", str(toml)]) == 0
    prompts = Path(tomllib.loads(toml.read_text(encoding="utf-8"))["sample_prompts"])
    assert prompts.read_text(encoding="utf-8") == "a bear\n"
    assert main(["kohya", str(ours), "--export", "toml", "-o", str(toml)]) == 2  # it is there
    assert "already there" in capsys.readouterr().err


def test_an_export_without_a_file_is_printed_alone(kohya, capsys):
    assert main(["kohya", str(kohya), "--export", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["network_dim"] == 12


def test_the_file_that_was_read_is_not_written_over(kohya, capsys):
    before = kohya.read_bytes()
    assert main(["kohya", str(kohya), "--export", "json", "-o", str(kohya), "--force"]) == 2
    assert kohya.read_bytes() == before


def test_our_own_file_has_nothing_to_report(kohya, tmp_path, capsys):
    main(["kohya", str(kohya), "-o", str(tmp_path / "ours.toml")])
    assert main(["kohya", str(tmp_path / "ours.toml")]) == 2


def test_train_takes_a_kohya_file_and_reports(kohya, capsys):
    assert main(["train", str(kohya), "--check", "--set", "train.epochs=1"]) == 1  # no images are given
    assert "settings came along" in capsys.readouterr().out
