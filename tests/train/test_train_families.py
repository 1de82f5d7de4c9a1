"""Training Stable Diffusion 2 and SDXL on tiny models: it learns, it resumes bit for bit, and the file goes on."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from lora_core.events import CheckpointSaved, RunFinished, RunStarted, SampleSaved, StepDone, Stop
from lora_core.settings import RunSettings
from lora_core.settings.tools import RateRangeSettings
from lora_core.train import rate_range
from lora_core.train.loop import prepare
from lora_core.train.randomness import generator
from lora_core.train.session import batch_loss
from tests.models_sdxl import tiny_file
from tests.train.test_loop import At, changed, events_of, final, only, weights
from tests.train.test_reference_step import run_to_end

families = pytest.mark.parametrize("family", ["sd2", "sdxl"])


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {family: tiny_file(folder / f"{family}.safetensors", family) for family in ("sd2", "sdxl")}


@pytest.fixture
def settings(models, family: str, tmp_path: Path) -> RunSettings:
    """Two pictures of two shapes, shown twice: 4 steps of one picture each."""
    images = tmp_path / "train" / "2_usu bear"
    images.mkdir(parents=True)
    for number, size in enumerate(((64, 64), (100, 64))):
        Image.linear_gradient("L").convert("RGB").resize(size).save(images / f"{number}.png")
    return RunSettings(
        model={"family": family, "base": str(models[family]), "prediction_type": "epsilon"},
        dataset={"train_dir": images.parent, "resolution": "64", "min_bucket_reso": 32, "bucket_reso_steps": 32},
        network={"rank": 2, "alpha": 1, "network_dropout": 0.1},
        optimizer={"name": "AdamW"},
        train={"epochs": 2, "learning_rate": 1e-3, "mixed_precision": "no", "seed": 0},
        sample={"prompts": "usu (bear:1.2) --w 64 --h 64 --s 2", "every_n_epochs": 2},
        save={"output_dir": tmp_path / "out", "output_name": "usu", "save_precision": "float"},
    )


@families
def test_a_run_from_start_to_end(settings, family: str):
    settings = changed(settings, train={"text_encoder_lr": 5e-4, "text_encoder_2_lr": 1e-4}, dataset={"flip_aug": True})
    events = events_of(settings)
    assert isinstance(events[-1], RunFinished)
    assert len(only(events, SampleSaved)) == 2  # before the first step, and after the second epoch
    rates = only(events, StepDone)[0].learning_rate
    assert rates == pytest.approx(
        {"unet": 1e-3, "text_encoder": 5e-4} | ({"text_encoder_2": 1e-4} if family == "sdxl" else {})
    )
    assert len(only(events, RunStarted)[0].summary["en"]) == len(only(events, RunStarted)[0].summary["ja"])
    with safe_open(final(settings), "pt") as file:
        told, names = file.metadata(), list(file.keys())
    base, architecture, text = {
        "sd2": ("sd_v2", "stable-diffusion-v2-512/lora", ("lora_te_",)),
        "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", ("lora_te1_", "lora_te2_")),
    }[family]
    assert (told["ss_base_model_version"], told["modelspec.architecture"]) == (base, architecture)
    assert told["ss_v2"] == str(family == "sd2")
    assert json.loads(told["kumakobo_settings"])["model"]["family"] == family
    assert {n.split("_text_model")[0] + "_" for n in names if n.startswith("lora_te")} == set(text)
    assert all(n.startswith(("lora_unet_", *text)) for n in names)


@families
@pytest.mark.parametrize("texts", [True, False])
def test_stopped_and_resumed_it_ends_with_the_file_of_an_unbroken_run(settings, tmp_path, family: str, texts: bool):
    settings = changed(settings, train={"train_text_encoder": texts})
    whole = changed(settings, save={"output_dir": tmp_path / "whole"})
    events_of(whole)
    stopped = events_of(settings, At(step3=Stop(save=True)))
    events_of(changed(settings, save={"resume": only(stopped, CheckpointSaved)[-1].state}))
    assert weights(final(settings)) == weights(final(whole))
    assert any(n.startswith("lora_te") for n in load_file(final(whole))) == texts


@families
def test_the_file_goes_on_where_it_ended(settings, family: str):
    """A run that starts from the file answers as the run that wrote it, bit for bit."""
    first = run_to_end(prepare(settings))
    events_of(settings)
    second = run_to_end(prepare(changed(settings, network={"network_weights": final(settings)})))
    state = load_file(final(settings))
    assert all(torch.equal(tensor, state[name]) for name, tensor in second.network.state_dict_kohya().items())
    first.network.load_kohya(state)
    losses = []
    for session in (first, second):
        session.network.eval()
        losses.append(batch_loss(session, session.feed(1, 0), generator(0, "noise", 1, 0)))
    assert torch.equal(*losses)


@families
def test_a_lora_of_one_picture_learns_it_by_heart(settings, family: str):
    """The same picture, noise and timestep again and again: the loss falls by nine tenths."""
    network = {"algo": "locon", "rank": 8, "alpha": 8, "conv_rank": 8, "conv_alpha": 8}
    session = run_to_end(prepare(settings.model_copy(update={"network": RunSettings(network=network).network})))
    optimizer = torch.optim.AdamW(session.network.parameters(), lr=1e-2)
    batch, losses = session.feed(1, 0), []
    for _ in range(60):
        loss = batch_loss(session, batch, generator(0, "noise", 1, 0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0], losses[::10]


@families
def test_a_learning_rate_is_looked_for(settings, family: str, monkeypatch):
    """At a rate of nearly nothing the loss stays; a high one moves it."""
    monkeypatch.setattr(rate_range, "MEASURED", 2)
    wanted = RateRangeSettings(training=settings, lowest=1e-7, highest=1.0, steps=10)
    *_, found = rate_range.rate_range(wanted)
    moved = [abs(point.loss - found.start) for point in found.points]
    assert moved[0] < 1e-4 * found.start
    assert max(moved) > 100 * moved[0]
