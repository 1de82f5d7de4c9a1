"""Training settings out of LoRA files: what of sd-scripts' metadata reaches the form, and what is named instead."""

import json
import random

import pytest

from app.form import values_shown
from app.inspect.load import loaded_html, settings_in
from app.inspect.sd_scripts import flattened, optimizer_changes
from app.inspect.settings import TABLE, from_metadata, has_settings, kept_places
from app.merge.values import FormError
from lora_core.i18n import LANGUAGES
from lora_core.io.arrays import save_arrays
from lora_core.io.metadata import SETTINGS_KEY, shareable
from lora_core.settings import RunSettings
from lora_core.settings.fields import fields_of, values_of
from lora_core.settings.overlay import with_values
from tests.app.inspect.samples import EVIL, metadata, state


def taken(**entries: str) -> dict:
    return from_metadata(entries, RunSettings()).taken


def test_a_usual_training_of_sd_scripts():
    found = from_metadata(metadata(), RunSettings())
    assert found.taken == {
        "model.family": "sd1",
        "network.algo": "lora",
        "model.clip_skip": 2,
        "network.rank": 8,
        "network.alpha": 4.0,
        "train.learning_rate": 0.0003,
        "train.unet_lr": 0.0003,
        "train.epochs": 12,
        "train.train_batch_size": 2,
        "train.seed": 1234,
        "loss.min_snr_gamma": 5.0,
        "noise.noise_offset": 0.05,
        "noise.multires_noise_iterations": 6,
        "noise.noise_offset_type": "both",
        "dataset.resolution": "512,768",
        "train.train_text_encoder": True,
        "train.text_encoder_lr": 5e-05,
        "schedule.name": "cosine_with_restarts",
        "schedule.warmup": 5.0,
        "optimizer.name": "AdamW8bit",
        "optimizer.weight_decay": "0.1",
        "optimizer.args": "betas=(0.9,0.99)",
    }
    assert found.left == {"ss_color_aug": "True"}
    assert found.settings.network.rank == 8
    assert found.settings.optimizer.weight_decay == 0.1


@pytest.mark.parametrize("path", [path for _, path, _ in TABLE])
def test_every_row_of_the_table_names_a_setting(path):
    assert path in fields_of()


@pytest.mark.parametrize(
    ("entries", "path", "value"),
    [
        ({"ss_clip_skip": "None"}, "model.clip_skip", 1),
        ({"ss_max_token_length": "225"}, "model.max_token_length", 225),
        ({"ss_max_grad_norm": "0.0"}, "train.max_grad_norm", None),
        ({"ss_noise_offset": "None"}, "noise.noise_offset", None),
        ({"ss_caption_dropout_every_n_epochs": "0"}, "dataset.caption_dropout_every_n_epochs", None),
        ({"ss_seed": "None"}, "train.seed", None),
        ({"ss_resolution": "768"}, "dataset.resolution", "768"),
        ({"ss_text_encoder_lr": "[1e-05, 2e-05]"}, "train.text_encoder_lr", 1e-05),
        ({"ss_text_encoder_lr": "0.0"}, "train.train_text_encoder", False),
        ({"ss_flip_aug": "True"}, "dataset.flip_aug", True),
        ({"ss_network_args": json.dumps({"rank_dropout": "0.1"})}, "network.rank_dropout", 0.1),
        ({"ss_loss_type": "huber"}, "loss.loss_type", "huber"),
        ({"ss_loss_type": "None"}, "loss.loss_type", "l2"),
        ({"ss_huber_schedule": "exponential"}, "loss.huber_schedule", "exponential"),
        ({"ss_debiased_estimation": "True"}, "loss.debiased_estimation_loss", True),
        ({"ss_multires_noise_iterations": "8"}, "noise.noise_offset_type", "multires"),
        ({"ss_multires_noise_iterations": "None"}, "noise.multires_noise_iterations", None),
        ({"ss_ip_noise_gamma": "0.1"}, "noise.ip_noise_gamma", 0.1),
        ({"ss_zero_terminal_snr": "True"}, "noise.zero_terminal_snr", "on"),
        ({"ss_zero_terminal_snr": "False"}, "noise.zero_terminal_snr", "auto"),
        ({"ss_lr_scheduler": "constant"}, "schedule.name", "constant"),
    ],
)
def test_what_the_words_of_sd_scripts_mean(entries, path, value):
    assert taken(**entries)[path] == value


