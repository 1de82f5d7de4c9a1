"""Planted faults: each gives one clear sentence in both languages that names the place, and loses nothing."""

import errno
import hashlib
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lora_core.errors import UserError
from lora_core.events import CheckpointSaved, RunFailed, RunFinished, Stop, Warned
from lora_core.help_cards import explain
from lora_core.io import safetensors as safetensors_io
from lora_core.preflight import check
from lora_core.runs import create_run
from lora_core.settings import RunSettings
from lora_core.settings.files import load_settings
from lora_core.settings.problems import SettingsError
from lora_core.train import runner, saving
from lora_core.train.commands import Control
from lora_core.train.runner import run_training
from tests.models import tiny_ldm_file, tiny_sd_folder

JAPANESE = range(0x3040, 0x9FFF)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_sd_folder(tmp_path_factory.mktemp("faults") / "tiny")


@pytest.fixture
def settings(tiny, tmp_path) -> RunSettings:
    """A run that would start: a tiny model, three images, 6 steps."""
    folder = tmp_path / "画像 images" / "2_usu bear"
    folder.mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (64, 64), (80 * i, 90, 90)).save(folder / f"{i}.png")
    return RunSettings(
        model={"base": str(tiny)},
        dataset={"train_dir": folder.parent, "resolution": "64", "min_bucket_reso": 32, "bucket_reso_steps": 32},
        network={"rank": 2, "alpha": 2},
        optimizer={"name": "AdamW"},
        schedule={"name": "constant"},
        train={"epochs": 1, "mixed_precision": "no"},
        save={"output_dir": tmp_path / "out", "output_name": "usu"},
    )


def set_values(settings: RunSettings, **sections: dict) -> RunSettings:
    data = settings.model_dump()
    for section, values in sections.items():
        data[section] = (data[section] | values) if "name" not in values else values
    return RunSettings.model_validate(data)


def images(settings: RunSettings) -> Path:
    return settings.dataset.train_dir / "2_usu bear"


# ---- What is found before anything starts ------------------------------------------------------------------------

Fault = Callable[[RunSettings, Path], RunSettings]
FAULTS: list[tuple[str, str, str, Fault]] = []
"""(name, setting it is shown at, key of its sentence, how it is planted)."""


def fault(name: str, path: str, key: str) -> Callable[[Fault], Fault]:
    def add(plant: Fault) -> Fault:
        FAULTS.append((name, path, key, plant))
        return plant

    return add


def with_base(settings: RunSettings, path: Path | str) -> RunSettings:
    return set_values(settings, model={"base": str(path)})


@fault("no model", "model.base", "preflight.no_model")
def _(settings, tmp):
    return with_base(settings, "")


@fault("model file missing", "model.base", "model.missing")
def _(settings, tmp):
    return with_base(settings, tmp / "nowhere.safetensors")


@fault("LoRA given as base", "model.base", "model.is_lora")
def _(settings, tmp):
    state = {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.zeros(2, 4)}
    save_file(state, tmp / "a.safetensors")
    return with_base(settings, tmp / "a.safetensors")


@fault("SDXL given as base", "model.base", "model.other_family")
def _(settings, tmp):
    state = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3),
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(8, 2048),
        "model.diffusion_model.label_emb.0.0.weight": torch.zeros(8, 2816),
        "conditioner.embedders.1.model.ln_final.weight": torch.zeros(1280),
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": torch.zeros(768),
        "first_stage_model.decoder.conv_in.weight": torch.zeros(4, 4, 3, 3),
    }
    save_file(state, tmp / "xl.safetensors")
    return with_base(settings, tmp / "xl.safetensors")


