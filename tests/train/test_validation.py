"""Over-fitting measured: the same numbers every time, no trace in the run, formulas written out, resume exact."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from lora_core.errors import UserError
from lora_core.events import CheckpointSaved, EpochDone, RunFinished, Stop, ValidationDone, Warned
from lora_core.settings import RunSettings
from lora_core.train import validation
from lora_core.train.loop import prepare, train
from lora_core.train.session import Session
from tests.models_sdxl import tiny_file
from tests.train.test_flux_train import model as flux_folder  # noqa: F401
from tests.train.test_loop import At, changed, events_of, final, images, model, only, settings, weights  # noqa: F401

ON = {"every_n_epochs": 1, "split": 0.4, "timesteps": 3, "class_prompt": "bear", "unrelated_prompts": "a house"}


@pytest.fixture
def measured(settings, images, tmp_path) -> RunSettings:  # noqa: F811
    """Five pictures, of which two are held out."""
    return changed(settings, validation=ON)


def session_of(settings: RunSettings) -> Session:  # noqa: F811
    steps = prepare(settings)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def numbers(events: list) -> list[dict]:
    return [event.model_dump(exclude={"time"}) for event in only(events, ValidationDone)]


def test_it_measures_before_the_first_step_and_after_each_epoch(measured):
    events = events_of(measured)
    found = only(events, ValidationDone)
    assert [(event.epoch, event.step) for event in found] == [(0, 0), (1, 3), (2, 6)]
    assert [sum(p.held_out for p in event.pictures) for event in found] == [2, 2, 2]
    assert [len(event.pictures) for event in found] == [5, 5, 5]
    first, last = found[0], found[-1]
    assert first.drift_class == first.drift_unrelated == 0  # a new LoRA changes nothing
    assert last.drift_class > 0
    assert last.drift_unrelated > 0
    assert last.fit < first.fit
    kinds = [type(event) for event in events]
    assert kinds.index(EpochDone) < len(kinds) - 1 - kinds[::-1].index(ValidationDone)


def test_its_numbers_are_the_same_every_time(measured, tmp_path):
    again = changed(measured, save={"output_dir": tmp_path / "again"})
    assert numbers(events_of(measured)) == numbers(events_of(again))


def test_it_leaves_no_trace_in_the_run(measured, tmp_path):
    """Held out but never measured on the way, the LoRA is the same; nor is a global generator touched."""
    events_of(measured)
    seldom = changed(measured, validation={"every_n_epochs": 100}, save={"output_dir": tmp_path / "seldom"})
    events_of(seldom)
    assert weights(final(measured)) == weights(final(seldom))
    session = session_of(changed(measured, save={"output_dir": tmp_path / "state"}))
    before = torch.get_rng_state()
    assert list(validation.at_start(session))
    assert torch.equal(before, torch.get_rng_state())
    assert all(adapter.training for adapter in session.network)


def test_held_out_pictures_are_never_shown(measured):
    session = session_of(measured)
    apart = {q.picture.image.path for q in session.validation.questions if q.picture.held_out}
    per_epoch = session.plan.batches_per_epoch
    shown = {path for epoch in (1, 2) for n in range(per_epoch) for path in session.feed(epoch, n).paths}
    assert len(apart) == 2
    assert not apart & shown
    assert session.plan.train_images == 3


def test_resumed_it_goes_on_with_the_same_curves(measured, tmp_path):
    whole = changed(measured, save={"output_dir": tmp_path / "whole"})
    unbroken = events_of(whole)
    stopped = events_of(measured, At(step4=Stop(save=True)))
    resumed = events_of(changed(measured, save={"resume": only(stopped, CheckpointSaved)[-1].state}))
    assert weights(final(measured)) == weights(final(whole))
    assert numbers(resumed) == numbers(unbroken)


def test_a_broken_history_is_answered_in_words(measured):
    stopped = events_of(measured, At(step4=Stop(save=True)))
    state = only(stopped, CheckpointSaved)[-1].state
    (state / validation.HISTORY).write_text("{", encoding="utf-8")
    with pytest.raises(UserError):
        events_of(changed(measured, save={"resume": state}))


def test_the_file_says_how_many_pictures_were_held_out(measured, settings, tmp_path):  # noqa: F811
    events_of(measured)
    events_of(changed(settings, save={"output_dir": tmp_path / "off"}))
    for path, count in ((final(measured), "2"), (tmp_path / "off" / "usu.safetensors", "0")):
        with safe_open(path, "pt") as file:
            assert file.metadata()["ss_num_validation_images"] == count


# ---- stopping, keeping -----------------------------------------------------------------------------------------------


def test_it_stops_when_nothing_gets_better_and_keeps_the_best(measured):
    wild = {"train": {"epochs": 8, "learning_rate": 0.3}, "validation": {"patience": 2, "keep_best": True}}
    events = events_of(changed(measured, **wild))
    found = only(events, ValidationDone)
    best = min(found, key=lambda event: event.generalisation).epoch
    assert found[-1].epoch == best + 2 < 8
    assert isinstance(events[-1], RunFinished)
    assert events[-1].reason == "completed"
    assert final(measured).exists()
    assert any(warned.path == "validation.patience" for warned in only(events, Warned))
    kept = [event.epoch for event in only(events, CheckpointSaved) if event.path.stem.endswith("-best")]
    scored = [event for event in found if event.epoch]
    assert kept[-1] == min(scored, key=lambda event: event.generalisation).epoch


def test_a_resumed_run_stops_where_the_unbroken_one_does(measured, tmp_path):
    wild = {"train": {"epochs": 8, "learning_rate": 0.3}, "validation": {"patience": 2}}
    whole = changed(measured, **wild, save={"output_dir": tmp_path / "whole"})
    unbroken = events_of(whole)
    stopped = events_of(changed(measured, **wild), At(step4=Stop(save=True)))
    state = only(stopped, CheckpointSaved)[-1].state
    resumed = events_of(changed(measured, **wild, save={"resume": state}))
    assert resumed[-1].step == unbroken[-1].step < 24
    assert weights(final(measured)) == weights(final(whole))


# ---- formulas --------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_plain_square_at_fixed_noise(measured):
    """Written out a second time from the model's own parts, for one picture."""
    session = session_of(changed(measured, loss={"loss_type": "l1", "min_snr_gamma": 5.0}))
    question = session.validation.questions[0]
    states = validation.states_of(question, session.noise, session.settings, session.device)
    with validation.measuring(session):
        found = validation.losses_N(session, question, states)
        told = session.family.encode_prompts(session.components, [question.caption], session.settings.model)
        for row in range(3):
            t = states.timesteps_N[row : row + 1]
            answer = session.components.denoiser(states.noisy_NCHW[row : row + 1], t, told.hidden).sample
            alpha_bar = session.noise.alpha_bar[t]
            noise = (states.noisy_NCHW[row] - alpha_bar.sqrt() * question.x0_CHW) / (1 - alpha_bar).sqrt()
            assert float(found[row]) == pytest.approx(float((answer[0] - noise).square().mean()), rel=1e-4)


