"""kumakobo lr-range: what it takes, keeps and refuses."""

import json

import pytest

from lora_core.cli import main, parser
from lora_core.rate_range import RESULT
from lora_core.runs import list_runs, read_job_settings
from lora_core.settings.tools import RateRangeSettings
from tests.tiny_training import write_settings


@pytest.fixture
def settings_file(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUMAKOBO_LANG", "en")
    return write_settings(tmp_path, train_text_encoder=False)


def test_the_answer_is_printed_and_kept_in_a_run_folder(settings_file, tmp_path, capsys):
    arguments = ["--lowest", "1e-4", "--highest", "1", "--steps", "10", "--set", "network.rank=4"]
    assert main(["lr-range", str(settings_file), *arguments]) == 0
    (run,) = list_runs()
    settings = read_job_settings(run.settings)
    assert isinstance(settings, RateRangeSettings)
    assert (settings.lowest, settings.highest, settings.steps, settings.training.network.rank) == (1e-4, 1.0, 10, 4)
    found = json.loads((run.path / RESULT).read_text(encoding="utf-8"))
    said = capsys.readouterr().out
    assert f"{found['points'][0]['loss']:.5f}" in said
    assert str(run.path) in said
    assert not (tmp_path / "out").exists()
    again = parser().parse_args(["lr-range", str(run.path), "--steps", "20"])
    assert again.settings(again) == settings.model_copy(update={"lowest": 1e-6, "highest": 0.1, "steps": 20})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--set", "optimizer.name=Prodigy"], "Prodigy"),
        (["--highest", "1e-6"], "1e-06"),
        (["--steps", "3"], "steps"),
        (["--set", "dataset.train_dir=gone"], "gone"),
        (["--set", "train.learning_rte=1"], "learning_rate"),
    ],
    ids=["its own rate", "no range", "too few", "no pictures", "unknown"],
)
def test_what_cannot_be_tested_is_said_and_starts_nothing(settings_file, capsys, arguments, expected):
    assert main(["lr-range", str(settings_file), *arguments]) == 2
    assert expected in capsys.readouterr().err
    assert not list_runs()
