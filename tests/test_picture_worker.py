"""The picture worker: real processes that draw nothing. What happens to it costs the job it has in hand, no more."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lora_core import jobs, picture_worker, worker
from lora_core.events import RunFailed, RunFinished, StageChanged, Stop
from lora_core.generate.shelf import Shelf
from lora_core.i18n import LANGUAGES, catalogue
from lora_core.runs import RunFolder, list_runs
from lora_core.settings import RunSettings
from lora_core.settings.generate import GenerateSettings
from lora_core.settings.tools import MergeSettings
from lora_core.worker import WorkerFolder
from tests.test_jobs import FAKE, wait_until

PROGRAM = (sys.executable, str(Path(__file__).with_name("fake_pictures.py")))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder of runs with a space and Japanese in its name; what still runs at the end is ended."""
    root = tmp_path / "生成 runs"
    monkeypatch.setattr(picture_worker, "PROGRAM", PROGRAM)
    monkeypatch.setenv("KUMAKOBO_TRAINER", json.dumps([sys.executable, str(FAKE)]))
    monkeypatch.setenv("KUMAKOBO_FAKE", json.dumps({"seconds": 0.01, "steps": 5, "load": 0}))
    yield root
    for run in list_runs(root):
        if process := jobs.alive(run):
            jobs.end_by_force(process)
    if process := picture_worker.process(root):
        jobs.end_by_force(process)


def draw(root: Path, word: str = "now", base: str = "built-in") -> RunFolder:
    return jobs.start(GenerateSettings(prompts=[word], base=base), root)


def ended(run: RunFolder) -> str | None:
    return jobs.state(run) if jobs.state(run) in jobs.ENDED and jobs.alive(run) is None else None


def drawn(root: Path, word: str = "now") -> RunFolder:
    """A job that has come to its end."""
    run = draw(root, word)
    wait_until(lambda: ended(run))
    return run


def pid(run: RunFolder) -> int:
    return jobs.read_job(run).pid


def is_drawing(run: RunFolder) -> bool:
    return jobs.last_event(run, (StageChanged,)) is not None


def is_gone(number: int) -> bool:
    try:
        return psutil.Process(number).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_jobs_in_turn_are_one_process_and_each_has_its_own_log(root):
    first, second = drawn(root), drawn(root, "later")
    assert (jobs.state(first), jobs.state(second)) == ("finished", "finished")
    assert pid(first) == pid(second)
    assert "drawing now\nsaid by a library" in jobs.log_tail(first)
    assert "drawing later\nsaid by a library" in jobs.log_tail(second)
    assert "later" not in jobs.log_tail(first)
    assert jobs.loaded_model(root) == "built-in"


def test_those_that_wait_are_done_in_order_without_anybody_looking(root):
    first, second, third = draw(root, "wait"), draw(root), draw(root)
    wait_until(lambda: is_drawing(first))
    assert [jobs.state(run) for run in (first, second, third)] == ["running", "queued", "queued"]
    assert jobs.current(root) == first
    (first.path / "go on").touch()
    wait_until(lambda: ended(third))
    starts = [run.read_events()[0].time for run in (second, third)]
    ends = [run.read_events()[-1].time for run in (first, second)]
    assert all(start >= end for start, end in zip(starts, ends, strict=True))


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_a_killed_worker_costs_the_job_it_had_in_hand_and_says_so(root):
    run = draw(root, "wait")
    wait_until(lambda: is_drawing(run))
    os.kill(pid(run), signal.SIGKILL)
    wait_until(lambda: ended(run))
    assert jobs.state(run) == "failed"
    failed = jobs.last_event(run, (RunFailed,))
    assert all(failed.message[language] == catalogue(language)["failures.killed"] for language in LANGUAGES)
    assert jobs.loaded_model(root) is None
    again = drawn(root)
    assert jobs.state(again) == "finished"
    assert pid(again) != pid(run)


def test_a_worker_that_ends_by_itself_is_told_with_its_exit_code(root):
    run = drawn(root, "exit")
    assert jobs.state(run) == "failed"
    beginning = catalogue("en")["failures.silent"].partition("{")[0]
    message = jobs.last_event(run, (RunFailed,)).message["en"]
    assert message.startswith(beginning)
    assert "3" in message


def test_after_a_surprise_the_next_job_has_a_new_process(root):
    """A card that failed once fails at everything, until the process is another."""
    failed, after, again = drawn(root, "fail"), drawn(root), drawn(root)
    assert [jobs.state(run) for run in (failed, after, again)] == ["failed", "finished", "finished"]
    assert sum(isinstance(event, RunFailed) for event in failed.read_events()) == 1
    assert pid(failed) != pid(after)
    assert pid(after) == pid(again)
    assert is_gone(pid(failed))


