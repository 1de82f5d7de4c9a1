"""The app's side of the picture worker: started for the first picture job, handed the next ones, ended for others.

Whoever changes anything here holds the lock of the line, so that nothing is handed to a worker that is being ended.
"""

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil

from lora_core import processes, worker
from lora_core.processes import Job
from lora_core.runs import RunFolder
from lora_core.worker import WorkerFolder

PROGRAM = (sys.executable, "-m", "lora_core")
"""The kumakobo command."""
GONE_SECONDS = 5.0
"""How long to wait for a process that was ended to be gone, its memory with it; then it is looked at again later."""


def process(root: Path) -> psutil.Process | None:
    """The worker of a folder of runs, if there is one."""
    return processes.running(processes.read_job(WorkerFolder(root).job))


def has_in_hand(run: RunFolder) -> bool:
    """Whether the worker does this run, or is about to."""
    return WorkerFolder(run.path.parent).in_hand() == run


def loaded(root: Path) -> str | None:
    """The name of the model that is in memory now."""
    return WorkerFolder(root).loaded() if process(root) is not None else None


def take(run: RunFolder, environment: dict[str, str]) -> Job:
    """Find or start the worker that will do this run, and return its process. ``hand`` lets it begin.

    Raises OSError.
    """
    folder = WorkerFolder(run.path.parent)
    known = processes.read_job(folder.job)
    if known is not None and processes.running(known):
        return replace(known, by_worker=True)
    folder.clear()
    token = f"{time.time_ns():x}"
    words = ["worker", str(folder.root.absolute()), "--app", str(os.getpid()), "--token", token]
    command = [*PROGRAM, *words, "--idle", str(worker.IDLE_SECONDS)]
    started, job = processes.start(command, environment, run.log)
    processes.write_job(folder.job, job)
    threading.Thread(target=_record_exit, args=(started, folder), daemon=True, name="wait for the worker").start()
    return replace(job, by_worker=True)


def hand(run: RunFolder) -> None:
    """Let the worker begin."""
    WorkerFolder(run.path.parent).hand(run)


def end(root: Path) -> bool:
    """End the worker; True when there is none any more, and its memory is free.

    It is not asked: with nothing to do it has nothing to lose, and one that hangs could not obey.
    """
    found = process(root)
    if found is None:
        return True
    processes.end_by_force(found)
    until = time.monotonic() + GONE_SECONDS
    while process(root) is not None:
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    WorkerFolder(root).clear()
    return True


def _record_exit(started: subprocess.Popen, folder: WorkerFolder) -> None:
    """Wait for our child, so that it leaves no zombie; a job that it had in hand is told how it ended."""
    code = started.wait()
    run = folder.in_hand()
    job = processes.read_job(run.job) if run is not None else None
    if run is not None and job is not None and job.pid == started.pid:
        with suppress(OSError):
            (run.path / "exit_code").write_text(str(code), encoding="utf-8")
