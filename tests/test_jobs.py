"""Jobs: real processes, real files. The trainer is the fake one, or a line of Python."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import psutil
import pytest

from lora_core import help_cards, jobs
from lora_core.events import CheckpointSaved, RunFailed, RunFinished, SaveNow, StepDone, Stop
from lora_core.i18n import LANGUAGES, catalogue
from lora_core.runs import PROJECT, RunFolder, list_runs
from lora_core.settings import RunSettings

FAKE = PROJECT / "tests" / "browser" / "fake_trainer.py"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder of runs with a space and Japanese in its name; what still runs at the end is ended."""
    root = tmp_path / "学習 runs"
    monkeypatch.setenv("KUMAKOBO_TRAINER", json.dumps([sys.executable, str(FAKE)]))
    monkeypatch.setenv("KUMAKOBO_FAKE", json.dumps({"seconds": 0.01, "steps": 20, "load": 0}))
    yield root
    for run in list_runs(root):
        if process := jobs.alive(run):
            jobs.end_by_force(process)


def trainer(monkeypatch, code: str) -> None:
    monkeypatch.setenv("KUMAKOBO_TRAINER", json.dumps([sys.executable, "-c", code]))


def settings(name: str = "bear") -> RunSettings:
    return RunSettings(save={"output_name": name})


def wait_until(condition, seconds: float = 30, root: Path | None = None):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if root:
            jobs.advance(root)
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def ended(run: RunFolder) -> bool:
    return jobs.state(run) in jobs.ENDED


def test_a_job_runs_to_its_end(root):
    run = jobs.start(settings(), root)
    assert jobs.state(run) == "running"
    assert jobs.current(root) == run
    wait_until(lambda: ended(run))
    assert jobs.state(run) == "finished"
    wait_until(lambda: jobs.current(root) is None)
    assert "step 20/20" in jobs.log_tail(run)


def test_the_job_is_in_its_own_group_and_leaves_no_zombie(root):
    run = jobs.start(settings(), root)
    pid = jobs.read_job(run).pid
    if os.name != "nt":
        assert os.getpgid(pid) == pid
    wait_until(lambda: not psutil.pid_exists(pid))


def test_a_job_is_found_by_who_knows_only_the_folder(root):
    run = jobs.start(settings(), root)
    assert jobs.alive(RunFolder(run.path)).pid == jobs.read_job(run).pid


def test_a_pid_that_another_process_has_now_is_not_the_job(root, tmp_path):
    run = jobs.start(settings(), root)
    wait_until(lambda: ended(run))
    run.job.write_text(json.dumps({"pid": os.getpid(), "create_time": 1.0, "command": [], "app_pid": 0}))
    assert jobs.alive(run) is None


def test_one_at_a_time_the_rest_wait_in_order(root):
    first, second, third = (jobs.start(settings(name), root) for name in "abc")
    assert [jobs.state(run) for run in (first, second, third)] == ["running", "queued", "queued"]
    assert jobs.queue(root) == [second, third]
    wait_until(lambda: ended(third), root=root)
    assert [jobs.state(run) for run in (first, second, third)] == ["finished"] * 3
    starts = [run.read_events()[0].time for run in (first, second, third)]
    ends = [run.read_events()[-1].time for run in (first, second, third)]
    assert starts[1] >= ends[0]
    assert starts[2] >= ends[1]


def test_the_line_moves_on_without_anybody_looking(root):
    jobs.start(settings("a"), root)
    second = jobs.start(settings("b"), root)
    wait_until(lambda: ended(second))


def test_a_waiting_run_can_be_cancelled(root):
    jobs.start(settings("a"), root)
    second = jobs.start(settings("b"), root)
    jobs.send(second, Stop())
    assert jobs.state(second) == "stopped"
    assert jobs.queue(root) == []


