"""The command line: help, checks, exit codes, and a run from a settings file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_core.cli import main
from lora_core.events import RunFinished
from lora_core.runs import list_runs
from lora_core.settings.own_presets import save_preset
from tests.tiny_training import write_settings

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture
def settings_file(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))
    return write_settings(tmp_path, epochs=1)


@pytest.mark.parametrize("command", [[], ["train"], ["demo"], ["doctor"], ["gui"]], ids=lambda c: "-".join(c) or "top")
@pytest.mark.parametrize("language", ["en", "ja"])
def test_every_command_has_help(command, language, capsys, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_LANG", language)
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert len(shown) > 100
    assert (language == "ja") == any(0x3040 < ord(c) < 0x9FFF for c in shown)


def test_train_from_a_file_with_one_setting_changed(settings_file, tmp_path):
    code = main(["train", str(settings_file), "--set", "train.epochs=2", "--set", "save.save_precision=float"])
    assert code == 0
    assert (tmp_path / "out" / "usu.safetensors").is_file()
    events = list_runs()[0].read_events()
    assert isinstance(events[-1], RunFinished)
    assert events[-1].step == 4


def test_a_lora_is_a_settings_file_too(settings_file, tmp_path, capsys):
    main(["train", str(settings_file)])
    lora = tmp_path / "out" / "usu.safetensors"
    assert main(["train", str(lora), "--check"]) == 1  # the paths of the machine it came from are not in it
    assert "dataset.train_dir" in capsys.readouterr().out


def test_check_says_what_is_wrong_and_trains_nothing(settings_file, tmp_path, capsys):
    assert main(["train", str(settings_file), "--check"]) == 0
    assert main(["train", str(settings_file), "--check", "--set", f"dataset.train_dir={tmp_path / 'gone'}"]) == 1
    assert "gone" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere.toml"], "nowhere.toml"),
        (["{file}", "--set", "train.learning_rte=1"], "learning_rate"),
        (["{file}", "--set", "train.epochs=many"], "train.epochs"),
        (["{file}", "--preset", "nosuch"], "nosuch"),
    ],
)
def test_wrong_words_end_with_code_2_and_a_sentence(settings_file, arguments, expected, capsys):
    assert main(["train", *(a.format(file=settings_file) for a in arguments)]) == 2
    shown = capsys.readouterr().err
    assert expected in shown
    assert "Traceback" not in shown


def test_a_settings_error_is_answered_without_loading_torch(settings_file):
    code = (
        "import sys; from lora_core.cli import main; "
        f"code = main(['train', {str(settings_file)!r}, '--set', 'model.base=nowhere.safetensors']); "
        "print('torch' in sys.modules, code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, env=os.environ)
    assert done.stdout.splitlines()[-1] == "False 1", done.stdout + done.stderr


@pytest.mark.parametrize("says", ["en", "ja"])
def test_presets_are_listed_with_those_of_ones_own(capsys, monkeypatch, tmp_path, says):
    monkeypatch.setenv("KUMAKOBO_LANG", says)
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path))
    save_preset("くまの設定", "for me", {"train.epochs": 3}, ["train"])
    (tmp_path / "presets" / "own" / "broken.toml").write_text("[", encoding="utf-8")
    assert main(["presets"]) == 0
    printed = capsys.readouterr()
    assert "sd15_character" in printed.out
    assert "くまの設定" in printed.out
    assert "broken.toml" in printed.err