def test_timesteps_are_spread_like_those_that_are_trained(measured):
    session = session_of(measured)
    noise_settings = session.settings.noise
    grid = validation.timestep_grid(session.noise, torch.zeros(4, 8, 8), noise_settings, 8)
    assert grid.dtype == torch.int64
    assert [int(t) for t in grid] == pytest.approx([1000 * (i + 0.5) / 8 for i in range(8)], abs=30)
    assert torch.equal(grid, validation.timestep_grid(session.noise, torch.zeros(4, 8, 8), noise_settings, 8))


def test_drift_is_the_relative_distance():
    base, moved = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    wanted = sum(float((m - b).double().norm() / b.double().norm()) for m, b in zip(moved, base, strict=True)) / 3
    assert validation.relative_distance(moved, base) == pytest.approx(wanted, rel=1e-6)
    assert validation.relative_distance(base, base) == 0


def test_bands_and_means_add_up(measured):
    found = only(events_of(measured), ValidationDone)[-1]
    fit = [picture.loss for picture in found.pictures if not picture.held_out]
    apart = [picture.loss for picture in found.pictures if picture.held_out]
    assert found.fit == pytest.approx(sum(fit) / len(fit))
    assert found.generalisation == pytest.approx(sum(apart) / len(apart))
    assert [(band.low, band.high) for band in found.bands] == [(0, 250), (250, 500), (500, 750), (750, 1000)]
    filled = [band.fit for band in found.bands if band.fit is not None]  # 3 levels fall into 3 of the 4 bands
    assert sum(filled) / len(filled) == pytest.approx(found.fit)


# ---- every family ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd2", "sdxl", "flux"])
def test_every_family_is_measured(measured, family: str, tmp_path: Path, flux_folder):  # noqa: F811
    base = flux_folder if family == "flux" else tiny_file(tmp_path / f"{family}.safetensors", family)
    own = {"t5_max_token_length": 16} if family == "flux" else {"prediction_type": "epsilon"}
    data = measured.model_dump() | {"model": {"family": family, "base": str(base)} | own}
    data["train"] |= {"epochs": 1, "train_text_encoder": family == "sdxl"}
    found = only(list(train(RunSettings.model_validate(data))), ValidationDone)
    assert [event.epoch for event in found] == [0, 1]
    assert found[0].drift_class == 0 < found[1].drift_class
    assert found[1].fit < found[0].fit


def test_an_average_is_measured_where_the_average_is_saved(measured, tmp_path):
    plain = only(events_of(measured), ValidationDone)[-1]
    averaged = changed(measured, train={"ema_decay": 0.9}, save={"output_dir": tmp_path / "ema"})
    ema = only(events_of(averaged), ValidationDone)[-1]
    assert ema.fit != plain.fit
    assert ema.drift_class < plain.drift_class  # it lags behind


def test_a_folder_of_its_own(measured, tmp_path, images):  # noqa: F811
    """Pictures that are trained on as well are left out, and said so."""
    folder = tmp_path / "unseen"
    folder.mkdir()
    Image.new("RGB", (64, 64), (9, 99, 199)).save(folder / "new.png")
    (folder / "new.txt").write_text("usu bear", encoding="utf-8")
    trained = next((images / "train").rglob("3.png"))
    (folder / "copy.png").write_bytes(trained.read_bytes())
    (folder / "copy.txt").write_text("usu bear", encoding="utf-8")
    events = events_of(changed(measured, validation={"folder": folder}, train={"epochs": 1}))
    found = only(events, ValidationDone)[-1]
    assert [picture.name for picture in found.pictures if picture.held_out] == ["new.png"]
    assert len(found.pictures) == 6
    assert any(warned.path == "validation.folder" for warned in only(events, Warned))
