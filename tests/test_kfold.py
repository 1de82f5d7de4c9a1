"""k-fold validation: what its runs are, what they say together, and what cannot be parted."""

import json
import random
import sys
from dataclasses import replace

import pytest
from PIL import Image

from lora_core import kfold
from lora_core.cli import main
from lora_core.errors import UserError
from lora_core.events import PictureLoss, ValidationDone
from lora_core.i18n import LANGUAGES
from lora_core.kfold import are_folds, final_values, judged, plan_folds, pooled, words
from lora_core.runs import PROJECT
from lora_core.settings import RunSettings
from lora_core.settings.files import save_settings
from lora_core.settings.overlay import with_values
from lora_core.sweep import Result
from lora_core.verdict import Verdict, judge


@pytest.fixture
def base(tmp_path, monkeypatch) -> RunSettings:
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUMAKOBO_LANG", "en")
    folder = tmp_path / "img" / "5_usu bear"
    folder.mkdir(parents=True)
    for number in range(8):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / f"{number}.png")
    values = {"model.base": "built-in", "dataset.train_dir": folder.parent, "dataset.resolution": "64"}
    values |= {"optimizer.name": "AdamW", "save.output_dir": tmp_path / "out", "save.output_name": "usu"}
    return with_values(RunSettings(), values | {"train.epochs": 40, "validation.patience": 2})


def measured(epoch: int, losses: dict[str, float], fit: float = 0.1) -> ValidationDone:
    pictures = [PictureLoss(name=name, held_out=True, loss=loss) for name, loss in losses.items()]
    pictures.append(PictureLoss(name="trained.png", held_out=False, loss=fit))
    mean = sum(losses.values()) / len(losses)
    return ValidationDone(
        epoch=epoch, step=epoch, fit=fit, generalisation=mean, drift_class=0.2, drift_unrelated=0.1, pictures=pictures
    )


def u_shaped(names, lowest: int, epochs: int = 9, seed: int = 0) -> list[ValidationDone]:
    """Losses of pictures that fall up to an epoch and then rise, each a little differently."""
    rng = random.Random(seed)
    own = {name: rng.uniform(0.05, 0.15) for name in names}
    return [
        measured(epoch, {name: at + 0.01 * abs(epoch - lowest) for name, at in own.items()}, 0.1 - epoch / 200)
        for epoch in range(epochs)
    ]


def fold(part: int, history, state: str = "completed", of: int = 3) -> Result:
    values = {"validation.fold": f"{part}/{of}"}
    return Result(f"fold {part}/{of}", state, validations=tuple(history), values=values)


def test_the_runs_differ_in_their_fold_alone_and_measure_to_the_end(base):
    runs = plan_folds(base, 4)
    assert [run.settings.validation.fold for run in runs] == ["1/4", "2/4", "3/4", "4/4"]
    alike = {
        with_values(run.settings, {"validation.fold": "", "save.output_name": "x"}).model_dump_json() for run in runs
    }
    assert len(alike) == 1
    first = runs[0].settings
    assert (first.validation.every_n_epochs, first.validation.patience, first.save.save_every_n_epochs) == (
        2,
        None,
        None,
    )
    assert first.train.seed is not None
    assert len({run.settings.save.output_name for run in runs}) == 4


@pytest.mark.parametrize(
    ("changes", "folds", "key"),
    [
        ({}, 1, "kfold.number"),
        ({}, 21, "kfold.number"),
        ({}, 9, "kfold.too_few"),
        ({"validation.folder": "/elsewhere"}, 4, "kfold.folder"),
        ({"save.output_dir": None}, 4, "settings.problems"),
        ({"dataset.train_dir": "/gone"}, 4, "settings.problems"),
    ],
)
def test_what_cannot_be_parted_is_said(base, changes, folds, key):
    with pytest.raises(UserError) as caught:
        plan_folds(with_values(base, changes), folds)
    assert caught.value.key == key
    assert all(caught.value.message(language) for language in LANGUAGES)


