"""Rules across settings: each has a case that breaks it, and its fix cures it."""

import pytest

from lora_core.checks import COMBINATIONS, combination_problems, effective_scale, rates
from lora_core.i18n import LANGUAGES
from lora_core.settings import FINDS_ITS_OWN_RATE, RunSettings
from lora_core.settings.fields import fields_of, unions_of
from lora_core.settings.overlay import apply_fix, with_values

UPSCALED = {"dataset.bucket_no_upscale": False}
PRODIGY = {"optimizer.name": "Prodigy", "train.learning_rate": 1.0}
TWO_MACHINES = {"launch.processes": 2, "launch.machines": 2, "launch.main_address": "10.0.0.1"}
OWN_RATE = {"optimizer.name": "Adafactor", "schedule.name": "adafactor"}
FLUX = {"model.family": "flux"}

# name: (what is set, at which setting, how grave, which sentence)
FLUX = {"model.family": "flux"}

PAIR = {"dataset.pair_before": "a.png", "dataset.pair_after": "b.png", "train.train_text_encoder": False}
SLIDER = {
    "slider.target": "bear",
    "slider.more": "happy bear",
    "slider.less": "sad bear",
    "train.train_text_encoder": False,
}
BROKEN = {
    "Prodigy at 1e-4": ({"optimizer.name": "Prodigy"}, "train.learning_rate", "error", "own_rate_low"),
    "D-Adaptation at 1e-4": ({"optimizer.name": "DAdaptAdam"}, "train.learning_rate", "error", "own_rate_low"),
    "low U-Net rate": (PRODIGY | {"train.unet_lr": 1e-4}, "train.unet_lr", "error", "own_rate_low"),
    "two rates": (PRODIGY | {"train.text_encoder_lr": 0.5}, "train.text_encoder_lr", "error", "own_rate_differs"),
    "two rates, U-Net": (PRODIGY | {"train.unet_lr": 0.5}, "train.unet_lr", "error", "own_rate_differs"),
    "AdamW at 1": (
        {"optimizer.name": "AdamW", "train.learning_rate": 1},
        "train.learning_rate",
        "warning",
        "rate_high",
    ),
    "high text rate": ({"train.text_encoder_lr": 0.1}, "train.text_encoder_lr", "warning", "rate_high"),
    "big and fast": (
        {"network.rank": 128, "network.alpha": 128, "train.learning_rate": 2e-3},
        "train.learning_rate",
        "warning",
        "rate_high_for_rank",
    ),
    "Lion at 1e-3": (
        {"optimizer.name": "Lion", "train.learning_rate": 1e-3},
        "train.learning_rate",
        "warning",
        "rate_high_for_optimizer",
    ),
    "Muon at 0.005": (
        {"optimizer.name": "Muon", "train.unet_lr": 0.005},
        "train.unet_lr",
        "warning",
        "rate_high_for_optimizer",
    ),
    "descent at 1e-4": ({"optimizer.name": "SGDNesterov"}, "train.learning_rate", "warning", "rate_low_for_descent"),
    "endless warm-up": (
        {"train.max_train_steps": 50, "schedule.warmup_steps": 50},
        "schedule.warmup_steps",
        "warning",
        "warmup_long",
    ),
    "average of averages": (
        {"optimizer.name": "AdamWScheduleFree", "schedule.name": "constant", "train.ema_decay": 0.99},
        "train.ema_decay",
        "error",
        "average_of_averages",
    ),
    "stop without start": (
        {"train.train_text_encoder": False, "train.stop_text_encoder_training": 30},
        "train.stop_text_encoder_training",
        "warning",
        "stop_unused",
    ),
    "text cache of what changes": (
        {"train.cache_text_encoder_outputs": "disk"},
        "train.cache_text_encoder_outputs",
        "warning",
        "text_cache_unused",
    ),
    "bf16 LoRA in fp16": (
        {"train.adapter_precision": "bf16", "train.mixed_precision": "fp16"},
        "train.adapter_precision",
        "error",
        "bf16_with_fp16",
    ),
    "alpha above rank": ({"network.alpha": 32}, "network.alpha", "warning", "alpha_over_rank"),
    "alpha 1": ({"network.rank": 32, "network.alpha": 1}, "network.alpha", "warning", "alpha_tiny"),
    "convolution alpha above rank": (
        {"network.algo": "loha", "network.conv_rank": 4},
        "network.conv_alpha",
        "warning",
        "conv_alpha_over_rank",
    ),
    "LoCon without convolutions": (
        {"network.algo": "locon", "network.conv_rank": None},
        "network.conv_rank",
        "warning",
        "locon_without_convolutions",
    ),
    "third of two machines": (
        TWO_MACHINES | {"launch.machine_rank": 2},
        "launch.machine_rank",
        "error",
        "launch_rank_too_high",
    ),
    "three processes, two machines": (
        TWO_MACHINES | {"launch.processes": 3},
        "launch.processes",
        "error",
        "launch_not_divisible",
    ),
    "no address": (
        TWO_MACHINES | {"launch.main_address": " "},
        "launch.main_address",
        "error",
        "launch_no_address",
    ),
    "names for cards": ({"launch.gpu_ids": "cuda:0"}, "launch.gpu_ids", "error", "launch_gpu_ids"),
    "more processes than cards": (
        {"launch.processes": 3, "launch.gpu_ids": "0,1"},
        "launch.processes",
        "error",
        "launch_few_gpu_ids",
    ),
    "several on a Mac": ({"launch.processes": 2, "train.device": "mps"}, "launch.processes", "error", "launch_device"),
    "open quote": ({"launch.extra_args": "--rdzv_id 'a"}, "launch.extra_args", "error", "launch_extra_args"),
    "a config of another kind": (
        {"launch.processes": 2, "launch.config_file": "x.toml"},
        "launch.config_file",
        "error",
        "launch_config_kind",
    ),
    "a config for one process": (
        {"launch.config_file": "x.yaml"},
        "launch.config_file",
        "warning",
        "launch_config_unused",
    ),
    "rank from no file": (
        {"network.dim_from_weights": True},
        "network.dim_from_weights",
        "error",
        "dim_without_weights",
    ),
    "two starts": (
        {"network.init": "pissa", "network.network_weights": "x.safetensors"},
        "network.init",
        "error",
        "pissa_with_weights",
    ),
    "norms of PiSSA": (
        {"network.init": "pissa", "network.scale_weight_norms": 1.0},
        "network.scale_weight_norms",
        "error",
        "norms_without_scale",
    ),
    "norms of decomposed weights": (
        {"network.algo": "lokr", "network.weight_decompose": True, "network.scale_weight_norms": 1.0},
        "network.scale_weight_norms",
        "error",
        "norms_without_scale",
    ),
    "LoRA+ with Prodigy": (
        PRODIGY | {"network.loraplus_ratio": 16.0},
        "network.loraplus_ratio",
        "error",
        "one_rate_only",
    ),
    "rates of blocks with Prodigy": (
        PRODIGY | {"network.block_lrs": "OUT=0.5"},
        "network.block_lrs",
        "error",
        "one_rate_only",
    ),
    "adafactor with AdamW": ({"schedule.name": "adafactor"}, "schedule.name", "error", "adafactor_schedule"),
    "adafactor without own rate": (
        OWN_RATE | {"optimizer.relative_step": False},
        "schedule.name",
        "warning",
        "adafactor_schedule_constant",
    ),
    "Adafactor with cosine": ({"optimizer.name": "Adafactor"}, "schedule.name", "error", "adafactor_own_rate"),
    "Adafactor ignores": (OWN_RATE | {"train.unet_lr": 1e-4}, "train.unet_lr", "warning", "adafactor_ignores_rate"),
    "schedule-free with cosine": ({"optimizer.name": "AdamWScheduleFree"}, "schedule.name", "error", "schedule_free"),
    "custom schedule-free": (
        {"optimizer.name": "custom", "optimizer.class_path": "schedulefree.RAdamScheduleFree"},
        "schedule.name",
        "error",
        "schedule_free",
    ),
    "no class": ({"optimizer.name": "custom"}, "optimizer.class_path", "error", "class_path"),
    "class without module": (
        {"optimizer.name": "custom", "optimizer.class_path": "CAME"},
        "optimizer.class_path",
        "error",
        "class_path",
    ),
    "unused text rate": (
        {"train.train_text_encoder": False, "train.text_encoder_lr": 5e-5},
        "train.text_encoder_lr",
        "warning",
        "text_encoder_rate_unused",
    ),
    "fp16 on the processor": (
        {"train.device": "cpu", "train.mixed_precision": "fp16"},
        "train.mixed_precision",
        "error",
        "fp16_on_cpu",
    ),
    "cached random crops": ({"dataset.random_crop": True}, "dataset.random_crop", "error", "cache_random_crop"),
    "tokens kept for nothing": ({"dataset.keep_tokens": 1}, "dataset.keep_tokens", "warning", "keep_tokens"),
    "no captions": ({"dataset.caption_dropout_rate": 1}, "dataset.caption_dropout_rate", "warning", "no_captions"),
    "no captions in any epoch": (
        {"dataset.caption_dropout_every_n_epochs": 1},
        "dataset.caption_dropout_every_n_epochs",
        "warning",
        "no_captions",
    ),
    "regularisation for nothing": (
        {"dataset.reg_dir": "/r", "loss.prior_loss_weight": 0},
        "loss.prior_loss_weight",
        "warning",
        "regularisation_weight",
    ),
    "buckets upside down": (
        UPSCALED | {"dataset.min_bucket_reso": 1024, "dataset.max_bucket_reso": 512},
        "dataset.min_bucket_reso",
        "error",
        "bucket_order",
    ),
    "resolution below buckets": (
        UPSCALED | {"dataset.resolution": "128"},
        "dataset.min_bucket_reso",
        "error",
        "resolution_below_buckets",
    ),
    "resolution above buckets": (
        UPSCALED | {"dataset.resolution": "512,4096"},
        "dataset.max_bucket_reso",
        "error",
        "resolution_above_buckets",
    ),
    "odd bucket steps": ({"dataset.bucket_reso_steps": 60}, "dataset.bucket_reso_steps", "error", "bucket_steps"),
    "steps above resolution": (
        {"dataset.resolution": "48"},
        "dataset.bucket_reso_steps",
        "error",
        "bucket_steps_over_resolution",
    ),
    "odd size without buckets": (
        {"dataset.enable_bucket": False, "dataset.resolution": "600,901"},
        "dataset.resolution",
        "error",
        "resolution_cells",
    ),
    "a long Japanese name": ({"save.output_name": "熊" * 61}, "save.output_name", "error", "name_long"),
    "saved too seldom": ({"save.save_every_n_epochs": 11}, "save.save_every_n_epochs", "warning", "save_epochs"),
    "steps too seldom": (
        {"train.max_train_steps": 100, "save.save_every_n_steps": 101},
        "save.save_every_n_steps",
        "warning",
        "save_steps",
    ),
    "samples without a time": (
        {"sample.prompts": "bear", "sample.at_start": False, "sample.every_n_epochs": None},
        "sample.every_n_epochs",
        "warning",
        "samples_never",
    ),
    **{
        f"FLUX with {path}": (FLUX | {path: value}, path, "warning", sentence)
        for path, value, sentence in (
            ("loss.min_snr_gamma", 5, "flow_weights"),
            ("loss.debiased_estimation_loss", True, "flow_weights"),
            ("loss.scale_v_pred_loss_like_noise_pred", True, "flow_weights"),
            ("loss.v_pred_like_loss", 0.5, "flow_weights"),
            ("noise.noise_offset", 0.1, "flow_noise"),
            ("noise.zero_terminal_snr", "on", "flow_noise"),
        )
    },
    "zero SNR with epsilon": (
        {"noise.zero_terminal_snr": "on", "model.prediction_type": "epsilon"},
        "noise.zero_terminal_snr",
        "warning",
        "zero_snr_epsilon",
    ),
    "a velocity's weight for noise": (
        {"loss.scale_v_pred_loss_like_noise_pred": True, "model.prediction_type": "epsilon"},
        "loss.scale_v_pred_loss_like_noise_pred",
        "warning",
        "not_for_epsilon",
    ),
    "a noise's addition for velocity": (
        {"loss.v_pred_like_loss": 0.1, "model.prediction_type": "v_prediction"},
        "loss.v_pred_like_loss",
        "warning",
        "not_for_velocity",
    ),
    "weighted twice": (
        {"loss.min_snr_gamma": 5, "loss.debiased_estimation_loss": True},
        "loss.debiased_estimation_loss",
        "warning",
        "two_weightings",
    ),
    "timesteps upside down": (
        {"noise.min_timestep": 600, "noise.max_timestep": 600},
        "noise.min_timestep",
        "error",
        "timestep_range",
    ),
    "multires beside": (
        {"noise.multires_noise_iterations": 6},
        "noise.multires_noise_iterations",
        "warning",
        "noise_other_kind",
    ),
    "multires without iterations": (
        {"noise.noise_offset_type": "multires"},
        "noise.multires_noise_iterations",
        "warning",
        "multires_without_iterations",
    ),
    "adaptive nothing": (
        {"noise.adaptive_noise_scale": 0.1},
        "noise.adaptive_noise_scale",
        "warning",
        "offset_missing",
    ),
    "random nothing": (
        {"noise.noise_offset_random_strength": True},
        "noise.noise_offset_random_strength",
        "warning",
        "offset_missing",
    ),
    "random perturbation of nothing": (
        {"noise.ip_noise_gamma_random_strength": True},
        "noise.ip_noise_gamma_random_strength",
        "warning",
        "ip_noise_missing",
    ),
    "masks for nothing": ({"dataset.mask_dir": "/m"}, "dataset.mask_dir", "warning", "mask_folder_unused"),
    "class words for nothing": ({"loss.prior_words": "bear"}, "loss.prior_words", "warning", "prior_words_unused"),
    "class words of the trigger": (
        {"loss.prior_preservation": 1, "loss.prior_words": "a Usu bear", "dataset.trigger_words": "usu bear"},
        "loss.prior_words",
        "warning",
        "prior_words_trigger",
    ),
    "words of a pair": ({"dataset.pair_before": "a.png"}, "train.train_text_encoder", "warning", "pair_text_encoder"),
    "folder beside a pair": (
        PAIR | {"dataset.train_dir": "a"},
        "dataset.train_dir",
        "warning",
        "pair_folders",
    ),
    "class kept beside a pair": (
        PAIR | {"loss.prior_preservation": 1},
        "loss.prior_preservation",
        "warning",
        "pair_prior",
    ),
    "slider without more": (SLIDER | {"slider.more": " "}, "slider.more", "error", "slider_more"),
    "slider without less": (SLIDER | {"slider.less": ""}, "slider.less", "error", "slider_less"),
    "slider of one prompt": (SLIDER | {"slider.less": "happy  bear"}, "slider.less", "error", "slider_same"),
    "slider beside a pair": (SLIDER | PAIR, "slider.target", "error", "slider_pair"),
    "words of a slider": (
        SLIDER | {"train.train_text_encoder": True},
        "train.train_text_encoder",
        "warning",
        "slider_text_encoder",
    ),
    "a slider left behind": (SLIDER | {"dataset.train_dir": "a"}, "slider.target", "warning", "slider_pictures"),
    "validation of a slider": (
        SLIDER | {"validation.every_n_epochs": 1},
        "validation.every_n_epochs",
        "warning",
        "slider_unused",
    ),
    "ends of no slider": ({"slider.more": "happy bear"}, "slider.more", "warning", "no_effect"),
    "folder beside a dataset file": (
        {"dataset.config": "d.toml", "dataset.train_dir": "a"},
        "dataset.train_dir",
        "warning",
        "folder_not_used",
    ),
    "regularisation beside a caption list": (
        {"dataset.metadata_file": "m.json", "dataset.reg_dir": "a"},
        "dataset.reg_dir",
        "warning",
        "folder_not_used",
    ),
    "first tags without a warm-up": (
        {"dataset.token_warmup_min": 3},
        "dataset.token_warmup_min",
        "warning",
        "token_warmup",
    ),
    "FLUX, steps of 8": (FLUX | {"dataset.bucket_reso_steps": 8}, "dataset.bucket_reso_steps", "error", "flux_steps"),
    "FLUX, odd size": (
        FLUX | UPSCALED | {"dataset.enable_bucket": False, "dataset.resolution": "520"},
        "dataset.resolution",
        "error",
        "flux_resolution",
    ),
    "FLUX, burnt samples": (FLUX | {"sample.prompts": "a bear"}, "sample.guidance", "warning", "flux_guidance"),
}

