"""Settings for Kohya's GUI and for sd-scripts: what both know comes back as it was."""

import json
import tomllib
from pathlib import Path

import pytest

from lora_core.settings import RunSettings
from lora_core.settings.fields import unions_of, values_of
from lora_core.settings.kohya import import_tree, to_gui, to_scripts
from lora_core.settings.overlay import with_values

KEYS = json.loads((Path(__file__).parent / "data/kohya_keys.json").read_text(encoding="utf-8"))
BOTH_KNOW = {
    "model.base": "/models/くま model.safetensors",
    "model.vae": "/models/vae.pt",
    "model.clip_skip": 2,
    "model.max_token_length": 225,
    "dataset.train_dir": "/x y/img",
    "dataset.reg_dir": "/x y/reg",
    "dataset.caption_extension": ".caption",
    "dataset.resolution": "600,900",
    "dataset.keep_tokens_separator": "|||",
    "dataset.secondary_separator": ";;;",
    "dataset.enable_wildcard": True,
    "dataset.weighted_captions": True,
    "dataset.caption_tag_dropout_rate": 0.1,
    "dataset.token_warmup_min": 2,
    "dataset.token_warmup_step": 0.5,
    "dataset.enable_bucket": False,
    "dataset.min_bucket_reso": 128,
    "dataset.max_bucket_reso": 1536,
    "dataset.bucket_no_upscale": False,
    "dataset.bucket_reso_steps": 32,
    "dataset.flip_aug": True,
    "dataset.random_crop": True,
    "dataset.shuffle_caption": True,
    "dataset.keep_tokens": 2,
    "dataset.caption_dropout_rate": 0.1,
    "dataset.caption_dropout_every_n_epochs": 3,
    "dataset.caption_prefix": "a photo, ",
    "dataset.caption_suffix": ", 'best' quality",
    "dataset.cache_latents": "off",
    "network.rank": 12,
    "network.alpha": 3.5,
    "network.network_dropout": 0.1,
    "network.rank_dropout": 0.2,
    "network.module_dropout": 0.3,
    "network.scale_weight_norms": 1.0,
    "train.train_batch_size": 2,
    "train.epochs": 7,
    "train.learning_rate": 2e-4,
    "train.unet_lr": 3e-4,
    "train.text_encoder_lr": 5e-5,
    "train.max_grad_norm": None,
    "train.gradient_accumulation_steps": 2,
    "train.gradient_checkpointing": True,
    "train.mixed_precision": "bf16",
    "train.seed": 0,
    "loss.min_snr_gamma": 5.0,
    "loss.loss_type": "huber",
    "loss.debiased_estimation_loss": True,
    "loss.scale_v_pred_loss_like_noise_pred": True,
    "loss.v_pred_like_loss": 0.2,
    "loss.masked_loss": "alpha",
    "noise.noise_offset": 0.05,
    "noise.ip_noise_gamma": 0.1,
    "noise.min_timestep": 100,
    "noise.max_timestep": 900,
    "noise.zero_terminal_snr": "on",
    "loss.prior_loss_weight": 0.0,
    "save.output_dir": "/out",
    "save.output_name": "くま_v1",
    "save.save_precision": "float",
    "save.save_every_n_epochs": None,
    "save.save_every_n_steps": 50,
    "save.keep_last_n": 4,
    "save.save_state": True,
    "save.tensorboard": True,
    "save.comment": 'trigger: "usu bear"',
    "save.title": "t",
    "save.author": "a",
    "save.description": "d",
    "save.license": "l",
    "save.tags": "x, y",
    "sample.every_n_epochs": 2,
    "sample.at_start": False,
    "sample.sampler": "dpmpp_2m_karras",
}
"""Settings that Kohya has, each at a value that is no default of either."""


def nothing(_):
    return False


def base(**changes):
    fixed = {"train.unet_lr": 1e-4, "train.text_encoder_lr": 1e-4, "train.mixed_precision": "fp16", **changes}
    return with_values(RunSettings(), fixed)


