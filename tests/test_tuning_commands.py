"""kumakobo lr-range: what it takes, keeps and refuses."""

import json

import pytest
from PIL import Image

from lora_core.cli import main, parser
from lora_core.rate_range import RESULT
from lora_core.runs import list_runs, read_job_settings
from lora_core.settings import RunSettings
from lora_core.settings.files import save_settings
from lora_core.settings.tools import RateRangeSettings
from tests.models import tiny_sd_folder


@pytest.fixture
def settings_file(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUMAKOBO_LANG", "en")
    images = tmp_path / "images" / "1_usu bear"
    images.mkdir(parents=True)
    for i in range(2):
        Image.new("RGB", (64, 64), (90, 100 * i, 90)).save(images / f"{i}.png")
    settings = RunSettings(
        model={"base": str(tiny_sd_folder(tmp_path / "tiny"))},
        dataset={"train_dir": images.parent, "resolution": "64", "min_bucket_reso": 32, "bucket_reso_steps": 32},
        network={"rank": 2, "alpha": 2},
        optimizer={"name": "AdamW"},
        train={"mixed_precision": "no", "train_text_encoder": False},
        save={"output_dir": tmp_path / "out", "output_name": "usu"},
    )
    return save_settings(settings, tmp_path / "my settings.toml")


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