SOUND = {
    "tags dropped behind the first": {"dataset.keep_tokens": 1, "dataset.caption_tag_dropout_rate": 0.1},
    "tags warmed up behind the first": {"dataset.keep_tokens": 1, "dataset.token_warmup_step": 0.5},
    "a dataset file": {"dataset.config": "d.toml"},
    "a slider": SLIDER,
    "FLUX": FLUX,
    "the defaults": {},
    "Prodigy at 1": PRODIGY,
    "Prodigy with equal rates": PRODIGY | {"train.unet_lr": 0.5, "train.text_encoder_lr": 0.5},
    "Prodigy, only the U-Net": PRODIGY | {"train.unet_lr": 0.5, "train.train_text_encoder": False},
    "Adafactor alone": OWN_RATE,
    "Adafactor, constant": {"optimizer.name": "Adafactor", "schedule.name": "constant"},
    "Adafactor with a rate": {"optimizer.name": "Adafactor", "optimizer.relative_step": False},
    "schedule-free": {"optimizer.name": "AdamWScheduleFree", "schedule.name": "constant"},
    "schedule-free, warm": {"optimizer.name": "AdamWScheduleFree", "schedule.name": "constant_with_warmup"},
    "custom": {"optimizer.name": "custom", "optimizer.class_path": "pytorch_optimizer.CAME"},
    "random crop": {"dataset.random_crop": True, "dataset.cache_latents": "off"},
    "shuffled": {"dataset.keep_tokens": 1, "dataset.shuffle_caption": True},
    "portrait": {"dataset.resolution": "600,900"},
    "limits unused": {"dataset.min_bucket_reso": 1024, "dataset.max_bucket_reso": 512},
    "no buckets": UPSCALED | {"dataset.enable_bucket": False, "dataset.resolution": "128"},
    "half of the rank": {"network.alpha": 8},
    "alpha has no part in full matrices": {"network.algo": "lokr", "network.full_matrix": True, "network.alpha": 64},
    "rank-stabilised": {"network.rs_lora": True, "network.rank": 64, "network.alpha": 8},
    "alpha 1 with a high rate": {"network.alpha": 1, "train.learning_rate": 1e-3},
    "steps decide": {"save.save_every_n_epochs": 11, "train.max_train_steps": 10_000},
    "no prompts": {"sample.at_start": False, "sample.every_n_epochs": None},
    "prompts switched off": {"sample.prompts": "# bear\n\n", "sample.at_start": False, "sample.every_n_epochs": None},
    "FLUX with a Huber loss": FLUX | {"loss.loss_type": "huber", "noise.ip_noise_gamma": 0.1},
    "v-prediction to pure noise": {"noise.zero_terminal_snr": "on", "model.prediction_type": "v_prediction"},
    "both kinds of noise": {
        "noise.noise_offset_type": "both",
        "noise.noise_offset": 0.05,
        "noise.multires_noise_iterations": 6,
    },
    "masks": {"loss.masked_loss": "folder", "dataset.mask_dir": "/m"},
    "the class kept": {"loss.prior_preservation": 1, "loss.prior_words": "bear", "dataset.trigger_words": "usu bear"},
    "the longest name": {"save.output_name": "x" * 120},
}