def test_the_folds_together_are_one_run_with_all_pictures():
    """The oracle: the same losses measured by one run."""
    histories = [u_shaped([f"{part}{n}.png" for n in range(2)], lowest=4, seed=part) for part in range(3)]
    one = [
        measured(
            epoch,
            {p.name: p.loss for history in histories for p in history[epoch].pictures if p.held_out},
            histories[0][epoch].fit,
        )
        for epoch in range(9)
    ]
    found = judge(pooled(histories))
    assert replace(found, drift=0) == replace(judge(one), drift=0)
    assert found.drift == pytest.approx(judge(one).drift)
    assert pooled(histories)[3].generalisation == pytest.approx(one[3].generalisation)


def test_pictures_of_one_name_stay_two():
    history = pooled([u_shaped(["a.png"], 2), u_shaped(["a.png"], 4)])
    assert [picture.name for picture in history[0].pictures] == ["1/a.png", "2/a.png"]


def test_only_epochs_that_all_folds_measured_count():
    assert [event.epoch for event in pooled([u_shaped("a", 2, epochs=5), u_shaped("b", 2, epochs=3)])] == [0, 1, 2]
    assert pooled([]) == pooled([[], u_shaped("a", 2)]) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_border_is_said_when_all_folds_are_done(language):
    done = [fold(part, u_shaped([f"{part}.png", f"{part}b.png"], lowest=4, seed=part)) for part in (1, 2, 3)]
    assert are_folds(done)
    assert judged(done).border == 4
    assert "6" in words(done, language)
    assert "4" in words(done, language)
    assert final_values(judged(done))["train.epochs"] == 4
    waiting = [*done[:2], fold(3, [], "running")]
    assert judged(waiting) is None
    assert words(waiting, language) == ""


def test_without_a_border_no_epoch_is_proposed():
    assert final_values(Verdict("still_learning", 9)) == final_values(Verdict("never_better")) == {}
    learning = [fold(part, u_shaped([f"{part}.png"], lowest=8)) for part in (1, 2, 3)]
    assert "still learning" in words(learning, "en")


def test_other_sweeps_are_no_folds():
    assert not are_folds([Result("rank 8", values={"network.rank": "8"}), Result("rank 16")])
    assert not are_folds([])


TRAINER = """
import sys
sys.path.insert(0, {project!r})
from lora_core.events import EpochDone, PictureLoss, RunFinished, RunStarted, ValidationDone, append
from lora_core.runs import RunFolder
from lora_core.settings import RunSettings
run = RunFolder(__import__("pathlib").Path(sys.argv[1]))
settings = RunSettings.model_validate_json(run.settings.read_text(encoding="utf-8"))
append(run.events, RunStarted(name="x", total_steps=6, epochs=6, steps_per_epoch=1))
for epoch in range(7):
    loss = 0.1 + 0.01 * abs(epoch - 3)
    pictures = [PictureLoss(name=settings.validation.fold, held_out=True, loss=loss)]
    fit = 1 / (1 + epoch)
    append(run.events, ValidationDone(epoch=epoch, step=epoch, fit=fit, generalisation=loss, pictures=pictures))
append(run.events, RunFinished(reason="completed", step=6, path=settings.save.output_dir / "a.safetensors"))
"""
"""Stands in for the trainer: over-fits from epoch 3 on."""


def test_from_the_command_line_to_the_epoch(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KUMAKOBO_TRAINER", json.dumps([sys.executable, "-c", TRAINER.format(project=str(PROJECT))]))
    file = save_settings(base, tmp_path / "my settings.toml")
    assert main(["k-fold", str(file), "--folds", "2", "--dry-run"]) == 0
    assert not (tmp_path / "home" / "runs").exists()
    assert main(["k-fold", str(file), "--folds", "2"]) == 0
    said = capsys.readouterr().out
    assert "2 runs, 2 pictures held out in turn" in said
    assert "on all pictures for 3 epochs" in said
    (kept,) = (tmp_path / "home" / "sweeps").iterdir()
    assert main(["sweep", str(kept)]) == 0
    assert "on all pictures for 3 epochs" in capsys.readouterr().out


def test_usual_folds_are_allowed():
    assert 2 <= kfold.FOLDS <= kfold.MOST_FOLDS
