"""What shapes the weights that are kept: averages, weights in bf16, text encoders that stop. All resume bit for bit."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lora_core.events import CheckpointSaved, StepDone
from lora_core.settings import RunSettings
from lora_core.train.loop import train
from lora_core.train.schedules import text_encoders_stop_at
from tests.models import tiny_sd_folder

STEPS = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> dict:
    """Four pictures with captions, one a batch; the adapter has dropout, so that stray draws would show."""
    root = tmp_path_factory.mktemp("finishing")
    folder = root / "img/1_usu bear"
    folder.mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (64, 64), (60 * i, 90, 200 - 40 * i)).save(folder / f"{i}.png")
    return {
        "model": {"base": str(tiny_sd_folder(root / "tiny"))},
        "dataset": {"train_dir": root / "img", "resolution": "64", "enable_bucket": False},
        "network": {"rank": 2, "alpha": 1, "rank_dropout": 0.2},
        "optimizer": {"name": "AdamW"},
        "schedule": {"name": "constant"},
        "train": {"max_train_steps": STEPS, "learning_rate": 1e-2, "mixed_precision": "no", "seed": 0},
        "save": {"output_name": "usu", "save_precision": "float", "save_every_n_epochs": None},
    }


def run(base: dict, out: Path, train_changes: dict, *, resume: Path | None = None, every: int | None = None) -> list:
    save = base["save"] | {"output_dir": out, "resume": resume, "save_every_n_steps": every, "save_state": bool(every)}
    tree = base | {"train": base["train"] | train_changes, "save": save}
    return list(train(RunSettings.model_validate(tree)))


CASES = {
    "stops": {"stop_text_encoder_steps": 2},
    "ema": {"ema_decay": 0.9, "ema_save": "beside"},
    "bf16": {"adapter_precision": "bf16"},
    "all": {"adapter_precision": "bf16", "ema_decay": 0.9, "stop_text_encoder_training": 50},
}


@pytest.mark.parametrize("name", CASES)
def test_resumed_in_the_middle_it_ends_the_same(base, tmp_path, name):
    events = run(base, tmp_path / "a", CASES[name], every=3)
    state = next(event.state for event in events if isinstance(event, CheckpointSaved))
    run(base, tmp_path / "b", CASES[name], resume=state)
    names = {path.name for path in (tmp_path / "b").glob("*.safetensors")}
    assert names == ({"usu.safetensors", "usu-ema.safetensors"} if name == "ema" else {"usu.safetensors"})
    for file in names:
        one, other = load_file(tmp_path / "a" / file), load_file(tmp_path / "b" / file)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_text_encoder_that_stops_has_rate_0_and_stays_as_it_is(base, tmp_path):
    events = run(base, tmp_path, {"stop_text_encoder_steps": 2}, every=2)
    rates = [event.learning_rate for event in events if isinstance(event, StepDone)]
    assert [rate["text_encoder"] for rate in rates] == [1e-2] * 2 + [0.0] * (STEPS - 2)
    assert [rate["unet"] for rate in rates] == [1e-2] * STEPS
    early, late = load_file(tmp_path / "usu-step00000002.safetensors"), load_file(tmp_path / "usu.safetensors")
    for key in early:
        same = torch.equal(early[key], late[key])
        assert same == (key.startswith("lora_te") or key.endswith("alpha")), key


def test_the_average_is_saved_beside_or_instead(base, tmp_path):
    run(base, tmp_path / "plain", {})
    run(base, tmp_path / "beside", {"ema_decay": 0.5, "ema_save": "beside"})
    run(base, tmp_path / "instead", {"ema_decay": 0.5})
    plain, beside, average, instead = (
        load_file(tmp_path / name / f"{file}.safetensors")
        for name, file in (("plain", "usu"), ("beside", "usu"), ("beside", "usu-ema"), ("instead", "usu"))
    )
    assert all(torch.equal(plain[key], beside[key]) for key in plain)
    assert all(torch.equal(average[key], instead[key]) for key in plain)
    assert not all(torch.equal(average[key], plain[key]) for key in plain)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"stop_text_encoder_training": 30}, 60),
        ({"stop_text_encoder_steps": 7, "stop_text_encoder_training": 30}, 7),
    ],
)
def test_when_text_encoders_stop(changes, expected):
    settings = RunSettings.model_validate({"train": changes})
    assert text_encoders_stop_at(settings.train, 200) == expected


def test_captions_from_the_disk_train_the_same_without_the_text_encoder(base, tmp_path, monkeypatch):
    cached = base | {"dataset": base["dataset"] | {"cache_dir": tmp_path / "cache"}}
    unet_only = {"train_text_encoder": False}
    run(cached, tmp_path / "memory", unet_only)
    run(cached, tmp_path / "first", unet_only | {"cache_text_encoder_outputs": "disk"})
    assert len(list((tmp_path / "cache").glob("*.text"))) == 1  # the folder's name is the one caption
    monkeypatch.setattr("lora_core.families.encoded.EncodedTexts._encoded", None)
    run(cached, tmp_path / "second", unet_only | {"cache_text_encoder_outputs": "disk"})
    plain, first, second = (load_file(tmp_path / name / "usu.safetensors") for name in ("memory", "first", "second"))
    assert all(torch.equal(plain[key], first[key]) and torch.equal(plain[key], second[key]) for key in plain)


@pytest.mark.parametrize("algo", ["locon", "loha", "lokr", "dora"])
def test_every_algorithm_trains_in_bf16(base, tmp_path, algo):
    network = {"algo": algo, "rank": 2, "alpha": 1, "conv_rank": 2, "conv_alpha": 1}
    network |= {} if algo == "dora" else {"scale_weight_norms": 1.0}
    short = base | {"network": network}
    events = run(short, tmp_path, {"adapter_precision": "bf16", "max_train_steps": 3})
    losses = [event.loss for event in events if isinstance(event, StepDone)]
    plain = run(short, tmp_path / "plain", {"max_train_steps": 3})
    expected = [event.loss for event in plain if isinstance(event, StepDone)]
    assert losses == pytest.approx(expected, rel=0.05)
