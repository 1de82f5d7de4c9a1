"""What Kohya's settings mean, where that is not what they seem to say."""

from pathlib import Path

import pytest

from lora_core.settings import RunSettings
from lora_core.settings.fields import values_of
from lora_core.settings.kohya import import_tree, report
from tests.settings.kohya_files import KEYS, entry, gui, nothing, scripts

# ---- traps ----------------------------------------------------------------------------------------------------------


def test_the_guis_defaults_are_taken_over():
    run = gui().settings
    assert (run.network.rank, run.network.alpha) == (8, 1)
    assert (run.optimizer.name, run.schedule.name, run.schedule.warmup) == ("AdamW8bit", "cosine", 10)
    assert run.train.seed is None


def test_max_train_steps_beats_epoch_and_max_train_epochs_beats_both():
    told = gui(epoch=10)
    assert told.settings.train.max_train_steps == 1600
    assert entry(told, "epoch").reason == "why.epoch_unused"
    assert told.settings.train.epochs >= 1600  # enough, whatever the number of images

    told = gui(epoch=10, max_train_epochs=7)
    assert (told.settings.train.epochs, told.settings.train.max_train_steps) == (7, None)
    assert entry(told, "max_train_steps").group == "no_effect"

    told = gui(epoch=10, max_train_steps=0)
    assert (told.settings.train.epochs, told.settings.train.max_train_steps) == (10, None)


def test_the_epochs_for_max_train_steps_are_counted_where_the_images_are(tmp_path):
    folder = tmp_path / "img" / "20_usu bear"
    folder.mkdir(parents=True)
    for name in "abcde":
        (folder / f"{name}.png").write_bytes(b"")
    told = import_tree(KEYS["gui"] | {"train_data_dir": str(tmp_path / "img")}, "x")
    assert told.settings.train.epochs == 16


@pytest.mark.parametrize(
    ("key", "path", "real"),
    [("max_grad_norm", "train.max_grad_norm", 1.0), ("prior_loss_weight", "loss.prior_loss_weight", 1.0)],
)
def test_a_zero_that_the_gui_drops_is_what_kohya_trains_with(key, path, real):
    told = gui(**{key: 0})
    assert values_of(told.settings)[path] == real
    assert entry(told, key).reason == "why.dropped"


def test_sd_scripts_takes_a_zero_as_written():
    run = scripts(max_grad_norm=0, prior_loss_weight=0.0, seed=0).settings
    assert (run.train.max_grad_norm, run.loss.prior_loss_weight, run.train.seed) == (None, 0, 0)


def test_seed_0_of_the_gui_is_a_new_seed_each_time():
    told = gui(seed=0)
    assert told.settings.train.seed is None
    assert entry(told, "seed").reason == "why.seed_zero"
    assert gui(seed=0, additional_parameters="--seed 0").settings.train.seed == 0


@pytest.mark.parametrize(
    "given", [gui(text_encoder_lr=0), scripts(text_encoder_lr=0.0), scripts(network_train_unet_only=True)]
)
def test_a_text_encoder_rate_of_0_trains_the_unet_only(given):
    assert not given.settings.train.train_text_encoder


def test_both_rates_0_fall_back_to_the_learning_rate_in_the_gui():
    run = gui(text_encoder_lr=0, unet_lr=0, learning_rate=3e-4).settings
    assert run.train.train_text_encoder
    assert (run.train.learning_rate, run.train.unet_lr, run.train.text_encoder_lr) == (3e-4, None, None)


def test_the_text_encoder_alone_cannot_be_trained_and_it_is_said():
    assert entry(gui(unet_lr=0), "unet_lr").group == "unsupported"


def test_a_learning_rate_that_has_no_effect_is_told():
    assert entry(gui(), "learning_rate").reason == "why.rate_unused"


@pytest.mark.parametrize("schedule", ["constant", "adafactor"])
def test_warm_up_with_a_schedule_without_one_is_told(schedule):
    told = gui(lr_scheduler=schedule, lr_warmup=10)
    assert told.settings.schedule.name == schedule
    assert entry(told, "lr_warmup").reason == "why.constant_warmup"