def test_stop_and_save(root, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_FAKE", json.dumps({"steps": 10_000, "seconds": 0.01, "load": 0}))
    run = jobs.start(settings(), root)
    wait_until(lambda: jobs.last_event(run, (StepDone,)))
    jobs.send(run, Stop(save=True))
    wait_until(lambda: ended(run))
    assert jobs.state(run) == "stopped"
    assert jobs.last_event(run, (CheckpointSaved,)).final


def test_other_commands_reach_the_job(root, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_FAKE", json.dumps({"steps": 10_000, "seconds": 0.01, "load": 0}))
    run = jobs.start(settings(), root)
    jobs.send(run, SaveNow())
    assert wait_until(lambda: jobs.last_event(run, (CheckpointSaved,))).path.exists()


def test_a_job_that_does_not_listen_is_ended_with_its_children(root, monkeypatch):
    monkeypatch.setattr(jobs, "GRACE_SECONDS", 0.3)
    trainer(
        monkeypatch,
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(subprocess.Popen([sys.executable, '-c', 'import signal, time; "
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)']).pid, flush=True); time.sleep(60)",
    )
    run = jobs.start(settings(), root)
    child = int(wait_until(lambda: jobs.log_tail(run).strip()))
    time.sleep(0.3)
    jobs.send(run, Stop(save=False))
    wait_until(lambda: ended(run), root=root)
    assert jobs.state(run) == "stopped"
    wait_until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize(
    ("code", "key"),
    [
        ("raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')", "failures.gpu_memory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "failures.killed"),
        ("import no_such_package", "failures.module"),
        ("raise OSError(28, 'No space left on device')", "failures.disk_full"),
        ("raise RuntimeError('something new')", "failures.unknown"),
        ("raise SystemExit(3)", "failures.silent"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_the_exit_code_wins(root, monkeypatch, code, key):
    trainer(monkeypatch, code)
    run = jobs.start(settings(), root)
    wait_until(lambda: ended(run), root=root)
    failed = jobs.last_event(run, (RunFailed,))
    for language in LANGUAGES:
        beginning = catalogue(language)[key].partition("{")[0]
        assert failed.message[language].startswith(beginning)


def test_a_program_that_cannot_be_started_fails_and_the_next_one_runs(root, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_TRAINER", json.dumps(["/no/such/program"]))
    run = jobs.start(settings(), root)
    assert jobs.state(run) == "failed"
    assert "/no/such/program" in jobs.last_event(run, (RunFailed,)).message["en"]


def test_a_job_of_an_app_that_is_gone_is_closed_by_the_next(root):
    run = jobs.start(settings(), root)
    wait_until(lambda: ended(run))
    wait_until(lambda: not jobs.open_runs(root))
    jobs.put_in_line(run)
    (run.path / "queued").unlink()
    (run.path / "exit_code").unlink()
    run.events.write_text("")
    run.log.write_text("")
    jobs.advance(root)
    assert jobs.state(run) == "failed"
    assert jobs.last_event(run, (RunFailed,)).message["en"] == catalogue("en")["failures.killed"]


def test_closing_twice_says_it_once(root):
    run = jobs.start(settings(), root)
    wait_until(lambda: ended(run))
    jobs.settle(run)
    jobs.settle(run)
    assert sum(isinstance(event, RunFailed | RunFinished) for event in run.read_events()) == 1


def test_no_network_unless_allowed():
    assert jobs.environment(settings())["HF_HUB_OFFLINE"] == "1"
    allowed = RunSettings(model={"allow_download": True})
    assert jobs.environment(allowed).get("HF_HUB_OFFLINE") == os.environ.get("HF_HUB_OFFLINE")


@pytest.mark.parametrize("cause", help_cards.CAUSES, ids=lambda cause: cause.key)
def test_every_cause_has_its_sentence(cause):
    for language in LANGUAGES:
        sentence = help_cards.HelpCard(cause.key, {"name": "NAME", "path": "PATH"}).text(language)
        assert "{" not in sentence


LOGS = {
    "failures.paging_file": "OSError: [WinError 1455] The paging file is too small for this operation to complete",
    "failures.gpu_memory": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.",
    "failures.memory": "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 17179869184",
    "failures.disk_full": "OSError: [Errno 28] No space left on device: 'x.safetensors'",
    "failures.no_kernel_image": "RuntimeError: CUDA error: no kernel image is available for execution on the device",
    "failures.driver": "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).",
    "failures.no_cuda": "AssertionError: Torch not compiled with CUDA enabled",
    "failures.gpu_lost": "RuntimeError: CUDA error: an illegal memory access was encountered",
    "failures.nan": "RuntimeError: loss is nan at step 12",
    "failures.dll": "ImportError: DLL load failed while importing _C: The specified module could not be found.",
    "failures.module": "ModuleNotFoundError: No module named 'prodigyopt'",
    "failures.bitsandbytes": "RuntimeError: bitsandbytes: CUDA Setup failed despite CUDA being available",
    "failures.gated": "huggingface_hub.errors.GatedRepoError: 401 Client Error.",
    "failures.offline": "huggingface_hub.errors.OfflineModeIsEnabled: Cannot reach https://huggingface.co",
    "failures.permission": "PermissionError: [Errno 13] Permission denied: '/out/bear.safetensors'",
    "failures.missing_file": "FileNotFoundError: [Errno 2] No such file or directory: '/data/1.png'",
    "failures.long_path": "OSError: [WinError 206] The filename or extension is too long",
}


@pytest.mark.parametrize("cause", {cause.key: cause for cause in help_cards.CAUSES}.values(), ids=lambda c: c.key)
def test_known_causes_are_recognised(cause):
    log = "loading\nTraceback (most recent call last):\n  File 'x', line 1\n" + LOGS[cause.key] + "\n"
    assert help_cards.explain(log, 1).key == cause.key


def test_the_sentence_names_what_the_log_names():
    assert "prodigyopt" in help_cards.explain(LOGS["failures.module"], 1).text()
    log = "Traceback (most recent call last):\n" + LOGS["failures.permission"]
    assert "/out/bear.safetensors" in help_cards.explain(log, 1).text("ja")


def test_only_the_last_error_counts():
    old = "Traceback (most recent call last):\n  x\nRuntimeError: CUDA out of memory\n\nretrying\n"
    log = old + "Traceback (most recent call last):\n  y\nValueError: bad {braces}\n"
    assert help_cards.last_error(log) == "Traceback (most recent call last):\n  y\nValueError: bad {braces}"
    assert "bad {braces}" in help_cards.explain(log, 1).text()


def test_a_traceback_may_follow_a_progress_bar_on_its_line():
    log = "step 1\rstep 2Traceback (most recent call last):\n  x\nValueError: bad\n"
    assert help_cards.last_error(log).splitlines()[0] == "Traceback (most recent call last):"


def test_a_log_without_an_error_has_none():
    assert help_cards.last_error("step 1\rstep 2\nmean error rate 0.1\n") == ""


def test_progress_bars_leave_their_last_state():
    assert help_cards.plain_lines("a\r\x1b[31mb\x1b[0m\r\nc\rd") == ["b", "d"]


def test_a_run_whose_folder_was_deleted_is_forgotten(root):
    run = jobs.start(settings(), root)
    wait_until(lambda: ended(run) and not jobs.open_runs(root))
    jobs.put_in_line(run)
    shutil.rmtree(run.path)
    jobs.advance(root)
    assert jobs.open_runs(root) == []
