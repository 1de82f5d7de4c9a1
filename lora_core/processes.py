"""Processes that the app starts: whose they are, whether they still run, how they are ended. All known from files."""

import json
import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from lora_core.runs import PROJECT


@dataclass(frozen=True)
class Job:
    """The process that runs a job. A pid alone may belong to another process by now; with its start time it can't."""

    pid: int
    create_time: float
    command: list[str]
    app_pid: int
    """The app process that started it, which records the exit code."""
    stop_now_at: float | None = None
    """When the person asked for "stop now", in seconds since 1970."""
    by_worker: bool = False
    """Whether the process is the picture worker, which goes on when the job has ended."""


def read_job(path: Path) -> Job | None:
    try:
        return Job(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_job(path: Path, job: Job) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(job), indent=2), encoding="utf-8")
    temporary.replace(path)


def start(command: Sequence[str], environment: dict[str, str], log: Path) -> tuple[subprocess.Popen, Job]:
    """Start a process in its own process group, so that it outlives the app; what it prints is added to ``log``.

    Raises OSError.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            **_detached(),
        )
    try:
        born = psutil.Process(process.pid).create_time()
    except psutil.NoSuchProcess:
        born = time.time()
    return process, Job(process.pid, born, list(command), os.getpid())


def _detached() -> dict[str, Any]:
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def running(job: Job | None) -> psutil.Process | None:
    """The process, if it still runs."""
    if job is None:
        return None
    try:
        process = psutil.Process(job.pid)
        same = abs(process.create_time() - job.create_time) < 2
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def end_by_force(process: psutil.Process) -> None:
    """End a process and everything it started. Children first collected, as they lose their parent with it."""
    with suppress(psutil.Error):
        for one in [*process.children(recursive=True), process]:
            with suppress(psutil.Error):
                one.kill()