def test_warm_up_in_percent_and_in_steps():
    assert gui(lr_warmup=5).settings.schedule.warmup == 5
    assert gui(lr_warmup_steps=160).settings.schedule.warmup_steps == 160
    cosine = {"lr_scheduler": "cosine"}
    assert scripts(**cosine, lr_warmup_steps=0.05).settings.schedule.warmup == 5
    assert scripts(**cosine, lr_warmup_steps=100, max_train_steps=400).settings.schedule.warmup_steps == 100


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"lr_scheduler": "cosine_with_min_lr", "lr_scheduler_min_lr_ratio": 0.3}, {"min_lr_ratio": 0.3}),
        ({"lr_scheduler": "cosine_with_min_lr", "lr_scheduler_args": ["min_lr_rate=0.2"]}, {"min_lr_ratio": 0.2}),
        ({"lr_scheduler": "inverse_sqrt", "lr_scheduler_timescale": 900}, {"timescale": 900}),
        ({"lr_scheduler": "warmup_stable_decay", "lr_decay_steps": 0.25}, {"decay": 25, "decay_steps": None}),
        ({"lr_scheduler": "warmup_stable_decay", "lr_decay_steps": 300}, {"decay_steps": 300}),
        ({"lr_scheduler": "warmup_stable_decay"}, {"decay_steps": 0, "min_lr_ratio": 0.0}),
        (
            {"lr_scheduler": "piecewise_constant", "lr_scheduler_args": ["step_rules=1:10,0.1"]},
            {"step_rules": "1:10,0.1"},
        ),
        ({"lr_scheduler_type": "some.package.RexLR"}, {"name": "rex"}),
        ({"lr_scheduler_type": "CosineAnnealingLR", "lr_scheduler": "constant"}, {"name": "cosine"}),
    ],
)
def test_schedules_with_their_arguments(given, expected):
    schedule = scripts(**given).settings.schedule
    assert {name: getattr(schedule, name) for name in expected} == expected


def test_a_schedule_class_that_is_not_here_is_told():
    told = scripts(lr_scheduler_type="some.package.Sine", lr_scheduler_args=["waves=3"])
    assert entry(told, "lr_scheduler_type").group == "unsupported"
    assert entry(told, "lr_scheduler_args").group == "unsupported"


@pytest.mark.parametrize("key", ["fp8_base", "fp8_base_unet"])
def test_a_source_model_in_fp8_becomes_one_in_int8(key):
    told = gui(**{key: True})
    assert told.settings.train.base_precision == "int8"
    assert entry(told, key).group == "different"
    assert gui().settings.train.base_precision == "full"


def test_the_end_of_the_text_encoder_and_weights_in_bf16_come_along():
    told = gui(stop_text_encoder_training=30, full_bf16=True, flux1_cache_text_encoder_outputs_to_disk=True)
    train = told.settings.train
    assert (train.stop_text_encoder_training, train.adapter_precision) == (30, "bf16")
    assert train.cache_text_encoder_outputs == "disk"
    assert gui().settings.train.stop_text_encoder_training is None


def test_alpha_against_rank():
    low = gui(network_dim=32, network_alpha=1)
    assert low.settings.network.alpha == 1
    assert "0.0312" in entry(low, "network_alpha").message()
    assert scripts(network_dim=32, network_alpha=0).settings.network.alpha == 32
    assert gui(network_dim=32, network_alpha=0).settings.network.alpha == 1


@pytest.mark.parametrize(
    ("written", "name", "path"),
    [
        ("DAdaptation", "DAdaptAdam", ""),
        ("DAdaptAdam", "DAdaptAdam", ""),
        ("adamw8bit", "AdamW8bit", ""),
        ("DAdaptLion", "DAdaptLion", ""),
        ("DAdaptAdanIP", "DAdaptAdanIP", ""),
        ("bitsandbytes.optim.AdEMAMix8bit", "AdEMAMix8bit", ""),
        ("bitsandbytes.optim.PagedAdEMAMix8bit", "PagedAdEMAMix8bit", ""),
        ("pytorch_optimizer.CAME", "CAME", ""),
        ("prodigyplus.ProdigyPlusScheduleFree", "ProdigyPlusScheduleFree", ""),
        ("prodigyplus.prodigy_plus_schedulefree.ProdigyPlusScheduleFree", "ProdigyPlusScheduleFree", ""),
        ("schedulefree.RAdamScheduleFree", "RAdamScheduleFree", ""),
        ("some_package.Fast", "custom", "some_package.Fast"),
        ("SGDNesterov", "SGDNesterov", ""),
    ],
)
def test_optimizers_by_their_names(written, name, path):
    optimizer = gui(optimizer=written).settings.optimizer
    assert (optimizer.name, getattr(optimizer, "class_path", "")) == (name, path)


def test_arguments_that_are_fields_here():
    args = (
        '"d0=1e-5" "d_coef=2.0" "weight_decay=0.4" "decouple=True" "safeguard_warmup=True" "use_bias_correction=True"'
    )
    optimizer = gui(optimizer="Prodigy", optimizer_args=args).settings.optimizer
    assert (optimizer.weight_decay, optimizer.d_coef) == (0.4, 2)
    assert optimizer.args == "d0=1e-5 decouple=True"


def test_defaults_of_the_library_are_kept():
    lion = gui(optimizer="Lion").settings.optimizer
    assert lion.weight_decay == 0
    prodigy = gui(optimizer="Prodigy").settings.optimizer
    assert prodigy.args == "use_bias_correction=False safeguard_warmup=False"


