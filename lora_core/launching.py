"""A training of several processes: starts them through ``accelerate launch`` and looks after them. Torch-free.

One process supervises: it is the one the app, the terminal and the system know. It checks the settings, passes on what
it is told, leaves no process behind and says in words why a run ended. The processes it starts, the ranks, train.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from lora_core.errors import ProblemsFound
from lora_core.events import EventBase, RunFailed, RunFinished, Stop, append
from lora_core.help_cards import explain
from lora_core.i18n import LANGUAGES, text
from lora_core.runs import PROJECT, RunFolder, read_job_settings
from lora_core.settings import LaunchSettings, RunSettings

SUPERVISOR = "KUMAKOBO_SUPERVISOR"
"""Environment variable that tells a rank the process that looks after it."""
USUAL_PORT = 29500
"""torch.distributed's own port. On several machines it must be the same, so that it can't be any free one."""
POLITE_SECONDS = 5.0
"""How long the ranks may take to end before they are ended by force. No file is ever half written."""
LOOK_EVERY = 0.2
NOTES = "ranks"
"""Folder of a run in which each rank writes why it ended."""

Sharding = Literal["", "deepspeed", "fsdp", "megatron"]


@dataclass(frozen=True)
class Place:
    """Where a process stands among those that train together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    supervisor: int | None = None
    """Process id of who started them; None when somebody typed accelerate launch."""

    @property
    def leads(self) -> bool:
        return self.rank == 0


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """The place that accelerate launch (torchrun) gives a process through its environment; alone without one."""
    if "RANK" not in environment or "LOCAL_RANK" not in environment:
        return Place()
    rank, size, local_rank = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    supervisor = environment.get(SUPERVISOR)
    local_size = int(environment.get("LOCAL_WORLD_SIZE", size))
    return Place(rank, size, local_rank, local_size, int(supervisor) if supervisor else None)


def is_needed(settings: RunSettings) -> bool:
    """Whether the run is of several processes and this is not one of them yet."""
    return settings.launch.processes > 1 and place().size == 1


def adapted(settings: RunSettings) -> RunSettings:
    """Settings for a process that somebody started by typing accelerate launch: as many as there are count."""
    size = place().size
    if size in (1, settings.launch.processes):
        return settings
    return settings.model_copy(update={"launch": settings.launch.model_copy(update={"processes": size})})


# ---- The command -------------------------------------------------------------------------------------------------


def command(settings: RunSettings, run: Path) -> list[str]:
    """``accelerate launch`` with the settings' arguments, and the training of a run folder behind it."""
    launch = settings.launch
    port = launch.main_port or (USUAL_PORT if launch.machines > 1 else free_port())
    words = [sys.executable, "-m", "accelerate.commands.launch", *_how(launch.config_file)]
    words += ["--num_processes", str(launch.processes), "--num_machines", str(launch.machines)]
    words += ["--machine_rank", str(launch.machine_rank), "--main_process_port", str(port)]
    # The trainer chooses the number format itself; what an old configuration file says would be in its way.
    words += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    words += ["--num_cpu_threads_per_process", str(launch.threads or even_threads(launch))]
    if launch.main_address.strip():
        words += ["--main_process_ip", launch.main_address.strip()]
    if ids := gpu_ids(launch):
        words += ["--gpu_ids", ",".join(ids)]
    words += shlex.split(launch.extra_args, posix=os.name != "nt")
    return [*words, "-m", "lora_core", "train", str(run)]


def _how(config_file: Path | None) -> list[str]:
    """Which of accelerate's launchers. Without GPU and without one of these, it would start a single process."""
    if config_file is None:
        return ["--multi_gpu"]
    if config_file.suffix.lower() == ".json":
        return ["--use_deepspeed", "--deepspeed_config_file", str(config_file)]
    return ["--config_file", str(config_file), *(() if sharding(config_file) else ("--multi_gpu",))]


def sharding(config_file: Path | None) -> Sharding:
    """What a configuration file splits the model with; empty for plain data parallel, or a file that can't be read."""
    if config_file is None:
        return ""
    if config_file.suffix.lower() == ".json":
        return "deepspeed"
    with suppress(OSError, UnicodeDecodeError):
        for line in config_file.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "distributed_type":
                kinds: dict[str, Sharding] = {"DEEPSPEED": "deepspeed", "FSDP": "fsdp", "MEGATRON_LM": "megatron"}
                return kinds.get(value.strip(" '\""), "")
    return ""


def environment(settings: RunSettings) -> dict[str, str]:
    """The environment of the launcher and its ranks."""
    # PyTorch for Windows is built without libuv, which torchrun asks for.
    windows = {"USE_LIBUV": "0"} if os.name == "nt" else {}
    alone = {"MASTER_ADDR": "127.0.0.1"} if settings.launch.machines == 1 else {}
    unbuffered = {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, **windows, **alone, **unbuffered, "PYTHONPATH": path, SUPERVISOR: str(os.getpid())}


def gpu_ids(launch: LaunchSettings) -> list[str]:
    return [number.strip() for number in launch.gpu_ids.split(",") if number.strip()]


def show_cards(launch: LaunchSettings) -> None:
    """A single process sees the cards it was given; those of several are chosen by accelerate launch."""
    if launch.processes == 1 and (ids := gpu_ids(launch)):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(ids)


