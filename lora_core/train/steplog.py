"""Turns losses that are still on the device into events, without making every step wait for them."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psutil
import torch
from torch import Tensor

from lora_core.errors import UserError
from lora_core.events import EventBase, Memory, StepDone
from lora_core.train.optimizers import current_rates

if TYPE_CHECKING:
    from lora_core.train.session import Session

READ_EVERY = 0.5
"""Seconds between two readings of the losses from the device."""
MEMORY_EVERY = 5.0


class StepLog:
    """Collects steps and gives them out as events about twice a second."""

    def __init__(self, session: "Session"):
        self.session = session
        self.waiting: list[tuple[int, int, Tensor, dict[str, float]]] = []
        self.epoch_losses: list[float] = []
        self.last_read = time.perf_counter()
        self.last_memory = 0.0

    def add(self, step: int, epoch: int, loss: Tensor) -> Iterator[EventBase]:
        """Note a step; now and then, the events of all steps since the last time."""
        if not self.session.team.leads:
            return
        self.waiting.append((step, epoch, loss, current_rates(self.session.optimizer)))
        if time.perf_counter() - self.last_read >= READ_EVERY or step == self.session.first_step + 1:
            yield from self.flush()

    def flush(self) -> Iterator[EventBase]:
        """Events of all steps noted so far. Raises UserError if a loss is NaN or infinite."""
        if not self.waiting:
            return
        waiting, self.waiting = self.waiting, []
        losses = torch.stack([loss for _, _, loss, _ in waiting]).tolist()  # the one wait for the device
        now = time.perf_counter()
        seconds = (now - self.last_read) / len(waiting)
        self.last_read = now
        for (step, epoch, _, rates), loss in zip(waiting, losses, strict=True):
            if loss != loss or abs(loss) == float("inf"):
                raise UserError("train.loss_not_finite", step=step, loss=loss)
            self.epoch_losses.append(loss)
            yield StepDone(step=step, epoch=epoch, loss=loss, learning_rate=rates, seconds=seconds)
        if now - self.last_memory >= MEMORY_EVERY:
            self.last_memory = now
            yield memory(self.session.device)

    def epoch_mean(self) -> float:
        """Mean loss of the steps since the last call, which is once an epoch."""
        losses, self.epoch_losses = self.epoch_losses, []
        return sum(losses) / len(losses) if losses else float("nan")

    def leave_out_pause(self) -> None:
        """Leave out of the step time what was not training (samples, saving, a pause), if all steps were given out."""
        if not self.waiting:
            self.last_read = time.perf_counter()


def memory(device: torch.device) -> Memory:
    """Memory in use, in GiB."""
    gib = 2**30
    process = psutil.Process().memory_info().rss / gib
    if device.type != "cuda":
        return Memory(process_gb=process)
    return Memory(
        process_gb=process,
        device_gb=torch.cuda.memory_allocated(device) / gib,
        device_peak_gb=torch.cuda.max_memory_allocated(device) / gib,
    )
