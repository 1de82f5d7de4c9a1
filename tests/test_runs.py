"""The folder of a run: made once, found again, never shared."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_core import runs
from lora_core.events import Pause, Resume, StepDone, Stop, append
from lora_core.runs import RunFolder, create_run, list_runs
from lora_core.settings import RunSettings
from lora_core.settings.files import load_settings
from lora_core.settings.overlay import with_values


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "くま 工房"))
    return tmp_path / "くま 工房"


def named(name):
    return with_values(RunSettings(), {"save.output_name": name})


def test_a_run_holds_exactly_its_settings(home):
    settings = with_values(RunSettings(), {"train.seed": None, "optimizer.name": "Prodigy", "dataset.train_dir": "/絵"})
    run = create_run(settings)
    assert run.path.parent == home / "runs"
    assert load_settings(run.settings) == settings


def test_runs_of_the_same_second_have_folders_of_their_own(monkeypatch):
    monkeypatch.setattr(runs.time, "strftime", lambda _: "20260101-000000")
    made = [create_run(named("bear")).path.name for _ in range(12)]
    assert made[:3] == ["20260101-000000-bear", "20260101-000000-bear-02", "20260101-000000-bear-03"]
    assert len(set(made)) == 12


def test_runs_are_listed_newest_first(monkeypatch):
    made = []
    for second in (3, 1, 2):
        monkeypatch.setattr(runs.time, "strftime", lambda _, s=second: f"20260101-00000{s}")
        made.append(create_run(named("bear")))
    assert list_runs() == [made[0], made[2], made[1]]


def test_runs_of_the_same_second_are_listed_newest_first(monkeypatch):
    monkeypatch.setattr(runs.time, "strftime", lambda _: "20260101-000000")
    made = [create_run(named("bear")) for _ in range(11)]
    assert list_runs() == made[::-1]


def test_other_folders_are_no_runs(home):
    create_run(RunSettings())
    (home / "runs" / "notes").mkdir()
    (home / "runs" / "file.txt").write_text("x")
    assert len(list_runs()) == 1


def test_without_runs_the_list_is_empty():
    assert list_runs() == []


@pytest.mark.parametrize("name", ["usu bear", "うす くま", "a\u3000b", "熊" * 40])
def test_any_output_name_makes_a_folder(name):
    run = create_run(named(name))
    assert run.path.is_dir()
    assert not any(letter.isspace() for letter in run.path.name)


def test_commands_arrive_in_order():
    run = create_run(RunSettings())
    reader = run.command_reader()
    run.send(Pause())
    run.send(Resume())
    run.send(Stop(save=False))
    assert list(reader.read()) == [Pause(), Resume(), Stop(save=False)]


def test_events_are_read_again_after_a_restart():
    run = create_run(RunSettings())
    event = StepDone(step=1, epoch=1, loss=0.5, learning_rate={"unet": 1e-4}, seconds=1)
    append(run.events, event)
    assert RunFolder(run.path).read_events() == [event]


def test_a_run_without_events_has_none():
    assert create_run(RunSettings()).read_events() == []


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(home):
    home.write_text("a file where the folder should be")
    with pytest.raises(OSError, match="くま"):
        create_run(RunSettings())


def test_home_follows_the_environment_at_every_call(tmp_path, monkeypatch):
    assert runs.runs_root() == Path(os.environ["KUMAKOBO_HOME"]) / "runs"
    monkeypatch.delenv("KUMAKOBO_HOME")
    assert runs.home() == runs.PROJECT


@pytest.mark.parametrize("module", ["runs", "events", "checks", "preflight", "plan"])
def test_what_the_app_reads_is_free_of_torch(module):
    code = f"import lora_core.{module}, sys; sys.exit('torch' in sys.modules or 'gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
