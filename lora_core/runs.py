"""The folder of one run: where its settings, events, commands, log and thumbnails are.

The folder is the truth about a run. Whoever knows its path can show it, command it or repeat it.
"""

import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from lora_core.events import COMMAND, EVENT, KEPT, Command, EpochKept, Event, Reader, append
from lora_core.settings import RunSettings
from lora_core.settings.tools import TOOL_SETTINGS, ToolSettings, output_of

PROJECT = Path(__file__).resolve().parent.parent


def home() -> Path:
    """Where Kumakobo keeps runs and preferences: ``KUMAKOBO_HOME``, else the project's own folder."""
    return Path(os.environ.get("KUMAKOBO_HOME") or PROJECT).expanduser()


def runs_root() -> Path:
    return home() / "runs"


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def settings(self) -> Path:
        return self.path / "settings.json"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def commands(self) -> Path:
        return self.path / "commands.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "train.log"

    @property
    def job(self) -> Path:
        """JSON of the process that runs it: pid, create_time, command."""
        return self.path / "job.json"

    @property
    def kept(self) -> Path:
        """Which of its files the person chose."""
        return self.path / "kept.jsonl"

    def read_events(self) -> list[Event]:
        return list(Reader(self.events, EVENT).read())

    def event_reader(self, offset: int = 0) -> Reader[Event]:
        return Reader(self.events, EVENT, offset)

    def command_reader(self) -> Reader[Command]:
        return Reader(self.commands, COMMAND)

    def kept_reader(self) -> Reader[EpochKept]:
        return Reader(self.kept, KEPT)

    def send(self, command: Command) -> None:
        append(self.commands, command)


JobSettings = RunSettings | ToolSettings
"""What a run folder's settings may be: a training, or one of the jobs on LoRA files."""


def read_job_settings(path: Path) -> JobSettings:
    """Settings of a run folder as they were written. Raises ValueError (pydantic's) for what is none."""
    text = path.read_text(encoding="utf-8")
    tree = json.loads(text)
    if isinstance(tree, dict) and "job" in tree:
        return TOOL_SETTINGS.validate_json(text)
    return RunSettings.model_validate_json(text)


def job_name(settings: JobSettings) -> str:
    """What a run is called: the output name of a training, job and file name of the others."""
    if isinstance(settings, RunSettings):
        return settings.save.output_name
    output = output_of(settings)
    return f"{settings.job}-{output.stem}" if output else settings.job


def create_run(settings: JobSettings, root: Path | None = None) -> RunFolder:
    """A new run folder with the settings in it, named by time and output name."""
    name = re.sub(r"\s+", "_", job_name(settings))
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    root = root or runs_root()
    for attempt in range(1000):
        path = root / (stem if not attempt else f"{stem}-{attempt + 1:02d}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        run = RunFolder(path)
        run.settings.write_text(settings.model_dump_json(indent=2), encoding="utf-8")
        return run
    raise FileExistsError(f"{root}: no free name for a run")


def line_lock(root: Path, wait: float) -> FileLock:
    """Whoever holds it may change the line of jobs, over all processes. ``wait`` in seconds, -1 for ever."""
    return FileLock(root / ".lock", timeout=wait)


def list_runs(root: Path | None = None) -> list[RunFolder]:
    """All runs, newest first."""
    root = root or runs_root()
    if not root.is_dir():
        return []
    return [RunFolder(p) for p in sorted(root.iterdir(), reverse=True) if (p / "settings.json").is_file()]
