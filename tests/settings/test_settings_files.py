"""Settings in files: what is read, what is refused and in which words, and that nothing is lost."""

import json
import os
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from lora_core import runs
from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES
from lora_core.io.metadata import SETTINGS_KEY, shareable
from lora_core.settings import RunSettings, files
from lora_core.settings.files import MIGRATIONS, load_settings, recent, remember, save_settings
from lora_core.settings.overlay import with_values
from lora_core.settings.problems import SettingsError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def written(tmp_path, text, name="my.toml", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def test_a_partial_file_is_laid_over_the_defaults(tmp_path):
    path = written(tmp_path, "[train]\nepochs = 3\n[optimizer]\nname = 'Prodigy'\n")
    assert load_settings(path) == with_values(RunSettings(), {"train.epochs": 3, "optimizer.name": "Prodigy"})


@pytest.mark.parametrize("name", ["my.toml", "MY.TOML"])
def test_a_byte_order_mark_is_no_hindrance(tmp_path, name):
    assert load_settings(written(tmp_path, "[train]\nepochs = 3", name, "utf-8-sig")).train.epochs == 3


def test_the_folder_of_a_run_stands_for_its_settings():
    settings = with_values(RunSettings(), {"network.rank": 5})
    assert load_settings(runs.create_run(settings).path) == settings


def test_a_lora_gives_back_what_it_was_trained_with_but_no_paths(tmp_path):
    settings = with_values(
        RunSettings(), {"network.rank": 5, "optimizer.name": "Prodigy", "dataset.train_dir": "/mine"}
    )
    path = tmp_path / "a.safetensors"
    save_file({"x": np.zeros(1)}, path, metadata={SETTINGS_KEY: json.dumps(shareable(settings))})
    assert load_settings(path) == with_values(settings, {"dataset.train_dir": None})


def test_a_lora_of_another_program_is_named(tmp_path):
    save_file({"x": np.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="another program"):
        load_settings(tmp_path / "a.safetensors")


def test_empty_text_means_not_set(tmp_path):
    path = written(tmp_path, '[train]\nseed = ""\nmax_grad_norm = "none"\n')
    assert (load_settings(path).train.seed, load_settings(path).train.max_grad_norm) == (None, None)


BROKEN = {
    "a line that is no TOML": ("[train]\nepochs = = 3\n", "my.toml", "settings.file_broken", 2),
    "an unclosed text": ('[save]\n\noutput_name = "x', "my.toml", "settings.file_broken", 3),
    "a Windows path in double quotes": ('[model]\nbase = "C:\\Users\\x"', "my.toml", "settings.file_backslash", 2),
    "another Windows path": ('[model]\nbase = "D:\\pictures"', "my.toml", "settings.file_backslash", 2),
    "broken JSON": ('{\n"train": {\n"epochs" 3}}', "my.json", "settings.file_broken", 3),
    "JSON that is a list": ("[1, 2]", "my.json", "settings.file_no_table", None),
    "a newer version": ("version = 99", "my.toml", "settings.newer_version", None),
    "a version that is text": ('version = "new"', "my.toml", "settings.bad_version", None),
    "a version of 0": ("version = 0", "my.toml", "settings.bad_version", None),
    "another kind of file": ("epochs: 3", "my.yaml", "settings.file_kind", None),
}


@pytest.mark.parametrize(("text", "name", "key", "line"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_cannot_be_read_is_explained(tmp_path, text, name, key, line):
    path = written(tmp_path, text, name)
    with pytest.raises(UserError) as caught:
        load_settings(path)
    assert caught.value.key == key
    assert caught.value.values.get("line") == line
    assert all(str(path) in caught.value.message(language) for language in LANGUAGES)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_settings(tmp_path / "none.toml")


def test_a_file_in_another_encoding_is_named(tmp_path):
    with pytest.raises(UserError, match="UTF-8"):
        load_settings(written(tmp_path, '[save]\ncomment = "くま"', encoding="cp932"))


def test_unknown_keys_are_named_with_the_nearest(tmp_path):
    with pytest.raises(SettingsError) as caught:
        load_settings(written(tmp_path, "[train]\nlearning_rat = 1\n[trian]\nepochs = 1\n"))
    assert "train.learning_rate" in str(caught.value)
    assert {problem.path for problem in caught.value.problems} == {"train.learning_rat", "trian"}


def test_a_file_of_an_older_version_goes_through_every_migration_since(tmp_path, monkeypatch):
    def renamed(tree):
        return tree | {"train": {"epochs": tree["train"]["rounds"]}}

    def doubled(tree):
        return tree | {"train": {"epochs": tree["train"]["epochs"] * 2}}

    monkeypatch.setattr(files, "MIGRATIONS", [renamed, doubled])
    tree = {"version": 1, "train": {"rounds": 3}}
    assert files.migrated(tree, tmp_path)["train"] == {"epochs": 6}
    assert files.migrated({"version": 2, "train": {"epochs": 3}}, tmp_path)["train"] == {"epochs": 6}
    assert tree == {"version": 1, "train": {"rounds": 3}}
    assert files.migrated({"train": {"rounds": 3}}, tmp_path) == {"version": 3, "train": {"epochs": 6}}


def test_settings_of_the_loss_move_out_of_the_training_of_version_1(tmp_path):
    path = tmp_path / "old.toml"
    path.write_text(
        "[train]\nepochs = 3\nmin_snr_gamma = 5.0\nnoise_offset = 0.1\n[loss]\nmin_snr_gamma = 1.0\n", "utf-8"
    )
    settings = load_settings(path)
    assert (settings.train.epochs, settings.loss.min_snr_gamma, settings.noise.noise_offset) == (3, 1.0, 0.1)


def test_there_is_a_migration_from_every_older_version():
    assert len(MIGRATIONS) == RunSettings().version - 1


@pytest.mark.parametrize("name", ["my.toml", "my.json"])
def test_an_existing_file_stays_unless_overwriting_is_wanted(tmp_path, name):
    path = save_settings(RunSettings(), tmp_path / name)
    before = path.read_bytes()
    changed = with_values(RunSettings(), {"train.epochs": 3})
    with pytest.raises(UserError, match="already there"):
        save_settings(changed, path)
    assert path.read_bytes() == before
    save_settings(changed, path, overwrite=True)
    assert load_settings(path) == changed


def test_a_failed_write_leaves_the_old_file_and_no_scraps(tmp_path, monkeypatch):
    path = save_settings(RunSettings(), tmp_path / "my.toml")
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        save_settings(with_values(RunSettings(), {"train.epochs": 3}), path, overwrite=True)
    assert path.read_bytes() == before
    assert [other.name for other in tmp_path.iterdir()] == ["my.toml"]


def test_only_toml_and_json_are_written(tmp_path):
    with pytest.raises(UserError, match=r"\.toml or \.json"):
        save_settings(RunSettings(), tmp_path / "my.yaml")


def test_folders_on_the_way_are_made(tmp_path):
    assert save_settings(RunSettings(), tmp_path / "設定 a" / "b" / "my.toml").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_a_saved_file_is_as_readable_as_any_other(tmp_path):
    plain = written(tmp_path, "", "plain.txt")
    assert save_settings(RunSettings(), tmp_path / "my.toml").stat().st_mode == plain.stat().st_mode


def test_recent_files_come_newest_first_and_once(tmp_path):
    paths = [save_settings(RunSettings(), tmp_path / f"{n}.toml").resolve() for n in range(12)]
    for path in [*paths, paths[5]]:
        remember(path)
    assert recent() == [paths[5], *reversed(paths[2:5] + paths[6:])]


def test_recent_files_that_are_gone_are_left_out(tmp_path):
    path = save_settings(RunSettings(), tmp_path / "my.toml")
    remember(path)
    path.unlink()
    assert recent() == []


@pytest.mark.parametrize("content", ["", "{", '{"a": 1}', "[1, null]", "\udcff"])
def test_a_broken_list_of_recent_files_is_an_empty_one(home, content):
    home.mkdir()
    (home / "recent.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert recent() == []


def test_remembering_never_fails(home, tmp_path):
    home.write_text("a file where the folder should be")
    remember(tmp_path / "my.toml")
    assert recent() == []


def test_json_is_plain(tmp_path):
    path = save_settings(RunSettings(), tmp_path / "my.json")
    assert json.loads(path.read_text(encoding="utf-8"))["train"]["epochs"] == RunSettings().train.epochs
