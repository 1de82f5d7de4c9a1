"""Starts, queues, watches and stops jobs. Everything is in run folders: any app process can take over.

One job runs at a time; further ones wait in line. A job is a process of its own, but for those that draw pictures: one
worker does them one after another (``picture_worker``). ``advance`` closes jobs whose process is gone, enforces a "stop
now" that was not obeyed, and starts the next in line. It is called by whoever looks (the page's polling, the server's
caretaker thread) and guarded by a lock file.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import psutil
from filelock import Timeout

from lora_core import picture_worker, processes
from lora_core.errors import UserError
from lora_core.events import (
    EVENT,
    CheckpointSaved,
    Command,
    Event,
    Reader,
    RunFailed,
    RunFinished,
    StageChanged,
    StepDone,
    Stop,
    append,
)
from lora_core.help_cards import HelpCard, explain, last_error
from lora_core.processes import Job, end_by_force, write_job
from lora_core.runs import JobSettings, RunFolder, create_run, line_lock, read_job_settings, runs_root
from lora_core.settings import RunSettings
from lora_core.settings.tools import PICTURES, TRAIN
from lora_core.worker import WorkerFolder

State = Literal["queued", "running", "paused", "finished", "stopped", "failed"]
ENDED: frozenset[State] = frozenset({"finished", "stopped", "failed"})

GRACE_SECONDS = 10.0
"""How long a job may take to obey "stop now" before it is told by the system, and again before it is ended by force."""
LOOK_SECONDS = 0.2
"""Between two looks at the picture worker."""
TAIL_BYTES = 65_536
MARKERS = ".open"
"""Folder beside the runs that names those that wait or train."""


def start(settings: JobSettings, root: Path | None = None) -> RunFolder:
    """Put a run in line; it starts at once when nothing else trains.

    Raises UserError when Kumakobo's folder can't be written.
    """
    root = root or runs_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        run = create_run(settings, root)
        put_in_line(run)
    except OSError as error:
        raise UserError("jobs.cannot_write", path=root, error=error.strerror or error) from error
    advance(root, wait=10)
    return run


def put_in_line(run: RunFolder) -> None:
    """Let a run wait for its turn; whoever calls ``advance`` next may start it."""
    _ticket(run).write_text(str(time.time_ns()), encoding="utf-8")
    _marker(run).parent.mkdir(exist_ok=True)
    _marker(run).touch()


def state(run: RunFolder) -> State:
    """What became of a run, from its folder alone."""
    last = last_event(run, (RunFinished, RunFailed, StageChanged, StepDone))
    if isinstance(last, RunFailed):
        return "failed"
    if isinstance(last, RunFinished):
        return "finished" if last.reason == "completed" else "stopped"
    if _ticket(run).exists():
        return "queued"
    if not run.job.exists() and not _written_lately(run):
        return "stopped"  # a run of the command line that was broken off
    return "paused" if isinstance(last, StageChanged) and last.stage == "paused" else "running"


def current(root: Path | None = None) -> RunFolder | None:
    """The run that trains now."""
    return next((run for run in open_runs(root) if alive(run) is not None), None)


def latest(runs: Sequence[RunFolder]) -> RunFolder | None:
    """Of runs, newest first, the one written to last: of those that began in the same second, names don't tell."""

    def written(run: RunFolder) -> int:
        return (run.events if run.events.exists() else run.settings).stat().st_mtime_ns

    return max(runs[:10], key=written, default=None)


def queue(root: Path | None = None) -> list[RunFolder]:
    """The runs that wait, the next one first."""
    return sorted((run for run in open_runs(root) if _ticket(run).exists()), key=_place_in_line)


def open_runs(root: Path | None = None) -> list[RunFolder]:
    """The runs that wait or train, as far as anybody has looked. Quick, however many runs there have been."""
    root = root or runs_root()
    try:
        names = sorted(os.listdir(root / MARKERS))
    except OSError:
        return []
    return [RunFolder(root / name) for name in names]


def send(run: RunFolder, command: Command) -> None:
    """Tell a job something. A run that still waits can only be stopped: it leaves the line."""
    if not isinstance(command, Stop):
        run.send(command)
        return
    with _lock(run.path.parent, wait=10):
        if _ticket(run).exists():
            append(run.events, RunFinished(reason="stopped", step=0))
            _close(run)
            return
        run.send(command)
        if not command.save and (job := read_job(run)) and job.stop_now_at is None:
            write_job(run.job, replace(job, stop_now_at=time.time()))


