"""The command that starts several processes, and what is made of their end. Nothing is started here."""

import os
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from lora_core.events import RunFailed, RunFinished, append
from lora_core.launch_checks import cards_here, config_here, visible_cards
from lora_core.launching import (
    Place,
    adapted,
    command,
    environment,
    even_threads,
    outcome,
    place,
    sharding,
    show_cards,
    write_note,
)
from lora_core.runs import RunFolder
from lora_core.settings import RunSettings
from lora_core.settings.overlay import with_values


def settings(**launch) -> RunSettings:
    return with_values(RunSettings(), {f"launch.{name}": value for name, value in launch.items()})


def options(**launch) -> dict[str, str]:
    """Option -> the word behind it."""
    words = command(settings(**launch), Path("run folder"))
    assert words[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    assert words[-4:] == ["-m", "lora_core", "train", "run folder"]
    return {word: after for word, after in pairwise(words[:-4]) if word.startswith("--")}


def test_processes_of_one_machine_meet_at_a_free_port():
    given = options(processes=2, gpu_ids="1, 3", threads=4)
    wanted = {"--num_processes": "2", "--num_machines": "1", "--gpu_ids": "1,3", "--num_cpu_threads_per_process": "4"}
    assert wanted.items() <= given.items()
    assert "--multi_gpu" in given
    assert 1024 <= int(given["--main_process_port"]) < 65536
    assert "--main_process_ip" not in given


def test_several_machines_meet_at_the_first_one():
    given = options(processes=4, machines=2, machine_rank=1, main_address="10.0.0.1", extra_args="--rdzv_id 'a b'")
    wanted = {"--machine_rank": "1", "--main_process_ip": "10.0.0.1", "--main_process_port": "29500"}
    assert wanted.items() <= given.items()
    assert given["--rdzv_id"] == "a b"


@pytest.mark.parametrize(
    ("name", "text", "kind", "wanted"),
    [
        ("ds.json", "{}", "deepspeed", {"--use_deepspeed", "--deepspeed_config_file"}),
        ("fsdp.yaml", "distributed_type: FSDP\n", "fsdp", {"--config_file"}),
        ("ds.yaml", "distributed_type: 'DEEPSPEED'\n", "deepspeed", {"--config_file"}),
        ("plain.yml", "distributed_type: MULTI_GPU\nsame_network: true\n", "", {"--config_file", "--multi_gpu"}),
    ],
)
def test_a_config_file_is_passed_on(tmp_path, name, text, kind, wanted):
    (tmp_path / name).write_text(text, encoding="utf-8")
    given = options(processes=2, config_file=tmp_path / name).keys()
    ways = {"--use_deepspeed", "--deepspeed_config_file", "--config_file", "--multi_gpu"}
    assert given & ways == wanted
    assert sharding(tmp_path / name) == kind
    problems = list(config_here(settings(processes=2, config_file=tmp_path / name)))
    assert bool(problems) == bool(kind)


def test_a_config_file_that_is_not_there_is_told(tmp_path):
    (problem,) = config_here(settings(processes=2, config_file=tmp_path / "none.yaml"))
    assert problem.key == "checks.launch_config_missing"


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    assert even_threads(settings(processes=8, machines=2).launch) == 4
    assert even_threads(settings(processes=64).launch) == 1


def test_windows_does_without_libuv(monkeypatch):
    monkeypatch.setattr("os.name", "nt")
    assert environment(settings(processes=2))["USE_LIBUV"] == "0"


def test_a_place_is_read_from_the_environment(monkeypatch):
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert place(torchrun) == Place(5, 8, 1, 4)
    assert place({}) == Place()
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    assert adapted(settings()).launch.processes == 8  # somebody typed accelerate launch


def test_one_process_sees_the_cards_it_was_given(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    show_cards(settings(gpu_ids="").launch)
    assert visible_cards(8, os.environ) == 3
    show_cards(settings(gpu_ids="2").launch)
    assert visible_cards(8, os.environ) == 1
    assert visible_cards(8, {}) == 8


@pytest.mark.parametrize(("cards", "found"), [(0, 0), (1, 1), (2, 1), (4, 0)])
def test_more_processes_than_cards(monkeypatch, cards, found):
    monkeypatch.setattr("lora_core.launch_checks.nvidia_cards", lambda: cards)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    problems = list(cards_here(settings(processes=4)))
    assert len(problems) == found
    if problems:
        assert problems[0].fix == {"launch.processes": cards}


# ---- the end -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(tmp_path)


def failure(message: str, detail: str, time: float) -> RunFailed:
    return RunFailed(message={"en": message, "ja": message}, detail=detail, time=time)


def test_what_the_first_process_said_stands(run):
    append(run.events, RunFinished(reason="completed", step=3))
    assert outcome(run, 0, ended=False) is None


def test_the_cause_is_not_that_the_others_lost_it(run):
    write_note(run, 0, failure("lost", "Traceback\nRuntimeError: [gloo] Connection closed by peer [127.0.0.1]:1", 1))
    write_note(run, 1, failure("no memory", "Traceback\ntorch.OutOfMemoryError: CUDA out of memory", 2))
    assert outcome(run, 1, ended=False).message["en"] == "no memory"


def test_a_process_that_said_nothing_is_told_as_such(run):
    write_note(run, 0, failure("lost", "RuntimeError: [gloo] Connection closed by peer [127.0.0.1]:1", 1))
    last = outcome(run, 1, ended=False)
    assert isinstance(last, RunFailed)
    assert "One of the processes" in last.message["en"]
    assert "Connection closed" in last.detail


@pytest.mark.parametrize(("ended", "reason"), [(True, "stopped"), (False, "completed")])
def test_an_end_without_words(run, ended, reason):
    """Told to end at once, or a machine that only helped."""
    last = outcome(run, 0, ended=ended)
    assert isinstance(last, RunFinished)
    assert last.reason == reason