@pytest.mark.parametrize(("changes", "path", "severity", "sentence"), BROKEN.values(), ids=BROKEN)
def test_a_broken_rule_is_found_at_its_setting(changes, path, severity, sentence):
    (problem,) = combination_problems(with_values(RunSettings(), changes))
    assert (problem.path, problem.severity, problem.key) == (path, severity, f"checks.{sentence}")
    assert all(problem.message(language) for language in LANGUAGES)


@pytest.mark.parametrize(("changes", "path", "severity", "sentence"), BROKEN.values(), ids=BROKEN)
def test_a_fix_leaves_nothing_to_find(changes, path, severity, sentence):
    settings = with_values(RunSettings(), changes)
    (problem,) = combination_problems(settings)
    if sentence in ("class_path", "launch_no_address", "slider_more", "slider_less", "slider_same"):
        assert not problem.fix  # only the user knows which was meant
    else:
        assert combination_problems(apply_fix(settings, problem)) == []


@pytest.mark.parametrize("changes", SOUND.values(), ids=SOUND)
def test_sound_settings_are_left_in_peace(changes):
    assert combination_problems(with_values(RunSettings(), changes)) == []


def test_every_rule_is_tried_here():
    tried = {rule for changes, *_ in BROKEN.values() for rule in COMBINATIONS if list(rule(_with(changes)))}
    assert tried == set(COMBINATIONS)


