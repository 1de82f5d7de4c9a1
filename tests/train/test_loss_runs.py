"""Whole runs with the options of loss and noise: repeatable, resumed exactly, written down, warned about."""

from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from lora_core.errors import ProblemsFound, UserError
from lora_core.events import CheckpointSaved, SampleSaved, StepDone, Stop, Warned
from lora_core.settings import RunSettings
from lora_core.train.loop import train
from tests.models import tiny_sd_folder

NOISE = {
    "noise_offset_type": "both",
    "noise_offset": 0.1,
    "noise_offset_random_strength": True,
    "adaptive_noise_scale": 0.1,
    "multires_noise_iterations": 4,
    "ip_noise_gamma": 0.1,
    "ip_noise_gamma_random_strength": True,
    "min_timestep": 100,
    "max_timestep": 900,
}
HUBER = {"loss_type": "huber", "v_pred_like_loss": 0.1, "debiased_estimation_loss": True}
VARIANTS = {
    "loss and noise": {"loss": HUBER, "noise": NOISE},
    "masks and prior": {"loss": {"masked_loss": "alpha", "unmasked_weight": 0.1, "prior_preservation": 1.0}},
    "prior, U-Net only": {
        "loss": {"prior_preservation": 1.0, "prior_words": "bear"},
        "train": {"train_text_encoder": False},
    },
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Two models and three pictures, cut out, in two shapes."""
    root = tmp_path_factory.mktemp("home")
    for kind in ("epsilon", "v_prediction"):
        tiny_sd_folder(root / kind, prediction_type=kind)
    for i in range(3):
        picture = Image.new("RGBA", (96, 64) if i % 2 else (64, 64), (40 * i, 200 - 30 * i, 90, 255))
        picture.paste((0, 0, 0, 0), (0, 0, 30, 40))
        (root / "img/1_usu bear").mkdir(parents=True, exist_ok=True)
        picture.save(root / f"img/1_usu bear/{i}.png")
    return root


def settings_for(home: Path, output: Path, kind: str = "epsilon", **sections: dict) -> RunSettings:
    tree = {
        "model": {"base": str(home / kind)},
        "dataset": {
            "train_dir": home / "img",
            "resolution": "64",
            "min_bucket_reso": 32,
            "bucket_reso_steps": 32,
            "flip_aug": True,
        },
        "network": {"rank": 2, "alpha": 1, "network_dropout": 0.1},
        "optimizer": {"name": "AdamW"},
        "train": {"epochs": 1, "train_batch_size": 2, "learning_rate": 1e-3, "mixed_precision": "no", "seed": 0},
        "save": {"output_dir": output, "output_name": "usu", "save_precision": "float"},
    }
    for section, values in sections.items():
        tree[section] = tree.get(section, {}) | values
    return RunSettings.model_validate(tree)


def weights(settings: RunSettings) -> bytes:
    data = (settings.save.output_dir / "usu.safetensors").read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


class StopAfter:
    """Stop and save at the n-th look at the commands."""

    def __init__(self, step: int):
        self.left = step

    def __iter__(self):
        self.left -= 1
        if self.left == 0:
            yield Stop(save=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopped_and_resumed_it_ends_with_the_file_of_an_unbroken_run(home, tmp_path, variant):
    sections = VARIANTS[variant]
    whole = settings_for(home, tmp_path / "whole", **sections)
    losses = [event.loss for event in train(whole) if isinstance(event, StepDone)]
    assert losses
    broken = settings_for(home, tmp_path / "broken", **sections)
    state = [e.state for e in train(broken, StopAfter(1)) if isinstance(e, CheckpointSaved)][-1]
    list(train(settings_for(home, tmp_path / "broken", save={"resume": state} | saved(broken), **sections)))
    assert weights(broken) == weights(whole)


def saved(settings: RunSettings) -> dict:
    return {"output_dir": settings.save.output_dir, "output_name": "usu", "save_precision": "float"}


def test_masks_are_the_same_when_latents_are_not_kept(home, tmp_path):
    masked = {"loss": {"masked_loss": "alpha"}}
    memory = settings_for(home, tmp_path / "memory", **masked)
    other = settings_for(home, tmp_path / "other", dataset={"cache_latents": "off"}, **masked)
    for one in (memory, other):
        list(train(one))
    a, b = (load_file(one.save.output_dir / "usu.safetensors") for one in (memory, other))
    assert all((a[name] - b[name]).abs().max() < 1e-4 for name in a)


def test_a_run_with_other_masks_is_not_gone_on_with(home, tmp_path):
    settings = settings_for(home, tmp_path / "out", loss={"masked_loss": "alpha"})
    state = [e.state for e in train(settings, StopAfter(1)) if isinstance(e, CheckpointSaved)][-1]
    with pytest.raises(UserError) as error:
        list(train(settings_for(home, tmp_path / "out", save={"resume": state} | saved(settings))))
    assert error.value.key == "train.state_dataset_differs"


def test_masks_that_are_not_there_stop_the_run_before_it_begins(home, tmp_path):
    (tmp_path / "masks").mkdir()
    settings = settings_for(
        home, tmp_path / "out", dataset={"mask_dir": tmp_path / "masks"}, loss={"masked_loss": "folder"}
    )
    with pytest.raises(ProblemsFound, match="no mask"):
        list(train(settings))


def test_zero_terminal_snr_goes_through_training_samples_and_metadata(home, tmp_path):
    on = {"noise": {"zero_terminal_snr": "on"}, "loss": {"min_snr_gamma": 5}}
    samples = {"sample": {"prompts": "usu bear --w 64 --h 64 --s 2"}}
    drawn = []
    for name, sections in (("on", on), ("off", on | {"noise": {"zero_terminal_snr": "off"}})):
        settings = settings_for(home, tmp_path / name, "v_prediction", **sections, **samples)
        events = list(train(settings))
        drawn.append([Image.open(e.path).tobytes() for e in events if isinstance(e, SampleSaved)])
        assert not [e for e in events if isinstance(e, Warned) and e.path.startswith(("loss", "noise"))]
        with safe_open(settings.save.output_dir / "usu.safetensors", "pt") as file:
            assert file.metadata()["ss_zero_terminal_snr"] == str(name == "on")
    assert drawn[0][0] != drawn[1][0]  # already before the first step


@pytest.mark.parametrize(
    ("kind", "sections", "path", "sentence"),
    [
        ("epsilon", {"noise": {"zero_terminal_snr": "on"}}, "noise.zero_terminal_snr", "nothing to learn"),
        (
            "epsilon",
            {"loss": {"scale_v_pred_loss_like_noise_pred": True}},
            "loss.scale_v_pred_loss_like_noise_pred",
            "for v-prediction models",
        ),
        ("v_prediction", {"loss": {"v_pred_like_loss": 0.5}}, "loss.v_pred_like_loss", "that predict noise"),
    ],
)
def test_what_only_the_loaded_model_shows_to_be_wrong_is_told(home, tmp_path, kind, sections, path, sentence):
    told = [e for e in train(settings_for(home, tmp_path, kind, **sections), StopAfter(1)) if isinstance(e, Warned)]
    (found,) = [event for event in told if event.path == path]
    assert sentence in found.message["en"]


def test_the_metadata_says_what_sd_scripts_would(home, tmp_path):
    settings = settings_for(home, tmp_path, noise=NOISE, loss={"loss_type": "smooth_l1", "huber_c": 0.2})
    list(train(settings))
    with safe_open(tmp_path / "usu.safetensors", "pt") as file:
        found = file.metadata()
    assert {key.removeprefix("ss_"): found[key] for key in found if "noise" in key or "huber" in key} == {
        "noise_offset": "0.1",
        "noise_offset_random_strength": "True",
        "adaptive_noise_scale": "0.1",
        "multires_noise_iterations": "4",
        "multires_noise_discount": "0.3",
        "ip_noise_gamma": "0.1",
        "ip_noise_gamma_random_strength": "True",
        "huber_schedule": "snr",
        "huber_scale": "1.0",
        "huber_c": "0.2",
    }
    assert found["ss_loss_type"] == "smooth_l1"
    assert found["modelspec.timestep_range"] == "100,900"
