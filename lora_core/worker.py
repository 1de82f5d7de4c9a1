"""The picture worker: a process that does one picture job after another, so that the model stays in memory between.

It is given run folders and treats each as a process of its own would: the same generators, the job's own events and
log. What passes between it and the app are small files in ``<runs>/.worker``, which work alike on every system and are
found by an app that was started later. Torch is loaded by the first job.

The worker ends by itself when the app that started it is gone, when nothing was asked of it for some minutes, after a
surprise, such as too little memory, and when it is no longer known. It is ended by force at any time while it has
nothing in hand.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from lora_core.generate.shelf import Shelf, free_memory
from lora_core.i18n import Language
from lora_core.runs import RunFolder, line_lock, read_job_settings
from lora_core.settings import RunSettings

IDLE_SECONDS = 600.0
"""How long a model may stay in memory without a picture."""
LOOK_SECONDS = 0.1
_TRIES = 50


@dataclass(frozen=True)
class WorkerFolder:
    """What the app and its worker tell each other, for one folder of runs."""

    root: Path

    @property
    def path(self) -> Path:
        return self.root / ".worker"

    @property
    def job(self) -> Path:
        """JSON of the process, as in a run's folder. Written by the app."""
        return self.path / "job.json"

    @property
    def log(self) -> Path:
        """What the process says between two jobs."""
        return self.path / "worker.log"

    @property
    def _in_hand(self) -> Path:
        """The name of a run's folder: written by the app, removed by the worker when the job has ended."""
        return self.path / "in_hand"

    @property
    def _loaded(self) -> Path:
        """The model in memory. Written by the worker."""
        return self.path / "loaded"

    def hand(self, run: RunFolder) -> None:
        _write(self._in_hand, run.path.name)

    def in_hand(self) -> RunFolder | None:
        """The run that the worker does, or has been given to do."""
        name = _read(self._in_hand)
        return RunFolder(self.root / name) if name else None

    def put_down(self) -> None:
        """The job has ended. On Windows a file can't be removed in the moment somebody reads it."""
        for _ in range(_TRIES):
            try:
                return self._in_hand.unlink(missing_ok=True)
            except PermissionError:
                time.sleep(LOOK_SECONDS)

    def tell_loaded(self, model: str | None) -> None:
        """Keep which model is in memory. A disk that is full costs this word, not the picture."""
        with suppress(OSError):
            if model is None:
                self._loaded.unlink(missing_ok=True)
            else:
                _write(self._loaded, model)

    def loaded(self) -> str | None:
        """The name of the model in memory. Of a worker that was killed it says what was."""
        return _read(self._loaded)

    def clear(self) -> None:
        """Forget a worker that is gone."""
        self.path.mkdir(parents=True, exist_ok=True)
        for path in (self._in_hand, self._loaded, self.job):
            path.unlink(missing_ok=True)

    def belongs_to(self, token: str) -> bool:
        """Whether the worker that was started with this word is the one the app knows of."""
        try:
            return token in json.loads(self.job.read_text(encoding="utf-8"))["command"]
        except (OSError, ValueError, KeyError, TypeError):
            return False


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8") or None
    except OSError:
        return None


def work(folder: WorkerFolder, app: int, token: str, says: Language, idle_seconds: float = IDLE_SECONDS) -> None:
    """Do what is given until there is reason to go. ``app`` is the process id of the app.

    Where it returns, nobody hands it anything any more: it is unknown, or holds the lock of the line until the process
    is gone, or keeps in hand what it failed at.
    """
    watched = _process(app)
    lock = line_lock(folder.root, -1)
    with lock:  # the app has it until it has written down whom it started
        pass
    shelf = Shelf(on_change=folder.tell_loaded)
    since = time.monotonic()
    while folder.belongs_to(token):
        if run := folder.in_hand():
            do(run, shelf, says)
            if shelf.is_broken:
                return
            folder.put_down()
            since = time.monotonic()
        elif _is_gone(watched) or time.monotonic() - since > idle_seconds:
            if _locked_with_nothing_in_hand(folder, lock):
                return
        else:
            time.sleep(LOOK_SECONDS)


def do(run: RunFolder, shelf: Shelf, says: Language) -> None:
    """A job, with all that is said in its log. What it did not say of its end the app says for it, from the log."""
    from lora_core.tool_console import ToolConsole
    from lora_core.tools import run_job

    with output_to(run.log):
        try:
            settings = read_job_settings(run.settings)
            assert not isinstance(settings, RunSettings), "a training is a process of its own"
            run_job(settings, run, [ToolConsole(says).show], shelf)
        except Exception:  # what a process of its own would have died of
            traceback.print_exc()
            shelf.drop()
    free_memory()


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Add what the process prints, and what libraries print behind Python's back, to a file."""
    kept = [os.dup(number) for number in (1, 2)]
    try:
        print_into(log)
        yield
    finally:
        _redirect(kept)
        for number in kept:
            os.close(number)


def print_into(log: Path) -> None:
    """From now on the process prints into a file, and what it printed into before is closed."""
    with log.open("ab") as file:
        _redirect([file.fileno()] * 2)


def _redirect(to: list[int]) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for number, target in zip((1, 2), to, strict=True):
        os.dup2(target, number)


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.Error:
        return None


def _is_gone(process: psutil.Process | None) -> bool:
    """Also of one whose id another process has by now."""
    try:
        return process is None or not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def _locked_with_nothing_in_hand(folder: WorkerFolder, lock: FileLock) -> bool:
    """Whether nothing is in hand, and nothing will be: apps hand over with the lock, which is kept then."""
    try:
        lock.acquire(timeout=LOOK_SECONDS)
    except (Timeout, OSError):
        return False
    if folder.in_hand() is None:
        return True
    lock.release()
    return False
