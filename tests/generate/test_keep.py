"""The chosen epoch: copied, never moved and never over another file, and remembered by its training and the job."""

import os
import time
from pathlib import Path

import pytest

from lora_core.errors import UserError
from lora_core.events import EpochKept
from lora_core.generate.keep import keep, proposed_name, recommended_strength, training_of
from lora_core.runs import RunFolder, create_run
from lora_core.settings import RunSettings
from lora_core.settings.generate import GridSettings


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))


@pytest.fixture
def epoch(tmp_path) -> Path:
    path = tmp_path / "出力 out" / "usu-v2-000002.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"epoch 2")
    return path


def training(folder: Path, name: str = "usu-v2", **validation) -> RunFolder:
    save = {"output_dir": str(folder), "output_name": name}
    return create_run(RunSettings.model_validate({"save": save, "validation": validation}))


def choices(run: RunFolder) -> list[EpochKept]:
    return list(run.kept_reader().read())


def test_the_file_is_copied_and_both_runs_know(epoch):
    run, job = training(epoch.parent), create_run(GridSettings())
    path = keep(epoch, "usu-v2-best", job)
    assert path == epoch.parent / "usu-v2-best.safetensors"
    assert path.read_bytes() == epoch.read_bytes() == b"epoch 2"
    for folder in (run, job):
        assert [(kept.source, kept.path) for kept in choices(folder)] == [(epoch, path)]
    assert not run.events.exists(), "what a training says of itself stays as it is"


def test_a_file_without_a_training_is_copied_all_the_same(epoch):
    other = training(epoch.parent, "usu")
    assert keep(epoch, "mine.safetensors").name == "mine.safetensors"
    assert choices(other) == []


def test_the_newest_training_of_the_name_is_meant(epoch, tmp_path):
    training(epoch.parent)
    newest = training(epoch.parent)
    training(tmp_path / "elsewhere")
    assert training_of(epoch)[0] == newest


def test_the_proposed_name_is_free(epoch):
    assert proposed_name(epoch) == "usu-v2-best"
    keep(epoch, proposed_name(epoch))
    assert proposed_name(epoch) == "usu-v2-best-2"
    assert proposed_name(epoch.with_name("usu-v2.safetensors")) == "usu-v2-best-2"


def test_the_strength_of_the_last_choice_is_recommended_for_copy_and_epoch(epoch):
    training(epoch.parent)
    assert recommended_strength(epoch) is None
    first = keep(epoch, "first", strength=0.6)
    assert [recommended_strength(path) for path in (epoch, first)] == [0.6, 0.6]
    second = keep(epoch, "second", create_run(GridSettings()), strength=0.8)
    assert [recommended_strength(path) for path in (epoch, first, second)] == [0.8, 0.6, 0.8]
    assert recommended_strength(epoch.with_name("other.safetensors")) is None


def test_the_source_models_column_recommends_nothing(epoch):
    training(epoch.parent)
    assert recommended_strength(keep(epoch, "mine", strength=0.0)) is None


def test_a_file_written_after_the_choice_is_another_one(epoch):
    training(epoch.parent)
    keep(epoch, "mine", strength=0.6)
    later = time.time() + 60
    os.utime(epoch, (later, later))
    assert recommended_strength(epoch) is None


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("there", "keep.exists"),
        ("usu-v2-000009", "keep.name_of_run"),
        ("usu-v2", "keep.name_of_run"),
        ("usu-v2-best", "keep.name_of_run"),
        (" .safetensors", "keep.no_name"),
        ("x" * 121, "keep.no_name"),
        ("../usu", "settings.file_name"),
        ("nul", "settings.reserved_name"),
    ],
)
def test_no_file_is_lost_and_none_written_where_it_would_be(epoch, name, key):
    training(epoch.parent, keep_best=True)
    (epoch.parent / "there.safetensors").write_bytes(b"mine")
    before = {path: path.read_bytes() for path in epoch.parent.iterdir()}
    with pytest.raises(UserError) as caught:
        keep(epoch, name)
    assert caught.value.key == key
    assert {path: path.read_bytes() for path in epoch.parent.iterdir()} == before


def test_a_file_that_is_gone_is_told(epoch):
    epoch.unlink()
    with pytest.raises(UserError) as caught:
        keep(epoch, "mine")
    assert caught.value.key == "keep.gone"
    assert list(epoch.parent.iterdir()) == []