def even_threads(launch: LaunchSettings) -> int:
    """The processor's cores, shared out among the processes of this machine."""
    return max(1, (os.cpu_count() or 1) // max(1, launch.processes // launch.machines))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


# ---- The supervisor ----------------------------------------------------------------------------------------------


def supervise(settings: RunSettings, run: RunFolder, consumers: Iterable = ()) -> int:
    """Check, start, watch, and say how it ended. Returns the exit code of the process.

    ``consumers`` hear the last event; all others come from the rank that leads, which writes them itself.
    """
    from lora_core.train.runner import EXIT_FAILED, EXIT_OK, EXIT_STOPPED, checked, failed_checks

    def tell(event: EventBase) -> None:
        append(run.events, event)
        for consume in consumers:
            consume(event)

    try:
        checked(settings)
    except ProblemsFound as found:
        tell(failed_checks(found.problems))
        return EXIT_FAILED
    if settings.launch.machine_rank > 0:
        print(text("launch.helping", "en", rank=settings.launch.machine_rank), flush=True)
    if read_job_settings(run.settings) != settings:  # some were overridden; the ranks read them from the folder
        run.settings.write_text(settings.model_dump_json(indent=2), encoding="utf-8")
    wish = Wish(run)
    process = subprocess.Popen(command(settings, run.path), cwd=PROJECT, env=environment(settings), **_own_group())
    with wish.listening():
        code = _watch(process, wish)
    last = outcome(run, code, ended=wish.end)
    if last is not None:
        tell(last)
    if wish.end:
        return EXIT_STOPPED
    return EXIT_OK if code == 0 and not isinstance(last, RunFailed) else EXIT_FAILED


class Wish:
    """What the person wants of the run: the first Ctrl-C stops and saves, the second, or SIGTERM, ends at once."""

    def __init__(self, run: RunFolder):
        self.run = run
        self.interrupts = 0
        self.end = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        try:
            before = {signal.SIGINT: signal.signal(signal.SIGINT, self._interrupt)}
            before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._terminate)
        except ValueError:  # not in the main thread, as in some tests
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupt(self, *_: object) -> None:
        self.interrupts += 1
        if self.interrupts > 1:
            self.end = True
            return
        self.run.send(Stop(save=True))
        print(text("train.interrupt", "en"), flush=True)

    def _terminate(self, *_: object) -> None:
        self.end = True


def _watch(process: subprocess.Popen, wish: Wish) -> int:
    """Wait for the launcher, or end it. Whatever it started is gone afterwards."""
    family: dict[int, psutil.Process] = {}
    try:
        while process.poll() is None and not wish.end:
            with suppress(psutil.Error):
                family |= {one.pid: one for one in psutil.Process(process.pid).children(recursive=True)}
            time.sleep(LOOK_EVERY)
    finally:
        end_all(process, family.values(), patience=0 if wish.end else POLITE_SECONDS)
    return process.wait()


def end_all(process: subprocess.Popen, family: Iterable[psutil.Process], patience: float) -> None:
    """End a launcher and its ranks: they are asked first, and after so many seconds not asked any more."""
    with suppress(psutil.Error):
        family = {*family, *psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)}
    ours = [one for one in family if one.is_running()]  # is_running knows a process by its start, too
    for one in ours if patience else ():
        with suppress(psutil.Error):
            one.terminate()
    for one in psutil.wait_procs(ours, timeout=patience)[1]:
        with suppress(psutil.Error):
            one.kill()


def _own_group() -> dict:
    """Ctrl-C in the terminal must reach the supervisor alone, which passes it on as a wish."""
    return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == "nt" else {"start_new_session": True}


# ---- How it ended ------------------------------------------------------------------------------------------------


def outcome(run: RunFolder, code: int, *, ended: bool) -> EventBase | None:
    """The last event of a run, if the rank that leads could not say it itself."""
    said = [event for event in run.read_events() if isinstance(event, RunFinished | RunFailed)]
    if said:
        return None
    if ended:
        return RunFinished(reason="stopped", step=0)
    if code == 0:  # another machine leads
        return RunFinished(reason="completed", step=0)
    return root_cause(run, code)


def root_cause(run: RunFolder, code: int) -> RunFailed:
    """Of what the ranks said, what came first and is not just that another one is gone."""
    notes = read_notes(run)
    causes = sorted((note for note in notes if not lost_another(note)), key=lambda note: note.time)
    if causes:
        return causes[0]
    card = explain("", code if code < 0 else None)
    message = {language: f"{text('launch.rank_lost', language)}\n{card.text(language)}" for language in LANGUAGES}
    return RunFailed(message=message, detail="\n\n".join(note.detail for note in notes))


_LOST = (
    "LostOthers",
    "Connection closed by peer",
    "Connection reset by peer",
    "ProcessGroup",
    "DistBackendError",
    "gloo",
    "NCCL",
)


def lost_another(failure: RunFailed) -> bool:
    """Whether a rank only failed because the talk with another one broke off."""
    lines = failure.detail.strip().splitlines()
    return bool(lines) and any(sign in lines[-1] for sign in _LOST)


def write_note(run: RunFolder, rank: int, failure: RunFailed) -> None:
    """What a rank leaves for the supervisor: only one of them may write the run's last event."""
    folder = run.path / NOTES
    folder.mkdir(exist_ok=True)
    (folder / f"{rank}.json").write_text(failure.model_dump_json(), encoding="utf-8")


def read_notes(run: RunFolder) -> list[RunFailed]:
    notes = []
    for path in sorted((run.path / NOTES).glob("*.json")):
        with suppress(OSError, ValueError):
            notes.append(RunFailed.model_validate(json.loads(path.read_text(encoding="utf-8"))))
    return notes