def there_and_back(settings, tmp_path, kind):
    if kind == "gui":
        return import_tree(json.loads(to_gui(settings).text), "x", nothing).settings
    prompts = tmp_path / "prompts.txt"
    exported = to_scripts(settings, prompts)
    prompts.write_text(exported.prompts, encoding="utf-8")
    return import_tree(tomllib.loads(exported.text), "x").settings


def differing(one, other):
    a, b = values_of(one), values_of(other)
    return {path: (a.get(path), b.get(path)) for path in a | b if a.get(path) != b.get(path)}


@pytest.fixture(params=["gui", "scripts"])
def kind(request):
    return request.param


def test_all_that_both_know_at_once_comes_back(tmp_path, kind):
    settings = with_values(RunSettings(), BOTH_KNOW | {"sample.prompts": "a bear --n blurry\n# no\na bear"})
    assert not differing(settings, there_and_back(settings, tmp_path, kind))


@pytest.mark.parametrize("path", BOTH_KNOW)
def test_each_setting_comes_back(tmp_path, kind, path):
    settings = base(**{path: BOTH_KNOW[path]})
    assert not differing(settings, there_and_back(settings, tmp_path, kind))


TOGETHER = [
    {"loss.loss_type": "smooth_l1", "loss.huber_schedule": "constant", "loss.huber_c": 0.3, "loss.huber_scale": 2.0},
    {"loss.masked_loss": "folder", "dataset.mask_dir": "/x y/masks"},
    {"noise.noise_offset": 0.1, "noise.noise_offset_random_strength": True, "noise.adaptive_noise_scale": -0.1},
    {"noise.noise_offset_type": "multires", "noise.multires_noise_iterations": 8, "noise.multires_noise_discount": 0.7},
    {"noise.noise_offset_type": "both", "noise.multires_noise_iterations": 8, "noise.noise_offset": 0.05},
    {"noise.ip_noise_gamma": 0.05, "noise.ip_noise_gamma_random_strength": True},
]
"""Settings that mean something only with each other."""


@pytest.mark.parametrize("changes", TOGETHER, ids=str)
def test_settings_that_belong_together_come_back(tmp_path, kind, changes):
    settings = base(**changes)
    assert not differing(settings, there_and_back(settings, tmp_path, kind))


def test_sd_scripts_is_not_given_noise_that_was_not_chosen():
    settings = base(**{"noise.noise_offset": 0.05, "noise.multires_noise_iterations": 8})
    assert "multires_noise_iterations" not in tomllib.loads(to_scripts(settings).text)
    other = with_values(settings, {"noise.noise_offset_type": "multires"})
    assert "noise_offset" not in tomllib.loads(to_scripts(other).text)


@pytest.mark.parametrize(
    ("path", "value"),
    [("loss.prior_preservation", 1.0), ("loss.unmasked_weight", 0.1), ("noise.zero_terminal_snr", "off")],
)
def test_what_kohya_does_not_have_is_told(path, value):
    assert path in {entry.key for entry in to_gui(base(**{path: value})).entries}


@pytest.mark.parametrize("name", unions_of()["optimizer"])
@pytest.mark.parametrize("args", ["", "betas=(0.9,0.99) eps=1e-7"])
def test_every_optimizer_comes_back(tmp_path, kind, name, args):
    changes = {"optimizer.name": name, "optimizer.weight_decay": 0.03, "optimizer.args": args}
    changes |= {"optimizer.class_path": "some_package.Fast"} if name == "custom" else {}
    changes |= {"schedule.name": "adafactor"} if name == "Adafactor" else {}
    settings = base(**changes)
    assert not differing(settings, there_and_back(settings, tmp_path, kind))


@pytest.mark.parametrize("name", [name for name in unions_of()["schedule"] if name != "rex"])
def test_every_schedule_comes_back(tmp_path, kind, name):
    fields = unions_of()["schedule"][name].model_fields
    values = {"warmup": 7.5, "num_cycles": 3, "power": 2.0, "min_lr_ratio": 0.0, "decay": 12.5, "timescale": 77}
    values |= {"step_rules": "1:5,0.3:70%,0.1"}
    settings = base(**{"schedule.name": name, **{f"schedule.{k}": v for k, v in values.items() if k in fields}})
    assert not differing(settings, there_and_back(settings, tmp_path, kind))