def test_what_nobody_foresaw_is_in_the_log_and_the_model_is_dropped(tmp_path, capfd):
    """As a process of its own would have left it: the app makes the failure of the log."""
    told: list[str | None] = []
    shelf = Shelf(told.append)
    shelf._kept = object()
    run = RunFolder(tmp_path)
    with capfd.disabled():
        worker.do(run, shelf, "en")  # there are no settings
    assert "FileNotFoundError" in jobs.log_tail(run)
    assert told == [None]
    jobs.settle(run)
    assert "settings.json" in jobs.last_event(run, (RunFailed,)).message["en"]


def test_a_stop_leaves_the_worker(root):
    run = draw(root, "wait")
    wait_until(lambda: is_drawing(run))
    jobs.send(run, Stop(save=False))
    wait_until(lambda: ended(run))
    assert jobs.last_event(run, (RunFinished,)).reason == "stopped"
    assert pid(drawn(root)) == pid(run)


def test_a_training_frees_the_memory_and_begins_when_the_worker_is_gone(root):
    picture = drawn(root)
    training = jobs.start(RunSettings(save={"output_name": "usu"}), root)
    assert is_gone(pid(picture))
    assert jobs.loaded_model(root) is None
    wait_until(lambda: ended(training), root=root)
    assert jobs.state(training) == "finished"
    assert pid(training) != pid(picture)
    assert pid(drawn(root)) != pid(picture)


def test_a_training_waits_for_a_worker_that_does_not_go(root, monkeypatch):
    picture = drawn(root)
    with monkeypatch.context() as patch:
        patch.setattr(picture_worker, "GONE_SECONDS", 0)
        patch.setattr(picture_worker.processes, "end_by_force", lambda process: None)
        training = jobs.start(RunSettings(save={"output_name": "usu"}), root)
        assert jobs.state(training) == "queued"
        assert not is_gone(pid(picture))
    wait_until(lambda: ended(training), root=root)
    assert is_gone(pid(picture))


def test_a_merge_leaves_the_model_in_memory(root):
    picture = drawn(root)
    merge = jobs.start(MergeSettings(), root)
    wait_until(lambda: ended(merge))
    assert jobs.loaded_model(root) == "built-in"
    assert pid(drawn(root)) == pid(picture)


def test_the_memory_is_freed_when_it_is_asked_for_but_not_while_it_is_in_use(root):
    run = draw(root, "wait")
    wait_until(lambda: is_drawing(run))
    assert not jobs.free_memory(root)
    assert jobs.alive(run)
    (run.path / "go on").touch()
    wait_until(lambda: jobs.state(run) == "finished")
    assert jobs.free_memory(root)
    assert is_gone(pid(run))
    assert jobs.loaded_model(root) is None
    assert jobs.free_memory(root)


def test_it_goes_when_nothing_is_asked_of_it(root, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(worker, "IDLE_SECONDS", 0.0)
        run = drawn(root)
    wait_until(lambda: is_gone(pid(run)))
    assert jobs.state(run) == "finished"
    assert pid(drawn(root)) != pid(run)


def test_it_ends_with_the_app_but_finishes_what_it_has_in_hand(root):
    code = (
        "import sys; from pathlib import Path; from lora_core import jobs, picture_worker;"
        "from lora_core.settings.generate import GenerateSettings;"
        "picture_worker.PROGRAM = tuple(sys.argv[2:]);"
        "jobs.start(GenerateSettings(prompts=['wait']), Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(root), *PROGRAM], check=True, cwd=jobs.processes.PROJECT)
    (run,) = list_runs(root)
    wait_until(lambda: is_drawing(run))
    assert jobs.state(run) == "running"
    (run.path / "go on").touch()
    wait_until(lambda: ended(run), root=root)
    assert jobs.state(run) == "finished"
    wait_until(lambda: is_gone(pid(run)))


def test_it_goes_when_the_folder_of_runs_is_gone_or_another_took_its_place(root):
    run = drawn(root)
    folder = WorkerFolder(root)
    assert not folder.belongs_to("another")
    folder.clear()
    wait_until(lambda: is_gone(pid(run)))


def test_a_worker_is_not_handed_what_it_might_not_hear_of(root):
    """With the lock in its hand it has gone for all who look; without, what was handed over keeps it."""
    root.mkdir(parents=True)
    folder = WorkerFolder(root)
    folder.clear()
    lock = worker.line_lock(root, -1)
    folder.hand(RunFolder(root / "a run"))
    assert not worker._locked_with_nothing_in_hand(folder, lock)
    assert not lock.is_locked
    folder.put_down()
    assert worker._locked_with_nothing_in_hand(folder, lock)
    assert lock.is_locked
    jobs.advance(root)  # leaves it to the next look
    lock.release()
