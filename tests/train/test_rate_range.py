"""The learning rate range test on a tiny model: its rates, that it can be repeated, and that it leaves nothing."""

import json
from pathlib import Path

import pytest
from PIL import Image

from lora_core.errors import UserError
from lora_core.events import CheckpointSaved, RateRangeDone, SampleSaved
from lora_core.rate_range import RESULT, rate_at
from lora_core.runs import create_run
from lora_core.settings import RunSettings
from lora_core.settings.tools import RateRangeSettings
from lora_core.train import rate_range as engine
from lora_core.train.optimizers import current_rates
from tests.models import tiny_sd_folder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A tiny model, and three pictures."""
    root = tmp_path_factory.mktemp("range")
    tiny_sd_folder(root / "tiny")
    folder = root / "train" / "2_usu bear"
    folder.mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (64, 64), (70 * i, 200 - 60 * i, 90)).save(folder / f"{i}.png")
    return root


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(engine, "MEASURED", 4)


@pytest.fixture
def settings(place, tmp_path) -> RateRangeSettings:
    training = RunSettings(
        model={"base": str(place / "tiny")},
        dataset={"train_dir": place / "train", "resolution": "64", "min_bucket_reso": 32, "bucket_reso_steps": 32},
        network={"rank": 2, "alpha": 2, "network_dropout": 0.1},
        optimizer={"name": "AdamW"},
        train={
            "train_batch_size": 2,
            "learning_rate": 1e-3,
            "text_encoder_lr": 5e-4,
            "mixed_precision": "no",
            "seed": 0,
        },
        sample={"prompts": "usu bear", "at_start": True},
        save={"output_dir": tmp_path / "out", "save_every_n_steps": 1},
    )
    return RateRangeSettings(training=training, lowest=1e-4, highest=1.0, steps=10)


def changed(settings: RateRangeSettings, section: str, **values) -> RateRangeSettings:
    data = settings.model_dump()
    data["training"][section] |= values
    return RateRangeSettings.model_validate(data)


def answer(settings: RateRangeSettings, run=None) -> RateRangeDone:
    *_, last = engine.rate_range(settings, run)
    assert isinstance(last, RateRangeDone)
    return last


def facts(found: RateRangeDone) -> dict:
    return found.model_dump(exclude={"time"})


def test_every_part_learns_at_the_rising_rate_in_its_proportion(settings, monkeypatch):
    seen = []

    def step(session, number):
        loss = train_step(session, number)
        seen.append(current_rates(session.optimizer))
        return loss

    train_step = engine.train_step
    monkeypatch.setattr(engine, "train_step", step)
    answer(settings)
    expected = [rate_at(settings, number) for number in range(len(seen))]
    assert [rates["unet"] for rates in seen] == pytest.approx(expected)
    assert [rates["text_encoder"] for rates in seen] == pytest.approx([rate / 2 for rate in expected])


def test_it_answers_the_same_every_time_and_keeps_only_the_answer(settings, tmp_path):
    run = create_run(settings, tmp_path / "runs")
    events = list(engine.rate_range(settings, run))
    assert not [event for event in events if isinstance(event, (CheckpointSaved, SampleSaved))]
    written = json.loads((run.path / RESULT).read_text(encoding="utf-8"))
    assert RateRangeDone.model_validate(written) == events[-1]
    assert not (tmp_path / "out").exists()
    assert {path.name for path in run.path.iterdir()} == {"settings.json", RESULT}
    assert facts(answer(settings)) == facts(events[-1])


def test_measuring_leaves_no_trace_in_the_training(settings, monkeypatch):
    often = answer(settings)
    monkeypatch.setattr(engine, "EVERY", settings.steps)
    assert answer(settings).points[-1] == often.points[-1]


def test_a_copier_pair_is_measured_by_its_own_loss(settings, place, monkeypatch):
    """The loss of the two pictures' difference, not that of drawing the first one."""
    monkeypatch.setattr(engine, "train_step", lambda *_: None)
    before, after = (place / "train" / "2_usu bear" / f"{i}.png" for i in (0, 1))
    pair = answer(changed(settings, "dataset", pair_before=before, pair_after=after))
    assert {point.loss for point in pair.points} == {pair.start}  # nothing was trained
    assert abs(pair.start - answer(settings).start) > 0.05 * pair.start


def test_when_the_loss_runs_away_the_test_ends(settings, monkeypatch):
    """The tiny model can't be so bad: its last norm bounds what it says. So the measurements are planted."""
    losses, steps = iter([1.0, 0.95, 0.9, float("nan"), 0.1]), []
    monkeypatch.setattr(engine, "measured_loss", lambda *_: next(losses))
    monkeypatch.setattr(engine, "train_step", lambda _, step: steps.append(step))
    found = answer(settings)
    assert found.kind == "found"
    assert found.blew_up_at == rate_at(settings, steps[-1]) == rate_at(settings, 5)
    assert [point.rate for point in found.points] == [rate_at(settings, 1), rate_at(settings, 3)]


def test_what_saving_lacks_does_not_matter_but_pictures_do(settings, tmp_path):
    assert answer(changed(settings, "save", output_dir=None)).points
    with pytest.raises(UserError, match="gone"):
        answer(changed(settings, "dataset", train_dir=tmp_path / "gone"))


def test_an_own_class_that_finds_its_rate_is_refused(settings):
    own = {"name": "custom", "class_path": "prodigyopt.Prodigy"}
    with pytest.raises(UserError, match="Prodigy"):
        answer(changed(settings, "optimizer", **own))


def test_cards_of_several_processes_become_accumulation(settings):
    several = changed(settings, "launch", processes=4)
    one = engine.tested(changed(several, "train", gradient_accumulation_steps=3))
    assert (one.launch.processes, one.train.gradient_accumulation_steps) == (1, 12)
