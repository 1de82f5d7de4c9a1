"""Kohya's files: the sd-scripts form, datasets, what a file is, and input that is broken."""

import json
from pathlib import Path

import pytest

from lora_core.errors import UserError
from lora_core.settings import RunSettings
from lora_core.settings.files import load, load_settings, save_settings
from lora_core.settings.kohya import GROUPS, import_command, import_tree, is_kohya, report
from lora_core.settings.kohya.convert import RULES
from lora_core.settings.kohya.sources import from_gui
from tests.settings.kohya_files import KEYS, SCRIPTS, entry, gui, nothing, scripts

REAL = Path(__file__).resolve().parents[3] / "shared" / "kohya_presets"
"""Real files of kohya_ss in a folder beside the project, for who has them: they are not ours to pass on."""


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
