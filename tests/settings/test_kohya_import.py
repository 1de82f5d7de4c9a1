"""Kohya's files: every key is accounted for, and what means something else here is converted and said."""

import json
from pathlib import Path

import pytest

from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES, catalogue
from lora_core.settings import RunSettings
from lora_core.settings.fields import fields_of, values_of
from lora_core.settings.files import load, load_settings, save_settings
from lora_core.settings.kohya import GROUPS, import_command, import_tree, is_kohya, report
from lora_core.settings.kohya.convert import RULES
from lora_core.settings.kohya.needs import NEEDS
from lora_core.settings.kohya.sources import from_gui
from lora_core.settings.kohya.table import ABSENT, ALIASES, OLD, ROWS

KEYS = json.loads((Path(__file__).parent / "data/kohya_keys.json").read_text(encoding="utf-8"))
"""The GUI's keys with their defaults, the old ones, and the options of sd-scripts with theirs."""
REAL = Path(__file__).resolve().parents[3] / "shared" / "kohya_presets"
"""Real files of kohya_ss in a folder beside the project, for who has them: they are not ours to pass on."""
SCRIPTS = {"network_module": "networks.lora"}


def nothing(_):
    return False


def gui(**changes):
    """A file as today's GUI saves it."""
    return import_tree(KEYS["gui"] | changes, "kohya.json", nothing)


def scripts(**options):
    return import_tree(SCRIPTS | options, "kohya.toml", nothing)


def entry(imported, key):
    (found,) = [e for e in imported.entries if e.key == key]
    return found


# ---- nothing is dropped ---------------------------------------------------------------------------------------------


def test_the_table_holds_every_key_of_the_gui_with_its_default():
    assert {k: row.gui for k, row in ROWS.items() if row.gui is not ABSENT and k in KEYS["gui"]} == KEYS["gui"]
    assert set(KEYS["legacy"]) <= ROWS.keys() | OLD.keys()


def test_the_table_holds_every_option_of_train_network_with_its_default():
    names = {name: ALIASES.get(name, name) for name in KEYS["train_network"]}
    own = {"network_args", "network_module", "caption_extention"}  # taken apart, or an old spelling
    differing = {
        name: ROWS[key].scripts
        for name, key in names.items()
        if name not in own and ROWS[key].scripts != KEYS["train_network"][name]
    }
    assert not differing


@pytest.mark.parametrize("odd", [False, True], ids=["defaults", "everything changed"])
def test_every_key_of_the_gui_is_told_once(odd):
    values = KEYS["gui"] | dict.fromkeys(KEYS["legacy"])
    values = {key: changed(value) for key, value in values.items()} if odd else values
    found = [e.key for e in import_tree(values, "x", nothing).entries if e.given]
    assert sorted(found) == sorted(values)