def test_errors_come_first():
    found = combination_problems(_with({"network.alpha": 32, "dataset.random_crop": True}))
    assert [problem.severity for problem in found] == ["error", "warning"]


@pytest.mark.parametrize("optimizer", unions_of()["optimizer"])
def test_every_optimizer_can_be_made_to_fit_by_its_fixes(optimizer):
    changes = {"optimizer.name": optimizer}
    settings = _with(changes | ({"optimizer.class_path": "a.B"} if optimizer == "custom" else {}))
    for _ in range(3):
        for problem in combination_problems(settings):
            settings = apply_fix(settings, problem)
    assert combination_problems(settings) == []


def test_optimizers_with_their_own_rate_exist():
    assert set(unions_of()["optimizer"]) >= FINDS_ITS_OWN_RATE


def test_the_effective_scale_is_alpha_over_rank():
    assert effective_scale(_with({"network.rank": 32, "network.alpha": 8}).network) == 0.25


def test_each_part_has_the_rate_that_decides_it():
    assert rates(RunSettings()) == {"train.learning_rate": 1e-4}
    both = {"train.unet_lr": 2e-4, "train.text_encoder_lr": 5e-5}
    assert rates(_with(both)) == both
    assert rates(_with(both | {"train.train_text_encoder": False})) == {"train.unet_lr": 2e-4}


def test_fixes_name_settings_that_exist():
    for changes, *_ in BROKEN.values():
        for problem in combination_problems(_with(changes)):
            assert problem.fix.keys() <= fields_of().keys()


def _with(changes: dict) -> RunSettings:
    return with_values(RunSettings(), changes)
