"""What a job tells the app, and what the app tells the job: JSON lines in two files of the run folder.

A file survives restarts of either side, is the run's history, replays in tests and works the same on Windows.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lora_core.i18n import LANGUAGES, text

Stage = Literal[
    "checking",
    "loading_model",
    "caching_latents",
    "caching_texts",
    "training",
    "sampling",
    "validating",
    "saving",
    "paused",
    "reading",
    "computing",
    "writing",
    "drawing",
]


class EventBase(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")  # a loss that became NaN is news, too

    time: float = Field(default_factory=time.time)
    """Seconds since 1970."""


class RunStarted(EventBase):
    """The run is about to take its first step. ``summary`` says in plain lines what will be trained."""

    type: Literal["run_started"] = "run_started"
    name: str
    total_steps: int
    epochs: int
    steps_per_epoch: float
    first_step: int = 0
    """Steps done before, when a run is resumed."""
    device: str = ""
    precision: str = ""
    seed: int = 0
    summary: dict[Literal["en", "ja"], list[str]] = Field(default_factory=dict)


class ToolStarted(EventBase):
    """A job on LoRA files or checkpoints begins. ``summary`` says in plain lines what it will do."""

    type: Literal["tool_started"] = "tool_started"
    job: str
    name: str
    summary: dict[Literal["en", "ja"], list[str]] = Field(default_factory=dict)


class FileSaved(EventBase):
    """A job on LoRA files wrote something. ``facts`` are numbers about it: rank, layers, share kept."""

    type: Literal["file_saved"] = "file_saved"
    path: Path
    kind: Literal["lora", "checkpoint", "picture"]
    facts: dict[str, Any] = Field(default_factory=dict)


class StageChanged(EventBase):
    type: Literal["stage_changed"] = "stage_changed"
    stage: Stage
    done: int = 0
    total: int = 0


class StepDone(EventBase):
    """One or more optimizer steps; ``step`` counts from 1, ``seconds`` is the time of one step."""

    type: Literal["step_done"] = "step_done"
    step: int
    epoch: int
    loss: float
    learning_rate: dict[str, float]
    seconds: float


class EpochDone(EventBase):
    type: Literal["epoch_done"] = "epoch_done"
    epoch: int
    step: int
    mean_loss: float


class SampleSaved(EventBase):
    type: Literal["sample_saved"] = "sample_saved"
    path: Path
    prompt: str
    index: int
    step: int
    epoch: int


class CheckpointSaved(EventBase):
    """A LoRA file was written (``state`` is the folder of its training state, if one was saved)."""

    type: Literal["checkpoint_saved"] = "checkpoint_saved"
    path: Path
    step: int
    epoch: int
    final: bool = False
    state: Path | None = None


class PictureLoss(BaseModel):
    """The loss of one picture, mean over its noise levels and draws."""

    name: str
    held_out: bool
    loss: float


class BandLoss(BaseModel):
    """Mean losses at the timesteps from ``low`` up to ``high``, of 1000."""

    low: int
    high: int
    fit: float | None = None
    generalisation: float | None = None


class ValidationDone(EventBase):
    """Over-fitting measured after an epoch; epoch 0 is before the first step. All from fixed noise."""

    type: Literal["validation_done"] = "validation_done"
    epoch: int
    step: int
    fit: float
    """Mean loss on training pictures."""
    generalisation: float | None = None
    """Mean loss on pictures that are not trained on; None when there are none."""
    drift_class: float = 0.0
    """Relative distance of the predictions with the LoRA from those without it, for the class prompt."""
    drift_unrelated: float | None = None
    """The same for the unrelated prompts; None when there are none."""
    following: float | None = None
    """How much of the source model's answer to a new context is left beside the trigger words: 1 as before, 0 none.
    None without trigger words.
    """
    bands: list[BandLoss] = Field(default_factory=list)
    pictures: list[PictureLoss] = Field(default_factory=list)


class RatePoint(BaseModel):
    """The loss of the fixed noise after the first ``step`` steps, the last of which was taken at ``rate``."""

    step: int
    rate: float
    loss: float


class RateRangeDone(EventBase):
    """A learning rate range test has ended; see lora_core/rate_range.py for what its answer means."""

    type: Literal["rate_range_done"] = "rate_range_done"
    kind: Literal["found", "no_fall", "still_falling", "starts_too_high"]
    rate: float | None = None
    """The rate to train with; None when none was found."""
    start: float
    """The loss before the first step."""
    points: list[RatePoint]
    blew_up_at: float | None = None
    """The rate at which the loss left all bounds, which ended the test; None when it never did."""
    adopt: dict[str, float] = Field(default_factory=dict)
    """Settings (dotted path -> value) that put the rate in force, all parts in the proportion that was tested."""
    optimizer: str = ""
    seed: int = 0


class ProofDone(EventBase):
    """What a LoRA does in a model. Measured values are None where there was nothing to measure."""

    type: Literal["proof_done"] = "proof_done"
    name: str
    """Of the file."""
    strength: float = 1.0
    modules: int = 0
    """Layers that the file has something for."""
    lost: int = 0
    """Of those, the ones that found no place in the model."""
    lost_names: list[str] = Field(default_factory=list)
    """The first of them."""
    broken: int = 0
    """Modules that hold NaN or infinity."""
    broken_names: list[str] = Field(default_factory=list)
    zero: int = 0
    """Modules in place whose change is zero."""
    pixels: float | None = None
    """Mean absolute difference of the pictures, of 255."""
    latents: float | None = None
    """The same of their latents, in which a picture's spread is about 1."""
    own: float | None = None
    """Relative distance of the predictions with the LoRA from those without it, for the prompt that was drawn."""
    class_prompt: float | None = None
    unrelated: float | None = None
    """None, too, when there are no unrelated prompts."""