def alive(run: RunFolder) -> psutil.Process | None:
    """The process of a run, if it still runs."""
    job = read_job(run)
    if job is None or (job.by_worker and not picture_worker.has_in_hand(run)):
        return None
    return processes.running(job)


def advance(root: Path | None = None, wait: float = 0) -> None:
    """Bring the line up to date. Does nothing when another thread or app process is at it."""
    root = root or runs_root()
    if not root.is_dir():
        return
    try:
        with _lock(root, wait):
            busy = False
            for run in open_runs(root):
                if process := alive(run):
                    busy = True
                    _enforce_stop(run, process)
                elif not _ticket(run).exists():
                    settle(run)
            waiting = [] if busy else queue(root)
            while waiting and not _launch(waiting.pop(0)):
                pass
    except Timeout:
        return
    except OSError as error:  # a full disk, say: the next look tries again
        logging.getLogger(__name__).warning("%s: jobs can't be brought up to date: %s", root, error)


def loaded_model(root: Path | None = None) -> str | None:
    """The name of the model that is in memory for the next pictures."""
    return picture_worker.loaded(root or runs_root())


def free_memory(root: Path | None = None) -> bool:
    """Have the picture worker give its memory back. False where it is drawing, and so needs it."""
    root = root or runs_root()
    try:
        with _lock(root, wait=5):
            return _end_worker(root)
    except (Timeout, OSError):
        return False


def _end_worker(root: Path) -> bool:
    """End the picture worker unless it has a job in hand that has not ended; True when it is gone."""
    run = WorkerFolder(root).in_hand()
    drawing = run is not None and picture_worker.process(root) is not None and state(run) not in ENDED
    return not drawing and picture_worker.end(root)


def settle(run: RunFolder) -> None:
    """Close a run whose process is gone. What the process did not say itself is said for it: the exit code wins."""
    if run.path.is_dir() and last_event(run, (RunFinished, RunFailed)) is None:
        job = read_job(run)
        if job is not None and job.stop_now_at is not None:
            append(run.events, _stopped(run))
        else:
            log = log_tail(run)
            append(run.events, _failure(explain(log, _exit_code(run, job)), last_error(log) or log[-2000:]))
    _close(run)


def last_event(run: RunFolder, kinds: tuple[type, ...]) -> Event | None:
    """The last event of one of these kinds, looked for from the end of the file."""
    try:
        size = run.events.stat().st_size
    except OSError:
        return None
    for tail in (TAIL_BYTES, size):
        offset = max(0, size - tail)
        found = [event for event in Reader(run.events, EVENT, offset).read() if isinstance(event, kinds)]
        if found or not offset:
            return found[-1] if found else None
    return None


def log_tail(run: RunFolder, size: int = TAIL_BYTES) -> str:
    try:
        with run.log.open("rb") as file:
            file.seek(max(0, run.log.stat().st_size - size))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def read_job(run: RunFolder) -> Job | None:
    return processes.read_job(run.job)


def command(run: RunFolder, settings: JobSettings) -> list[str]:
    """What does a job. ``KUMAKOBO_TRAINER`` (a JSON list) replaces the trainer, the run's folder is appended."""
    if not isinstance(settings, RunSettings):
        return [sys.executable, "-m", "lora_core", "job", str(run.path)]
    trainer = os.environ.get("KUMAKOBO_TRAINER")
    program = json.loads(trainer) if trainer else [sys.executable, "-m", "lora_core", "train"]
    return [*program, str(run.path)]


