"""What the events of a run add up to: everything the monitor shows, read a little further at each look."""

import statistics
import threading
import time
from array import array
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from pathlib import Path

from lora_core.events import (
    CheckpointSaved,
    EpochDone,
    EpochKept,
    Event,
    FileSaved,
    Memory,
    ProofDone,
    RateRangeDone,
    RunFailed,
    RunFinished,
    RunStarted,
    SampleSaved,
    StageChanged,
    StepDone,
    Stop,
    ToolStarted,
    ValidationDone,
    Warned,
)
from lora_core.runs import RunFolder


@dataclass
class Series:
    """Loss and learning rates by step. ``smooth`` is a running average whose window follows the length of the run."""

    steps: array = field(default_factory=lambda: array("l"))
    loss: array = field(default_factory=lambda: array("d"))
    smooth: array = field(default_factory=lambda: array("d"))
    rates: dict[str, array] = field(default_factory=dict)
    """One column a part of the network, as long as ``steps``."""
    window: float = 50.0
    _sum: float = 0.0
    _weight: float = 0.0

    def add(self, event: StepDone) -> None:
        # Bias-corrected exponential average, as in Adam: the first values are averages of what there is.
        keep = 1 - 1 / self.window
        if event.loss == event.loss and abs(event.loss) != float("inf"):
            self._sum = keep * self._sum + (1 - keep) * event.loss
            self._weight = keep * self._weight + (1 - keep)
        self.steps.append(event.step)
        self.loss.append(event.loss)
        self.smooth.append(self._sum / self._weight if self._weight else event.loss)
        for name, rate in event.learning_rate.items():
            column = self.rates.setdefault(name, array("d", [0.0] * (len(self.steps) - 1)))
            column.append(rate)


@dataclass
class RunView:
    """The state of one run. ``update`` reads what is new; the rest are plain answers."""

    run: RunFolder
    started: RunStarted | None = None
    tool: ToolStarted | None = None
    """Set when the run is no training but a job on LoRA files."""
    stage: StageChanged | None = None
    last_step: StepDone | None = None
    memory: Memory | None = None
    rate_range: RateRangeDone | None = None
    """What a learning rate range test found."""
    ended: RunFinished | RunFailed | None = None
    stop_asked: bool = False
    series: Series = field(default_factory=Series)
    epochs: list[EpochDone] = field(default_factory=list)
    samples: list[SampleSaved] = field(default_factory=list)
    checkpoints: list[CheckpointSaved] = field(default_factory=list)
    files: list[FileSaved] = field(default_factory=list)
    warnings: list[Warned] = field(default_factory=list)
    validations: list[ValidationDone] = field(default_factory=list)
    proof: ProofDone | None = None
    """What a proof found out."""
    kept: list[EpochKept] = field(default_factory=list)
    """What the person chose among its files."""
    last_time: float | None = None
    first_time: float | None = None
    read: int = 0
    """How many events were read: a version number of everything here."""

    def __post_init__(self):
        self._reader = self.run.event_reader()
        self._commands = self.run.command_reader()
        self._kept = self.run.kept_reader()
        self._lock = threading.Lock()
        self._recent: deque[float] = deque(maxlen=50)

    def update(self) -> "RunView":
        with self._lock:
            for event in self._reader.read():
                self._take(event)
                self.read += 1
            self.kept += self._kept.read()
            self.stop_asked |= any(isinstance(command, Stop) for command in self._commands.read())
        return self

    def _take(self, event: Event) -> None:
        self.first_time = self.first_time or event.time
        self.last_time = event.time
        match event:
            case RunStarted():
                self.started = event
                self.series.window = min(200.0, max(10.0, event.total_steps / 40))
            case ToolStarted():
                self.tool = event
            case FileSaved():
                self.files.append(event)
            case StageChanged():
                self.stage = event
            case StepDone():
                self.last_step = event
                self._recent.append(event.seconds)
                self.series.add(event)
            case EpochDone():
                self.epochs.append(event)
            case SampleSaved():
                self.samples.append(event)
            case CheckpointSaved():
                # The best so far is written over and over.
                self.checkpoints = [*(c for c in self.checkpoints if c.path != event.path), event]
            case ValidationDone():
                self.validations.append(event)
            case ProofDone():
                self.proof = event
            case Memory():
                self.memory = event
            case RateRangeDone():
                self.rate_range = event
            case Warned():
                self.warnings.append(event)
            case RunFinished() | RunFailed():
                self.ended = event

    @property
    def stopping(self) -> bool:
        return self.stop_asked and self.ended is None

    @property
    def step(self) -> int:
        if isinstance(self.ended, RunFinished):
            return max(self.ended.step, self.last_step.step if self.last_step else 0)
        return self.last_step.step if self.last_step else (self.started.first_step if self.started else 0)

    @property
    def total(self) -> int:
        return self.started.total_steps if self.started else 0

    @property
    def fraction(self) -> float:
        if self.tool is not None and self.stage is not None and self.stage.total:
            return min(1.0, self.stage.done / self.stage.total)
        return min(1.0, self.step / self.total) if self.total else 0.0

    @property
    def seconds_per_step(self) -> float | None:
        """The median of the last 50 steps: a slow one now and then (a sample, a save) does not count."""
        return statistics.median(self._recent) if self._recent else None

    @property
    def seconds_left(self) -> float | None:
        if self.ended or self.seconds_per_step is None or not self.total:
            return None
        return (self.total - self.step) * self.seconds_per_step

    def elapsed(self, now: float | None = None) -> float | None:
        if self.first_time is None:
            return None
        end = self.last_time if self.ended else (now or time.time())
        return max(0.0, (end or self.first_time) - self.first_time)


class LogTail:
    """The last part of a growing log, reading only what was added since the last look."""

    def __init__(self, path: Path, keep: int = 65_536):
        self.path = path
        self.keep = keep
        self.offset = 0
        self.tail = b""
        self._lock = threading.Lock()

    def update(self) -> str:
        with self._lock:
            try:
                size = self.path.stat().st_size
            except OSError:
                return ""
            if size < self.offset:
                self.offset, self.tail = 0, b""
            if size > self.offset:
                with self.path.open("rb") as file:
                    file.seek(max(self.offset, size - self.keep))
                    self.tail = (self.tail + file.read())[-self.keep :]
                    self.offset = file.tell()
            return self.tail.decode("utf-8", "replace")


class Views:
    """The few runs somebody looks at now, shared by all open pages, so that each event is read once."""

    def __init__(self, keep: int = 4):
        self.keep = keep
        self._views: OrderedDict[Path, tuple[RunView, LogTail]] = OrderedDict()
        self._lock = threading.Lock()

    def view(self, run: RunFolder) -> RunView:
        return self._entry(run)[0].update()

    def log(self, run: RunFolder) -> str:
        return self._entry(run)[1].update()

    def _entry(self, run: RunFolder) -> tuple[RunView, LogTail]:
        with self._lock:
            if run.path not in self._views:
                self._views[run.path] = RunView(run), LogTail(run.log)
            self._views.move_to_end(run.path)
            while len(self._views) > self.keep:
                self._views.popitem(last=False)
            return self._views[run.path]