def test_adafactor_with_its_own_rate_has_its_own_schedule():
    told = gui(optimizer="Adafactor", lr_scheduler="cosine")
    assert told.settings.optimizer.relative_step
    assert told.settings.schedule.name == "adafactor"
    fixed = gui(optimizer="Adafactor", optimizer_args="scale_parameter=False relative_step=False warmup_init=False")
    assert (fixed.settings.optimizer.relative_step, fixed.settings.optimizer.args) == (False, "")
    assert fixed.settings.schedule.name == "cosine"


@pytest.mark.parametrize(("memory", "disk", "here"), [(0, 0, "off"), (1, 0, "memory"), (1, 1, "disk"), (0, 1, "disk")])
def test_caching(memory, disk, here):
    told = gui(cache_latents=bool(memory), cache_latents_to_disk=bool(disk))
    assert told.settings.dataset.cache_latents == here


@pytest.mark.parametrize("written", ["512", 512, "512,768", "512x768", "512 , 768"])
def test_resolution_as_text(written):
    assert gui(max_resolution=written).settings.dataset.resolution in ("512", "512,768")


def test_the_folder_itself_instead_of_its_parent_is_told():
    assert entry(gui(train_data_dir="/x/20_usu bear"), "train_data_dir").reason == "why.child_folder"


def test_a_value_that_is_refused_keeps_its_default_and_is_told():
    told = gui(network_dim=100_000, clip_skip=99)
    assert told.settings.network.rank == RunSettings().network.rank
    assert {entry(told, key).group for key in ("network_dim", "clip_skip")} == {"unsupported"}


def test_old_files_are_read():
    told = import_tree({"use_8bit_adam": True, "max_resolution": "512", "epoch": "3", "xformers": True}, "x", nothing)
    assert told.settings.optimizer.name == "AdamW8bit"
    assert told.settings.train.epochs == 3


def test_secrets_are_not_shown():
    told = gui(huggingface_token="hf_secret", wandb_api_key="key_secret")
    assert "secret" not in "\n".join(report.lines(told))


# ---- loss and noise -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"noise_offset": 0.1}, "original"),
        ({"multires_noise_iterations": 6}, "multires"),
        ({"noise_offset": 0.1, "multires_noise_iterations": 6}, "both"),
    ],
)
def test_sd_scripts_uses_every_kind_of_noise_that_has_a_value(options, kind):
    run = scripts(**options).settings.noise
    assert run.noise_offset_type == kind
    assert (run.noise_offset, run.multires_noise_iterations) == (
        options.get("noise_offset"),
        options.get("multires_noise_iterations"),
    )


def test_the_gui_uses_the_kind_of_its_menu_and_what_is_passed_by_it():
    told = gui(noise_offset_type="Multires", noise_offset=0.1, multires_noise_iterations=6)
    assert (told.settings.noise.noise_offset_type, told.settings.noise.noise_offset) == ("multires", None)
    assert entry(told, "noise_offset").group == "no_effect"
    told = gui(noise_offset=0.1, additional_parameters="--multires_noise_iterations=6")
    assert told.settings.noise.noise_offset_type == "both"


@pytest.mark.parametrize(
    ("options", "masked"),
    [
        ({"alpha_mask": True}, "alpha"),
        ({"masked_loss": True, "conditioning_data_dir": "/m"}, "folder"),
        ({"masked_loss": True, "conditioning_data_dir": "/m", "alpha_mask": True}, "folder"),
        ({"masked_loss": True}, "off"),
        ({"conditioning_data_dir": "/m"}, "off"),
    ],
)
def test_masks_come_along_as_sd_scripts_would_use_them(options, masked):
    told = scripts(**options)
    assert told.settings.loss.masked_loss == masked
    assert told.settings.dataset.mask_dir == (Path("/m") if masked == "folder" else None)
    if options == {"masked_loss": True}:
        assert entry(told, "masked_loss").group == "different"


def test_zero_terminal_snr_is_on_or_what_the_model_says():
    assert scripts(zero_terminal_snr=True).settings.noise.zero_terminal_snr == "on"
    assert scripts(zero_terminal_snr=False).settings.noise.zero_terminal_snr == "auto"
    assert gui(additional_parameters="--zero_terminal_snr").settings.noise.zero_terminal_snr == "on"


def test_the_parts_of_a_huber_loss_count_only_with_one():
    huber = {"huber_schedule": "exponential", "huber_c": 0.3, "huber_scale": 2.0}
    run = gui(loss_type="huber", **huber).settings.loss
    assert (run.huber_schedule, run.huber_c, run.huber_scale) == ("exponential", 0.3, 2.0)
    assert entry(gui(**huber), "huber_c").group == "no_effect"


def test_a_validation_share_alone_validates_each_epoch():
    told = import_tree({"pretrained_model_name_or_path": "/x/m.safetensors", "validation_split": 0.1}, "x", nothing)
    assert told.settings.validation.every_n_epochs == 1
    told = import_tree({"validation_split": 0.1, "validate_every_n_steps": 50}, "x", nothing)
    assert "validate_every_n_steps" in {entry.key for entry in told.of("unsupported")}