@fault("truncated checkpoint", "model.base", "model.truncated")
def _(settings, tmp):
    whole = tiny_ldm_file(tmp / "whole.safetensors").read_bytes()
    (tmp / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    return with_base(settings, tmp / "half.safetensors")


@fault("web page saved as checkpoint", "model.base", "model.is_web_page")
def _(settings, tmp):
    (tmp / "page.safetensors").write_text("<!DOCTYPE html><html><body>Log in</body></html>", "utf-8")
    return with_base(settings, tmp / "page.safetensors")


@fault("Hugging Face name without leave to download", "model.base", "model.hub_not_allowed")
def _(settings, tmp):
    return with_base(settings, "someone/some-model")


@fault("no image folder", "dataset.train_dir", "preflight.no_images_folder")
def _(settings, tmp):
    return set_values(settings, dataset={"train_dir": None})


@fault("image folder missing", "dataset.train_dir", "data.folder_missing")
def _(settings, tmp):
    return set_values(settings, dataset={"train_dir": tmp / "gone"})


@fault("child folder chosen", "dataset.train_dir", "data.child_chosen")
def _(settings, tmp):
    return set_values(settings, dataset={"train_dir": images(settings)})


@fault("empty folder", "dataset.train_dir", "data.no_images")
def _(settings, tmp):
    (tmp / "empty").mkdir()
    return set_values(settings, dataset={"train_dir": tmp / "empty"})


@fault("truncated image", "dataset.train_dir", "data.image_truncated")
def _(settings, tmp):
    Image.effect_noise((256, 256), 90).save(images(settings) / "cut.jpg")
    whole = (images(settings) / "cut.jpg").read_bytes()
    (images(settings) / "cut.jpg").write_bytes(whole[: len(whole) // 3])
    return settings


@fault("text named .png", "dataset.train_dir", "data.not_an_image")
def _(settings, tmp):
    (images(settings) / "readme.png").write_text("not a picture", "utf-8")
    return settings


@fault("caption in Shift-JIS", "dataset.caption_extension", "data.caption_shift_jis")
def _(settings, tmp):
    (images(settings) / "0.txt").write_bytes("うすい色のくま".encode("cp932"))
    return settings


@fault("the LoRA to go on from is missing", "network.network_weights", "model.missing")
def _(settings, folder):
    return set_values(settings, network={"network_weights": folder / "gone.safetensors"})


@fault("the file to go on from is a model", "network.network_weights", "preflight.weights_no_lora")
def _(settings, folder):
    return set_values(settings, network={"network_weights": settings.model.base})


@fault("no output folder", "save.output_dir", "preflight.no_output_folder")
def _(settings, tmp):
    return set_values(settings, save={"output_dir": None})


@fault("output folder is a file", "save.output_dir", "preflight.output_is_file")
def _(settings, tmp):
    (tmp / "file").write_text("x", "utf-8")
    return set_values(settings, save={"output_dir": tmp / "file"})


@fault("output folder can't be made", "save.output_dir", "preflight.output_not_writable")
def _(settings, tmp):
    (tmp / "file").write_text("x", "utf-8")
    return set_values(settings, save={"output_dir": tmp / "file" / "below"})


@fault("a file of this name is there", "save.output_name", "preflight.would_overwrite")
def _(settings, tmp):
    (tmp / "out").mkdir()
    (tmp / "out" / "usu.safetensors").write_bytes(b"dear")
    return settings


@fault("no training state where it should be", "save.resume", "train.state_missing")
def _(settings, tmp):
    (tmp / "usu-state").mkdir()
    return set_values(settings, save={"resume": tmp / "usu-state"})


@fault("Prodigy with AdamW's learning rate", "train.learning_rate", "checks.own_rate_low")
def _(settings, tmp):
    return set_values(settings, optimizer={"name": "Prodigy"})


@fault("adafactor schedule with AdamW", "schedule.name", "checks.adafactor_schedule")
def _(settings, tmp):
    return set_values(settings, schedule={"name": "adafactor"})


@fault("unknown option in a sample prompt", "sample.prompts", "prompt.unknown_option")
def _(settings, tmp):
    return set_values(settings, sample={"prompts": "usu bear --w 64\nbear --zoom 3"})


def tree_of(folder: Path) -> dict[str, str]:
    """Content hash of every file below a folder."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize(("name", "path", "key", "plant"), FAULTS, ids=[f[0] for f in FAULTS])
def test_found_before_start(name, path, key, plant, settings, tmp_path):
    planted = plant(settings, tmp_path)
    before = tree_of(tmp_path)
    found = check(planted, starting=True, deep=True)
    assert [p.key for p in found].count(key) == 1, found
    problem = next(p for p in found if p.key == key)
    assert problem.path == path
    assert_both_languages(problem.message("en"), problem.message("ja"))
    assert tree_of(tmp_path) == before
    if problem.severity == "error":
        run = create_run(planted, tmp_path / "runs")
        assert run_training(planted, run) == 1
        failed = run.read_events()[-1]
        assert isinstance(failed, RunFailed)
        assert problem.message("ja") in failed.message["ja"]


def assert_both_languages(english: str, japanese: str) -> None:
    assert 20 < len(english) < 600
    assert "Traceback" not in english
    assert english != japanese
    assert any(ord(character) in JAPANESE for character in japanese)


def test_a_run_without_faults_finds_nothing(settings):
    assert [p for p in check(settings, starting=True) if p.severity == "error"] == []


def test_full_disk_is_seen_before_start(settings, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12 - 10**6, 10**6))
    found = check(settings)
    assert [p.key for p in found if p.severity == "error"] == ["preflight.disk_full"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[train]\nlearning_rate = 'fast'\n", "train.learning_rate"),
        ("[train]\nepochs = 0\n", "train.epochs"),
        ("[train]\nlearning_rte = 1e-4\n", "learning_rate"),
        ("[dataset]\nresolution = '600,'\n", "dataset.resolution"),
        ("[train\nepochs = 1\n", "line 1"),
    ],
)
def test_a_settings_file_that_can_not_be_read_names_the_place(content, expected, tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(content, "utf-8")
    with pytest.raises((UserError, SettingsError)) as error:
        load_settings(path)
    assert expected in error.value.message("en")
    assert "my.toml" in error.value.message("en")
    assert_both_languages(error.value.message("en"), error.value.message("ja"))


# ---- What goes wrong while it runs -------------------------------------------------------------------------------


def run(settings: RunSettings, tmp_path: Path) -> list:
    folder = create_run(settings, tmp_path / "runs")
    run_training(settings, folder)
    return folder.read_events()


def test_a_caption_over_225_tokens_is_said_once(settings, tmp_path):
    (images(settings) / "0.txt").write_text("bear " * 300, "utf-8")
    events = run(set_values(settings, model={"max_token_length": 225}), tmp_path)
    warnings = [e for e in events if isinstance(e, Warned) and e.path == "model.max_token_length"]
    assert len(warnings) == 1
    assert "225" in warnings[0].message["en"]
    assert isinstance(events[-1], RunFinished)


def test_out_of_memory_says_what_to_do_and_keeps_what_was_learned(settings, tmp_path, monkeypatch):
    fail_at(monkeypatch, 4, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    events = run(settings, tmp_path)
    assert isinstance(events[-1], RunFailed)
    assert events[-1].message["en"] == explain("torch.OutOfMemoryError: CUDA out of memory.").text("en")
    rescued = [e for e in events if isinstance(e, CheckpointSaved)]
    assert rescued[-1].step == 3
    assert rescued[-1].state is not None
    assert rescued[-1].path.is_file()


def fail_at(monkeypatch, step: int, error: Exception) -> None:
    """Let the n-th step (from 1) of the next run raise an error."""
    from lora_core.train import loop

    real = loop.train_step

    def failing(session, index):
        if index + 1 == step:
            raise error
        return real(session, index)

    monkeypatch.setattr(loop, "train_step", failing)


@pytest.fixture
def full_disk(monkeypatch):
    """The disk is full from the second write on, until ``full_disk.clear()``."""
    real, state = safetensors_io.save_file, {"writes": 0, "room_again_at": None}

    def save_file(*arguments):
        state["writes"] += 1
        if state["writes"] > 1 and (state["room_again_at"] is None or state["writes"] < state["room_again_at"]):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(safetensors_io, "save_file", save_file)
    monkeypatch.setattr(saving, "RETRY_AFTER", 0.01)
    return state


def test_a_disk_that_fills_up_is_waited_for_and_the_run_is_not_lost(settings, tmp_path, full_disk):
    full_disk["room_again_at"] = 5
    events = run(set_values(settings, save={"save_every_n_steps": 2}), tmp_path)
    warnings = [e for e in events if isinstance(e, Warned) and e.path == "save.output_dir"]
    assert len(warnings) == 3  # at step 4, and twice at the end
    assert_both_languages(warnings[0].message["en"], warnings[0].message["ja"])
    assert isinstance(events[-1], RunFinished)
    written = sorted(p.name for p in (tmp_path / "out").glob("*"))
    assert written == ["usu-step00000002.safetensors", "usu.json", "usu.safetensors"]


def test_giving_up_on_a_full_disk_leaves_whole_files_only(settings, tmp_path, full_disk, monkeypatch):
    monkeypatch.setattr(Control, "wait", lambda self, seconds: False)
    events = run(set_values(settings, save={"save_every_n_steps": 2}), tmp_path)
    assert isinstance(events[-1], RunFailed)
    assert "usu.safetensors" in events[-1].message["en"]
    assert [p.name for p in (tmp_path / "out").glob("*")] == ["usu-step00000002.safetensors"]


def test_an_error_nobody_foresaw_is_still_a_sentence(settings, tmp_path, monkeypatch):
    fail_at(monkeypatch, 2, RuntimeError("something odd"))
    events = run(settings, tmp_path)
    failed = events[-1]
    assert isinstance(failed, RunFailed)
    assert "something odd" in failed.message["en"]
    assert "Traceback" not in failed.message["en"]
    assert "Traceback" in failed.detail


def test_a_killed_process_is_explained():
    assert_both_languages(explain("", -9).text("en"), explain("", -9).text("ja"))
    assert "memory" in explain("", -9).text("en")


def test_asked_to_stop_it_saves_and_ends_well(settings, tmp_path):
    folder = create_run(settings, tmp_path / "runs")
    folder.send(Stop(save=True))
    assert run_training(settings, folder) == runner.EXIT_OK
    events = folder.read_events()
    assert events[-1].reason == "stopped"
    assert events[-1].path.is_file()


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_nothing(settings, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    torch.save({"state_dict": {"model.diffusion_model.input_blocks.0.0.weight": Evil()}}, tmp_path / "evil.ckpt")
    events = run(with_base(settings, tmp_path / "evil.ckpt"), tmp_path)
    assert isinstance(events[-1], RunFailed)
    assert "evil.ckpt" in events[-1].message["en"]
    assert not (tmp_path / "owned").exists()