@pytest.mark.parametrize("scope", ["train_network", "other_scripts"])
def test_every_option_of_sd_scripts_is_told_once(scope):
    options = dict.fromkeys(KEYS[scope], "1")
    options = {k: v for k, v in options.items() if k not in ("network_args", "network_module", "dataset_config")}
    found = [e.key for e in scripts(**options).entries if e.given]
    assert sorted(found) == sorted(options | SCRIPTS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_entry_has_its_sentence(language):
    told = import_tree({key: changed(value) for key, value in KEYS["gui"].items()}, "x", nothing)
    for e in told.entries:
        assert e.message(language) or e.group == "mapped", e
        assert "{" not in e.message(language)
    assert len(report.lines(told, language)) > 20


@pytest.mark.parametrize("value", [{}, {"a": {"b": 1}}, [{}], "'"], ids=str)
def test_a_key_of_a_wrong_kind_is_told_as_any_other(value):
    for name in ("gui", "train_network"):
        values = dict.fromkeys(KEYS[name].keys() - {"network_args", "additional_parameters"}, value)
        told = import_tree(values | ({"LoRA_type": "Standard"} if name == "gui" else {}), "x", nothing)
        assert {e.key for e in told.entries if e.given} >= values.keys() - {"network_module"}


def test_every_topic_has_a_sentence():
    words = catalogue("en")
    topics = {row.topic for row in ROWS.values() if row.topic}
    assert not {t for t in topics if f"kohya.todo.{t}" not in words and f"kohya.idle.{t}" not in words}
    assert {row.needs for row in ROWS.values() if row.needs} <= NEEDS.keys()


def test_a_kohya_name_of_a_field_leads_to_it():
    assert {f.kohya for f in fields_of().values() if f.kohya} <= ROWS.keys()


def test_a_field_that_is_added_takes_its_key_without_a_line_in_the_table(monkeypatch):
    """Stands for a later version: the same field under the Kohya name of an option that is not here yet."""
    from dataclasses import replace

    fields = dict(fields_of())
    fields["noise.noise_offset"] = replace(fields["noise.noise_offset"], kohya="ip_noise_gamma")
    for module in ("draft", "rules"):
        monkeypatch.setattr(f"lora_core.settings.kohya.{module}.fields_of", lambda: fields, raising=False)
    told = gui(ip_noise_gamma=0.2)
    assert entry(told, "ip_noise_gamma").path == "noise.noise_offset"
    assert told.settings.noise.noise_offset == 0.2


def changed(value):
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else f"{value or ''}x"


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


# ---- sd-scripts -----------------------------------------------------------------------------------------------------


def test_what_sd_scripts_is_not_told_is_its_default():
    run = scripts(learning_rate=1e-4).settings
    assert (run.network.rank, run.network.alpha, run.schedule.name) == (4, 1, "constant")
    assert run.dataset.caption_extension == ".caption"
    assert not run.dataset.enable_bucket
    assert run.optimizer.name == "AdamW"


def test_sections_of_a_config_are_only_for_reading():
    flat = {"network_module": "networks.lora", "network_dim": 8, "learning_rate": 1e-4, "unet_lr": 2e-4}
    sectioned = {
        "network_arguments": {k: flat[k] for k in list(flat)[:2]},
        "other": {k: flat[k] for k in list(flat)[2:]},
    }
    assert import_tree(flat, "x", nothing) == import_tree(sectioned, "x", nothing)


def test_network_args_are_taken_apart():
    told = scripts(network_dim=8, network_args=["conv_dim=4", "rank_dropout=0.1", "what=1"])
    assert told.settings.network.rank_dropout == 0.1
    assert entry(told, "network_args what").reason == "why.unknown"
    assert entry(told, "network_args conv_dim")


def test_prompts_are_read_from_the_file_if_it_may_be_read(tmp_path):
    (tmp_path / "p.txt").write_text("a bear --n blurry\n", encoding="utf-8")
    options = SCRIPTS | {"sample_prompts": str(tmp_path / "p.txt")}
    assert import_tree(options, "x").settings.sample.prompts == "a bear --n blurry"
    assert import_tree(options, "x", nothing).settings.sample.prompts == ""


# ---- datasets -------------------------------------------------------------------------------------------------------


def dataset(*subsets, **shared):
    tree = {"datasets": [{**shared, "subsets": list(subsets)}]}
    return import_tree(tree, "dataset.toml", nothing, Path("/x/dataset.toml"))


def test_a_dataset_config_is_pointed_at():
    """It is read where training happens; beside it stand the defaults of sd-scripts, which it falls back on."""
    told = dataset({"image_dir": "/x/bears", "num_repeats": 20}, resolution=[512, 768], batch_size=2, keep_tokens=1)
    run = told.settings
    assert (run.dataset.config, run.dataset.train_dir) == (Path("/x/dataset.toml"), None)
    assert (run.dataset.enable_bucket, run.dataset.caption_extension) == (False, ".caption")
    assert not told.of("unsupported")
    assert run.network == RunSettings().network  # a dataset says nothing about training


def test_what_a_dataset_config_asks_for_in_vain_is_told():
    told = dataset({"image_dir": "/x/a", "color_aug": True}, {"image_dir": "/y/b"}, validation_split=0.2)
    assert {e.key for e in told.of("unsupported")} == {"color_aug"}
    assert (told.settings.validation.split, told.settings.validation.every_n_epochs) == (0.2, 1)
    assert not dataset({"image_dir": "/x/a", "color_aug": False}, validation_split=0.0).of("unsupported")


def test_a_named_dataset_config_counts_instead_of_folders():
    told = gui(dataset_config="/x/d.toml", train_data_dir="/x/img", reg_data_dir="/x/reg")
    assert (told.settings.dataset.config, told.settings.dataset.train_dir) == (Path("/x/d.toml"), None)
    assert {entry(told, key).group for key in ("train_data_dir", "reg_data_dir")} == {"no_effect"}
    assert gui(train_data_dir="/x/img").settings.dataset.train_dir == Path("/x/img")


def test_steps_are_counted_in_the_dataset_config(tmp_path):
    from PIL import Image

    (tmp_path / "bears").mkdir()
    for number in range(3):
        Image.new("RGB", (64, 64)).save(tmp_path / "bears" / f"{number}.png")
    text = "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'bears'\nclass_tokens = 'bear'\nnum_repeats = 10\n"
    (tmp_path / "d.toml").write_text(text, encoding="utf-8")
    told = import_tree(KEYS["gui"] | {"dataset_config": str(tmp_path / "d.toml"), "max_train_steps": 60}, "x")
    assert told.settings.train.epochs == 2


# ---- detection, and input that is broken ----------------------------------------------------------------------------


def test_our_own_files_are_not_taken_for_kohyas(tmp_path):
    assert not is_kohya(RunSettings().model_dump(mode="json"))
    assert not is_kohya({"network": {"network_dim": 8}})
    assert not is_kohya({"train": {"learning_rate": 1e-4, "seed": 1}})
    assert not is_kohya({})


def test_kohya_files_load_as_settings_do(tmp_path):
    path = tmp_path / "くま kohya.json"
    path.write_text(json.dumps(KEYS["gui"] | {"network_dim": 12}), encoding="utf-8")
    assert load_settings(path).network.rank == 12
    assert load(path).kohya.source == path.name
    assert load(save_settings(RunSettings(), tmp_path / "ours.toml")).kohya is None


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        [1, [2]],
        {"a": {}},
        "nan",
        float("inf"),
        "x" * 10_000,
        -1,
        10**400,
        True,
        "\ud800",
        "${HOME}",
        "\x00",
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_value_of_any_key_is_more_than_a_sentence(value):
    """Each key alone would take long; all at once meets every rule."""
    told = import_tree(dict.fromkeys(KEYS["gui"], value) | {"LoRA_type": "Standard"}, "x", nothing)
    assert report.lines(told, "ja")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "[" * 100_000),
        ("a.json", '{"network_dim": ' + "9" * 10_000 + "}"),
        ("a.json", "{"),
        ("a.json", "[1]"),
        ("a.toml", "a = " + "[" * 100_000),
        ("a.toml", "[[datasets]]\nresolution = 512"),
        ("a.toml", "datasets = [1]"),
        ("a.sh", "echo hello"),
        ("a.sh", "accelerate launch train_db.py --x train_network"),
        ("a.sh", 'accelerate launch train_network.py --x "never closed'),
    ],
)
def test_broken_files_are_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as found:
        load(tmp_path / name)
    assert len(found.value.message("ja")) < 400


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files of kohya_ss are not here")
@pytest.mark.parametrize("path", sorted(REAL.glob("*.json")), ids=lambda path: path.stem)
def test_real_files(path):
    tree = json.loads(path.read_text(encoding="utf-8"))
    told = import_tree(tree, path.name, nothing)
    assert {e.key for e in told.entries if e.given} >= tree.keys()
    assert {e.group for e in told.entries} <= set(GROUPS)


def test_the_rules_stand_in_their_order():
    names = [rule.__name__ for rule in RULES]
    assert names.index("optimizer") < names.index("schedule") > names.index("length")


def test_reading_changes_nothing_in_the_file():
    tree = dict(KEYS["gui"])
    from_gui(tree)
    assert tree == KEYS["gui"]


def test_commands_and_files_agree():
    options = {"network_dim": 8, "learning_rate": 1e-4, "network_module": "networks.lora", "max_train_epochs": 3}
    line = "accelerate launch train_network.py " + " ".join(f"--{k}={v}" for k, v in options.items())
    assert import_command(line, "x", nothing).settings == scripts(**options).settings


# ---- loss and noise --------------------------------------------------------------------------------------------------


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