def test_the_toml_mode_keeps_its_options_in_the_first_data_set():
    data = [{"batch_size_per_device": 3, "resolution": [640, 640], "subsets": [{"flip_aug": True, "keep_tokens": 2}]}]
    found = taken(ss_datasets=json.dumps(data))
    assert found["train.train_batch_size"] == 3
    assert found["dataset.resolution"] == "640,640"
    assert found["dataset.flip_aug"] is True
    assert found["dataset.keep_tokens"] == 2


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("prodigyopt.prodigy.Prodigy(d_coef=2.0)", {"optimizer.name": "Prodigy", "optimizer.d_coef": "2.0"}),
        ("AdamW", {"optimizer.name": "AdamW"}),
        (
            "transformers.optimization.Adafactor(relative_step=True)",
            {"optimizer.name": "Adafactor", "optimizer.relative_step": True},
        ),
        ("os.system(command='rm')", {}),
        ("subprocess.Popen", {}),
        ("custom", {}),
        ("None", {}),
        ("", {}),
        ("AdamW(" * 100, {}),
    ],
)
def test_only_optimizers_of_the_list_are_taken(text, changes):
    assert optimizer_changes(text) == changes


def test_what_has_no_place_in_the_form_is_named():
    found = from_metadata(
        {
            "ss_network_dim": "8",
            "ss_network_module": "lycoris.kohya",
            "ss_network_args": json.dumps({"algo": "loha", "conv_dim": "8"}),
            "ss_base_model_version": "sdxl_base_v1-0",
            "ss_optimizer": "somebodys.Optimizer()",
            "ss_lr_scheduler": "somebodys",
            "ss_loss_type": "other",
            "ss_zero_terminal_snr": "False",
            "ss_clip_skip": "99",
        },
        RunSettings(),
    )
    kinds = {"model.family": "sdxl", "network.algo": "loha", "network.conv_rank": 8, "network.rank": 8}
    assert {path: found.taken.get(path) for path in kinds} == kinds
    assert found.left == {
        "ss_optimizer": "somebodys.Optimizer()",
        "ss_lr_scheduler": "somebodys",
        "ss_loss_type": "other",
        "ss_clip_skip": "99",
    }


def test_what_the_page_shows_stays_where_the_file_says_nothing():
    now = with_values(RunSettings(), {"train.epochs": 33, "dataset.train_dir": "/images"})
    found = from_metadata({"ss_network_dim": "8"}, now)
    assert values_of(found.settings) == values_of(now) | {"network.rank": 8}


def test_random_metadata_break_nothing():
    chance = random.Random(0)
    pieces = [
        EVIL,
        "1e999",
        "-1",
        "NaN",
        "[[[",
        "{}",
        "True",
        "(1, 2)",
        "None",
        "0",
        "9" * 400,
        "x" * 20_000,
        "[]",
        "null",
    ]
    keys = [*metadata(), *(key for key, _, _ in TABLE), "ss_network_args", "ss_datasets"]
    for _ in range(300):
        entries = {key: chance.choice(pieces) for key in chance.sample(keys, 12)}
        found = from_metadata(entries, RunSettings())
        assert isinstance(found.settings, RunSettings)
        assert isinstance(has_settings(entries), bool)
        assert flattened(entries) is not entries


# ---- Kumakobo's own --------------------------------------------------------------------------------------------------


@pytest.fixture
def own_lora(tmp_path):
    settings = with_values(RunSettings(), {"network.rank": 24, "optimizer.name": "Prodigy", "train.learning_rate": 1.0})
    path = tmp_path / "ours.safetensors"
    meta = metadata() | {SETTINGS_KEY: json.dumps(shareable(settings))}
    save_arrays(state(), meta, path, "fp16")
    return path, meta


def test_our_own_settings_come_whole_and_folders_stay(own_lora):
    path, meta = own_lora
    now = with_values(RunSettings(), {"dataset.train_dir": "/images", "model.base": "mine", "train.epochs": 33})
    found = settings_in(path, meta, values_shown(now))
    assert found.settings.network.rank == 24
    assert found.settings.optimizer.name == "Prodigy"
    assert found.settings.train.epochs == RunSettings().train.epochs
    assert str(found.settings.dataset.train_dir) == "/images"
    assert found.settings.model.base == "mine"
    assert "dataset.train_dir" not in found.taken
    assert found.taken["network.rank"] == 24


def test_a_folder_that_the_file_names_wins():
    loaded = with_values(RunSettings(), {"model.base": "theirs"})
    assert kept_places(loaded, with_values(RunSettings(), {"model.base": "mine"})).model.base == "theirs"


def test_a_file_that_does_not_say_how_it_was_trained(tmp_path):
    with pytest.raises(FormError):
        settings_in(tmp_path / "x.safetensors", {"modelspec.title": "x"}, values_shown(RunSettings()))


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_was_taken_and_what_not_is_listed(language):
    found = from_metadata(metadata(ss_training_comment=EVIL, ss_loss_type=EVIL), RunSettings())
    html = loaded_html(found, "a<b>.safetensors", language)
    assert "0.0003" in html
    assert "ss_color_aug" in html
    assert "<script" not in html
    assert "<b>.safe" not in html