def environment(settings: JobSettings) -> dict[str, str]:
    """The environment of a job: UTF-8, unbuffered, and no network unless the person allowed a download."""
    allowed = isinstance(settings, RunSettings) and settings.model.allow_download
    offline = {} if allowed else {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return {
        **os.environ,
        **offline,
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def _launch(run: RunFolder) -> bool:
    """Begin a waiting run, or leave it in line where something has to go first. False if it can't ever be begun."""
    try:
        settings = read_job_settings(run.settings)
        if isinstance(settings, PICTURES):
            _hand_over(run, settings)
        elif not isinstance(settings, TRAIN) or _end_worker(run.path.parent):
            _start_process(run, settings)
    except (OSError, ValueError) as error:
        append(run.events, _failure(HelpCard("failures.not_started", {"error": str(error)}), repr(error)))
        _close(run)
        return False
    return True


def _start_process(run: RunFolder, settings: JobSettings) -> None:
    process, job = processes.start(command(run, settings), environment(settings), run.log)
    write_job(run.job, job)
    _ticket(run).unlink(missing_ok=True)
    threading.Thread(target=_record_exit, args=(process, run), daemon=True, name=f"wait for {run.path.name}").start()


def _hand_over(run: RunFolder, settings: JobSettings) -> None:
    """Let the picture worker do a run: its process is written down first, as that of any other."""
    write_job(run.job, picture_worker.take(run, environment(settings)))
    _ticket(run).unlink(missing_ok=True)
    picture_worker.hand(run)
    threading.Thread(target=_await_end, args=(run,), daemon=True, name=f"wait for {run.path.name}").start()


def _await_end(run: RunFolder) -> None:
    """Move the line on when the worker has done a run; no process ends with it."""
    while alive(run):
        time.sleep(LOOK_SECONDS)
    advance(run.path.parent, wait=5)


def _record_exit(process: subprocess.Popen, run: RunFolder) -> None:
    """Wait for our child, so that it leaves no zombie, and keep its exit code for whoever closes the run."""
    code = process.wait()
    with suppress(OSError):  # the folder of the run may be gone by now
        _exit_file(run).write_text(str(code), encoding="utf-8")
        advance(run.path.parent, wait=5)


def _exit_code(run: RunFolder, job: Job | None) -> int | None:
    """The exit code, if the app that started the process is this one; it may take a moment to be written."""
    for _ in range(20 if job is not None and job.app_pid == os.getpid() else 1):
        with suppress(OSError, ValueError):
            return int(_exit_file(run).read_text(encoding="utf-8"))
        time.sleep(0.05)
    return None


def _enforce_stop(run: RunFolder, process: psutil.Process) -> None:
    """The later rungs of "stop now": ask the system politely, then end the process and all its children."""
    job = read_job(run)
    if job is None or job.stop_now_at is None:
        return
    waited = time.time() - job.stop_now_at
    if waited > 2 * GRACE_SECONDS:
        end_by_force(process)
    elif waited > GRACE_SECONDS:
        with suppress(OSError, psutil.Error):
            if os.name == "nt":
                process.terminate()
            else:
                os.killpg(process.pid, signal.SIGTERM)


def _stopped(run: RunFolder) -> RunFinished:
    step = last_event(run, (StepDone,))
    saved = last_event(run, (CheckpointSaved,))
    return RunFinished(
        reason="stopped",
        step=step.step if isinstance(step, StepDone) else 0,
        path=saved.path if isinstance(saved, CheckpointSaved) else None,
    )


def _failure(card: HelpCard, detail: str) -> RunFailed:
    return RunFailed(message=card.texts(), detail=detail)


def _ticket(run: RunFolder) -> Path:
    """Its place in line; there while the run waits."""
    return run.path / "queued"


def _marker(run: RunFolder) -> Path:
    """There while the run waits or trains, beside those of other runs, so that nobody needs to look at all runs."""
    return run.path.parent / MARKERS / run.path.name


def _close(run: RunFolder) -> None:
    _ticket(run).unlink(missing_ok=True)
    _marker(run).unlink(missing_ok=True)


def _written_lately(run: RunFolder, seconds: float = 600) -> bool:
    try:
        return time.time() - run.events.stat().st_mtime < seconds
    except OSError:
        return False


def _exit_file(run: RunFolder) -> Path:
    return run.path / "exit_code"


def _place_in_line(run: RunFolder) -> tuple[int, str]:
    try:
        return int(_ticket(run).read_text(encoding="utf-8")), run.path.name
    except (OSError, ValueError):
        return time.time_ns(), run.path.name


@contextmanager
def _lock(root: Path, wait: float) -> Iterator[None]:
    """One at a time, over all app processes. Raises filelock.Timeout."""
    with line_lock(root, wait):
        yield