class Memory(EventBase):
    """Gigabytes (2**30 bytes): of the graphics card if there is one, and of this process."""

    type: Literal["memory"] = "memory"
    device_gb: float | None = None
    device_peak_gb: float | None = None
    process_gb: float


class Warned(EventBase):
    """Something the person should know but that does not stop the run."""

    type: Literal["warning"] = "warning"
    path: str = ""
    message: dict[Literal["en", "ja"], str]


def warned(path: str, key: str, values: dict[str, Any]) -> Warned:
    """A warning from the catalogue of texts, in every language."""
    return Warned(path=path, message={language: text(key, language, **values) for language in LANGUAGES})


class RunFinished(EventBase):
    type: Literal["run_finished"] = "run_finished"
    reason: Literal["completed", "stopped"]
    step: int
    path: Path | None = None
    """The last LoRA written, if any."""


class RunFailed(EventBase):
    """``message`` in the person's language says what happened and what to do; ``detail`` is for a bug report."""

    type: Literal["run_failed"] = "run_failed"
    message: dict[Literal["en", "ja"], str]
    detail: str = ""
    problems: list[dict] = Field(default_factory=list)


Event = Annotated[
    RunStarted
    | ToolStarted
    | FileSaved
    | StageChanged
    | StepDone
    | EpochDone
    | SampleSaved
    | CheckpointSaved
    | ValidationDone
    | RateRangeDone
    | ProofDone
    | Memory
    | Warned
    | RunFinished
    | RunFailed,
    Field(discriminator="type"),
]


class EpochKept(BaseModel):
    """The person chose one of the files of a run: ``path`` is a copy of ``source``."""

    time: float = Field(default_factory=time.time)
    source: Path
    path: Path
    strength: float | None = None
    """At which it was chosen among others, in a grid of strengths."""


class Stop(BaseModel):
    """Stop after the current step; ``save`` writes the LoRA and the training state first."""

    type: Literal["stop"] = "stop"
    save: bool = True


class SaveNow(BaseModel):
    type: Literal["save_now"] = "save_now"


class SampleNow(BaseModel):
    type: Literal["sample_now"] = "sample_now"


class Pause(BaseModel):
    type: Literal["pause"] = "pause"


class Resume(BaseModel):
    type: Literal["resume"] = "resume"


Command = Annotated[Stop | SaveNow | SampleNow | Pause | Resume, Field(discriminator="type")]

EVENT: TypeAdapter[Event] = TypeAdapter(Event)
COMMAND: TypeAdapter[Command] = TypeAdapter(Command)
KEPT: TypeAdapter[EpochKept] = TypeAdapter(EpochKept)
T = TypeVar("T")


def append(path: Path, line: BaseModel) -> None:
    """Add one event or command to a file, as one write, so that readers never see two mixed."""
    data = (line.model_dump_json() + "\n").encode()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
    try:
        os.write(descriptor, b"\n" + data if _cut_off(descriptor) else data)
    finally:
        os.close(descriptor)


def _cut_off(descriptor: int) -> bool:
    """Whether the last line was left unfinished by a process that died; what follows must not be added to it."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    os.lseek(descriptor, max(0, size - 1), os.SEEK_SET)
    return size > 0 and os.read(descriptor, 1) != b"\n"


class Reader(Generic[T]):
    """Reads the lines added since the last call; a line still being written waits for the next.

    A line that is no known event (written by another version, say) is passed over and counted in ``skipped``. Types
    in ``without`` are left out before they are understood, which takes nearly all the time of a long run.
    """

    def __init__(self, path: Path, kind: TypeAdapter[T], offset: int = 0, without: Sequence[str] = ()):
        self.path = path
        self.without = [f'"type":"{name}"'.encode() for name in without]
        self.kind = kind
        self.offset = offset
        self.skipped = 0

    def read(self) -> Iterator[T]:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                if line == b"\n":  # a writer took another's line, seen half, for one that was cut off
                    continue
                if any(words in line for words in self.without):
                    continue
                try:
                    yield self.kind.validate_python(json.loads(line))
                except (ValidationError, json.JSONDecodeError, UnicodeDecodeError):
                    self.skipped += 1