@pytest.mark.parametrize(
    "changes",
    [
        {"train.train_text_encoder": False, "train.text_encoder_lr": None},
        {"train.seed": None},
        {"dataset.cache_latents": "disk"},
        {"optimizer.name": "Prodigy", "optimizer.d_coef": 0.5},
        {"optimizer.name": "Adafactor", "optimizer.relative_step": False},
        {"train.max_train_steps": 500, "train.epochs": 500},
        {"schedule.name": "cosine", "schedule.warmup_steps": 77},
        {"schedule.name": "warmup_stable_decay", "schedule.warmup_steps": 7, "schedule.decay_steps": 9},
        {"train.adapter_precision": "bf16"},
        {"train.base_precision": "int8"},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_what_is_said_in_another_way_comes_back(tmp_path, kind, changes):
    settings = base(**changes)
    assert not differing(settings, there_and_back(settings, tmp_path, kind))


def test_a_gui_file_keeps_all_that_came_along(tmp_path):
    first = import_tree(KEYS["gui"] | {"network_dim": 32, "max_train_steps": 0, "epoch": 5}, "x", nothing).settings
    assert not differing(first, there_and_back(first, tmp_path, "gui"))


def test_a_gui_file_has_every_key_of_the_gui():
    assert json.loads(to_gui(RunSettings()).text).keys() == KEYS["gui"].keys()


def test_a_toml_has_only_options_of_sd_scripts():
    settings = with_values(RunSettings(), BOTH_KNOW)
    assert tomllib.loads(to_scripts(settings).text).keys() <= KEYS["train_network"].keys()


def test_what_kohya_can_not_say_is_told():
    settings = with_values(RunSettings(), {"dataset.trigger_words": "usu bear", "train.device": "cpu"})
    told = {entry.key for entry in to_gui(settings).entries}
    assert told == {"dataset.trigger_words", "train.device", "train.mixed_precision"}
    assert all(entry.message("ja") for entry in to_gui(settings).entries)


def test_a_schedule_that_kohya_lacks_becomes_the_nearest_and_is_told():
    settings = with_values(RunSettings(), {"schedule.name": "rex", "train.ema_decay": 0.99})
    exported = to_gui(settings)
    assert (json.loads(exported.text)["lr_scheduler"], json.loads(exported.text)["lr_scheduler_power"]) == (
        "polynomial",
        0.6,
    )
    assert {"schedule.name", "train.ema_decay"} <= {entry.key for entry in exported.entries}


def test_the_end_of_the_text_encoder_is_a_key_of_the_gui_only():
    settings = with_values(RunSettings(), {"train.stop_text_encoder_training": 40.0})
    assert json.loads(to_gui(settings).text)["stop_text_encoder_training"] == 40
    assert "train.stop_text_encoder_training" in {entry.key for entry in to_scripts(settings).entries}


@pytest.mark.parametrize("dialect", ["toml", "gui"])
def test_validation_comes_along_both_ways(dialect: str):
    """There a share alone turns it on, and batches are counted."""
    own = {"every_n_epochs": 2, "split": 0.2, "seed": 7, "max_pictures": 12}
    settings = RunSettings(validation=own, train={"train_batch_size": 4})
    exported = to_gui(settings) if dialect == "gui" else to_scripts(settings)
    tree = json.loads(exported.text) if dialect == "gui" else tomllib.loads(exported.text)
    assert import_tree(tree, "x").settings.validation == settings.validation
    off = to_gui(RunSettings()) if dialect == "gui" else to_scripts(RunSettings())
    tree = json.loads(off.text) if dialect == "gui" else tomllib.loads(off.text)
    assert import_tree(tree, "x").settings.validation == RunSettings().validation
