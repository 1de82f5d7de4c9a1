"""What the person asks of a running job, read between two steps."""

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from lora_core.errors import UserError
from lora_core.events import Command, EventBase, Pause, Resume, SampleNow, SaveNow, StageChanged, Stop
from lora_core.train import saving
from lora_core.train.sampling import draw_samples

if TYPE_CHECKING:
    from lora_core.train.session import Session
    from lora_core.train.steplog import StepLog

PAUSE_LOOKS = 0.25
"""Seconds between two looks at the commands while paused."""


class Control:
    """Obeys commands. ``stopped`` tells the loop to end, ``save`` whether to write the LoRA and the state first."""

    def __init__(self, commands: Iterable[Command]):
        self.commands = commands
        self.stopped = False
        self.save = True
        self.paused = False

    def obey(self, session: "Session", log: "StepLog", step: int, epoch: int) -> Iterator[EventBase]:
        """Do what was asked since the last call; while paused, wait here."""
        while True:
            for command in self.commands:
                yield from log.flush()
                yield from self._one(command, session, step, epoch)
                log.leave_out_pause()
            if self.stopped or not self.paused:
                return
            time.sleep(PAUSE_LOOKS)

    def wait(self, seconds: float) -> bool:
        """Wait, unless told to stop meanwhile: then False at once."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if any(isinstance(command, Stop) for command in self.commands):
                return False
            time.sleep(min(PAUSE_LOOKS, seconds))
        return True

    def _one(self, command: Command, session: "Session", step: int, epoch: int) -> Iterator[EventBase]:
        total = session.plan.total_steps
        match command:
            case Stop():
                self.stopped, self.save, self.paused = True, command.save, False
            case Pause() if not self.paused:
                self.paused = True
                yield StageChanged(stage="paused", done=step, total=total)
            case Resume() if self.paused:
                self.paused = False
                yield StageChanged(stage="training", done=step, total=total)
            case SaveNow():
                try:
                    yield from saving.save_step(session, step, state=True)
                except UserError as error:
                    yield saving.not_saved(error)
            case SampleNow():
                yield from draw_samples(session, step=step, epoch=epoch, now=True)
