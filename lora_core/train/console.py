"""A run in the terminal: what it trains, a progress bar, what it wrote."""

import sys
from typing import TextIO

from tqdm import tqdm

from lora_core.events import (
    CheckpointSaved,
    EventBase,
    RunFailed,
    RunFinished,
    RunStarted,
    SampleSaved,
    StageChanged,
    StepDone,
    ValidationDone,
    Warned,
)
from lora_core.i18n import Language, text

PLAIN_EVERY = 25
"""Without a terminal (a log file), one line is written for so many steps."""


class Console:
    """Shows events as they come; works on a terminal and in a log file."""

    def __init__(self, language: Language = "en", out: TextIO | None = None):
        self.language = language
        self.out = out or sys.stdout
        self.live = self.out.isatty()
        self.bar: tqdm | None = None
        self.total = 0
        self.smoothed: float | None = None
        self.stage = ""

    def say(self, line: str) -> None:
        if self.bar is not None:
            self.bar.clear()
        print(line, file=self.out, flush=True)
        if self.bar is not None:
            self.bar.refresh()

    def show(self, event: EventBase) -> None:
        match event:
            case RunStarted():
                self.total = event.total_steps
                for line in event.summary.get(self.language, []):
                    self.say(f"  {line}")
                self.open_bar(event)
            case StageChanged():
                self.show_stage(event)
            case StepDone():
                self.show_step(event)
            case Warned():
                self.say(f"! {event.message[self.language]}")
            case ValidationDone():
                self.say(validated(event, self.language))
            case CheckpointSaved():
                self.say(text("train.console.saved", self.language, path=event.path))
            case SampleSaved():
                self.say(text("train.console.sample", self.language, path=event.path, prompt=event.prompt))
            case RunFinished():
                self.close()
                self.say(text(f"train.console.{event.reason}", self.language, step=event.step, path=event.path or "-"))
            case RunFailed():
                self.close()
                self.say(text("train.console.failed", self.language, message=event.message[self.language]))

    def show_stage(self, event: StageChanged) -> None:
        if event.stage != self.stage and event.stage not in ("training", "sampling", "saving", "validating"):
            self.say(text(f"train.stage.{event.stage}", self.language))
        self.stage = event.stage

    def show_step(self, event: StepDone) -> None:
        self.smoothed = event.loss if self.smoothed is None else 0.98 * self.smoothed + 0.02 * event.loss
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {self.smoothed:.4f}", refresh=False)
            self.bar.update(event.step - self.bar.n)
        elif event.step % PLAIN_EVERY == 0 or event.step == self.total:
            self.say(
                text(
                    "train.console.step",
                    self.language,
                    step=event.step,
                    total=self.total,
                    epoch=event.epoch,
                    loss=self.smoothed,
                    seconds=event.seconds,
                )
            )

    def open_bar(self, event: RunStarted) -> None:
        if self.live:
            self.bar = tqdm(total=event.total_steps, initial=event.first_step, file=self.out, unit="step", leave=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def validated(event: ValidationDone, language: Language) -> str:
    """The numbers of an epoch in one line."""
    apart = "-" if event.generalisation is None else f"{event.generalisation:.5f}"
    drift = event.drift_class if event.drift_unrelated is None else event.drift_unrelated
    return text("train.console.validated", language, epoch=event.epoch, fit=event.fit, apart=apart, drift=drift)
