"""A dataset file through the real loop: two datasets of different size with four subsets on the tiny model."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from lora_core.events import CheckpointSaved, RunFinished, RunStarted, StepDone
from lora_core.families import FAMILIES
from lora_core.settings import RunSettings
from lora_core.train.loop import train
from tests.models import tiny_sd_folder

FILE = """
[general]
shuffle_caption = true
token_warmup_step = 0.5
caption_tag_dropout_rate = 0.2
enable_wildcard = true

[[datasets]]
resolution = 64
batch_size = 2
bucket_reso_steps = 32
[[datasets.subsets]]
image_dir = "bears"
class_tokens = "{usu|uso} bear"
num_repeats = 2
[[datasets.subsets]]
image_dir = "reg"
class_tokens = "bear"
is_reg = true

[[datasets]]
resolution = [96, 64]
bucket_reso_steps = 32
[[datasets.subsets]]
image_dir = "cats"
class_tokens = "usu cat"
flip_aug = true
[[datasets.subsets]]
image_dir = "far"
custom_attributes = { loss_weight = 0.5 }
metadata_file = "far.json"
"""


@pytest.fixture
def settings(tmp_path) -> RunSettings:
    """Dataset 1: 4 + 4 samples in twos; dataset 2: 1 + 2 in one batch of up to three. 5 batches, 3 steps an epoch."""
    for name, count, size in [
        ("bears", 2, (64, 64)),
        ("reg", 1, (64, 64)),
        ("cats", 1, (96, 64)),
        ("far", 2, (96, 64)),
    ]:
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("RGB", size, (40 * i, 200 - 30 * i, 90)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "far.json").write_text(json.dumps({"0": {"tags": "far, small"}, "1": {"caption": "a cat"}}), "utf-8")
    (tmp_path / "d.toml").write_text(FILE, encoding="utf-8")
    return RunSettings(
        model={"base": str(tiny_sd_folder(tmp_path / "model"))},
        dataset={"config": tmp_path / "d.toml", "weighted_captions": True},
        network={"rank": 2, "alpha": 1},
        optimizer={"name": "AdamW"},
        train={
            "epochs": 1,
            "train_batch_size": 3,
            "gradient_accumulation_steps": 2,
            "train_text_encoder": False,
            "mixed_precision": "no",
            "device": "cpu",
            "seed": 0,
        },
        save={"output_dir": tmp_path / "out", "output_name": "usu"},
        sample={"at_start": False, "every_n_epochs": None},
    )


def test_two_datasets_train_through_the_loop(settings):
    events = list(train(settings))
    (started,) = [e for e in events if isinstance(e, RunStarted)]
    assert (started.steps_per_epoch, started.total_steps) == (3, 3)
    losses = [e.loss for e in events if isinstance(e, StepDone)]
    assert len(losses) == 3
    assert all(0 < loss < 10 for loss in losses)
    assert isinstance(events[-1], RunFinished)
    assert events[-1].reason == "completed"
    path: Path = next(e.path for e in events if isinstance(e, CheckpointSaved))
    with safe_open(path, "pt") as file:
        told = file.metadata()
    datasets = json.loads(told["ss_datasets"])
    assert [d["is_dreambooth"] for d in datasets] == [True, False]
    assert [(d["batch_size_per_device"], len(d["subsets"])) for d in datasets] == [(2, 2), (3, 2)]
    assert "ss_resolution" not in told
    assert "ss_bucket_info" not in told
    assert told["ss_num_batches_per_epoch"] == "5"
    assert str(settings.dataset.config.parent) not in json.dumps(told)


def test_weighted_captions_are_read_as_weights(settings):
    family = FAMILIES["sd1"]
    components = family.load(settings.model, dtype=torch.float32, device=torch.device("cpu"))

    def hidden(caption: str, weighted: bool):
        with torch.no_grad():
            return family.encode_prompts(components, [caption], settings.model, weighted=weighted).hidden

    assert torch.equal(hidden("a bear", True), hidden("a bear", False))
    assert not torch.allclose(hidden("a (bear:1.5)", True), hidden("a bear", True))
    assert not torch.allclose(hidden("a (bear:1.5)", True), hidden("a (bear:1.5)", False))
