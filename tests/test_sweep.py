"""Sweeps: what is planned and what is refused before anything starts, the table, and the whole way by the command."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from lora_core.cli import main
from lora_core.errors import UserError
from lora_core.events import EpochDone, PictureLoss, RunFailed, RunFinished, RunStarted, ValidationDone
from lora_core.runs import PROJECT, list_runs
from lora_core.settings import RunSettings
from lora_core.settings.files import save_settings
from lora_core.settings.overlay import with_values
from lora_core.sweep import Result, lines, plan, read_fields, result, run_names

TRAINER = """
import sys
sys.path.insert(0, {project!r})
from lora_core.events import EpochDone, PictureLoss, RunFinished, RunStarted, ValidationDone, append
from lora_core.runs import RunFolder
from lora_core.settings import RunSettings
run = RunFolder(__import__("pathlib").Path(sys.argv[1]))
settings = RunSettings.model_validate_json(run.settings.read_text(encoding="utf-8"))
loss = 1 / settings.network.rank
append(run.events, RunStarted(name="x", total_steps=1, epochs=1, steps_per_epoch=1))
append(run.events, EpochDone(epoch=1, step=1, mean_loss=loss))
pictures = [PictureLoss(name=str(i), held_out=True, loss=loss + i / 100) for i in range(8)]
append(run.events, ValidationDone(epoch=1, step=1, fit=loss, generalisation=loss, pictures=pictures))
append(run.events, RunFinished(reason="completed", step=1, path=settings.save.output_dir / "a.safetensors"))
"""
"""Stands in for the trainer: a loss that falls with the rank, the same for every picture."""


@pytest.fixture
def base(tmp_path, monkeypatch) -> RunSettings:
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUMAKOBO_LANG", "en")
    images = tmp_path / "images" / "1_usu bear"
    images.mkdir(parents=True)
    Image.new("RGB", (512, 512)).save(images / "a.png")
    return RunSettings(
        model={"base": "built-in"},
        dataset={"train_dir": images.parent},
        optimizer={"name": "AdamW"},
        train={"seed": None},
        save={"output_dir": tmp_path / "out", "output_name": "usu"},
    )


def test_every_combination_is_a_run_of_its_own_that_differs_in_nothing_else(base):
    runs = plan(base, read_fields(["train.learning_rate=1e-4,2e-4", "network.rank=8, 16"]))
    assert [(r.settings.train.learning_rate, r.settings.network.rank) for r in runs] == [
        (1e-4, 8),
        (1e-4, 16),
        (2e-4, 8),
        (2e-4, 16),
    ]
    assert len({run.settings.save.output_name for run in runs}) == 4
    (seed,) = {run.settings.train.seed for run in runs}
    assert seed is not None
    same = {"train.learning_rate": 1e-4, "network.rank": 8, "train.seed": seed, "save.output_name": "usu"}
    assert {with_values(run.settings, same).model_dump_json() for run in runs} == {
        with_values(base, same).model_dump_json()
    }


def test_the_variant_of_a_union_can_be_swept(base):
    runs = plan(base, read_fields(["optimizer.name=AdamW,Lion,CAME"]))
    assert [run.settings.optimizer.name for run in runs] == ["AdamW", "Lion", "CAME"]


def test_values_with_commas_are_parted_by_bars():
    assert read_fields(["dataset.resolution=512,768|768,512"]) == {"dataset.resolution": ["512,768", "768,512"]}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["network.rnk=8,16"], r"network\.rank"),
        (["network.rank"], r"network\.rank"),
        (["network.rank=8,many"], "rank"),
        (["network.rank=8,0"], "rank"),
        (["network.rank=8"], "two"),
        (["network.rank=8,8"], "twice"),
        (["network.rank=8,16", "network.rank=32,64"], "twice"),
        (["train.learning_rate=1e-4,0.0001"], "same run"),
        (["save.output_name=a,b"], "save.output_name"),
        (["network.rank=1,2,3,4", "network.alpha=1,2,3,4"], "16"),
        (["dataset.train_dir=gone,missing"], "gone"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_is_said_before_anything_starts(base, fields, expected):
    with pytest.raises(UserError, match=expected):
        plan(base, read_fields(fields))
    assert not list_runs()


def test_more_runs_can_be_allowed(base):
    fields = read_fields(["network.rank=1,2,3,4", "network.alpha=1,2,3,4"])
    assert len(plan(base, fields, most=16)) == 16


@pytest.mark.parametrize(
    "values",
    [["a/b", "a:b"], ["x" * 200, "y" * 200], ["", "1"], ["…", "名前"]],
    ids=["alike when plain", "long", "empty", "Japanese"],
)
def test_names_are_file_names_and_all_differ(values):
    names = run_names("usu", [{"loss.prior_words": value} for value in values])
    assert len(set(names)) == len(values)
    for name in names:
        RunSettings(save={"output_name": name})


def validated(epoch: int, loss: float) -> ValidationDone:
    pictures = [PictureLoss(name=str(i), held_out=True, loss=loss + i / 50) for i in range(8)]
    drift = {"drift_class": 0.5, "drift_unrelated": epoch / 100}
    return ValidationDone(epoch=epoch, step=epoch, fit=0.1, generalisation=loss, pictures=pictures, **drift)


def test_a_result_is_that_of_the_best_epoch():
    events = [
        RunStarted(name="x", total_steps=3, epochs=3, steps_per_epoch=1, time=100.0),
        *(validated(epoch, loss) for epoch, loss in enumerate([0.1, 0.4, 0.2, 0.3])),
        EpochDone(epoch=3, step=3, mean_loss=0.07),
        RunFinished(reason="completed", step=3, path=Path("x.safetensors"), time=160.0),
    ]
    found = result("a", events)
    assert (found.loss, found.generalisation, found.drift, found.best_epoch, found.seconds, found.state) == (
        0.07,
        0.2,
        0.02,
        2,
        60.0,
        "completed",
    )


def test_a_run_that_was_not_measured_or_failed_has_gaps_not_guesses():
    failed = [RunFailed(message={"en": "x", "ja": "x"})]
    assert result("a", failed) == Result("a", state="failed")
    assert result("a", []) == Result("a")


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_table_shows_what_is_there(language):
    whole = Result("rank 8", "completed", 0.07, 0.2, 0.02, 2, 60.0, Path("x/usu-rank_8.safetensors"))
    head, first, second = lines([whole, Result("rank 16")], language)
    assert all(word in first for word in ("rank 8", "0.07000", "0.20000", "2.00%", "60", "usu-rank_8.safetensors"))
    assert second.count("-") == 6
    assert len(head.split()) >= 8


def test_a_sweep_from_the_command_line_to_the_verdict(base, tmp_path, monkeypatch, capsys):
    (tmp_path / "trainer.py").write_text(TRAINER.format(project=str(PROJECT)), encoding="utf-8")
    monkeypatch.setenv("KUMAKOBO_TRAINER", json.dumps([sys.executable, str(tmp_path / "trainer.py")]))
    file = save_settings(base, tmp_path / "my settings.toml")
    assert main(["sweep", str(file), "--field", "network.rank=8,16", "--dry-run"]) == 0
    assert not list_runs()
    assert main(["sweep", str(file), "--field", "network.rank=8,16"]) == 0
    said = capsys.readouterr().out
    assert "rank 16 is better than rank 8" in said
    assert len(list_runs()) == 2
    (kept,) = (tmp_path / "home" / "sweeps").iterdir()
    assert main(["sweep", str(kept)]) == 0
    again = capsys.readouterr().out
    assert again.strip().splitlines() == said.strip().splitlines()[-len(again.strip().splitlines()) :]


def test_a_file_that_is_no_sweep_is_said(base, tmp_path, capsys):
    (tmp_path / "x.json").write_text("[]", encoding="utf-8")
    assert main(["sweep", str(tmp_path / "x.json")]) == 2
    assert "x.json" in capsys.readouterr().err
