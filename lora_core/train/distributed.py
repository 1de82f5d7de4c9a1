"""Several processes that train one LoRA: who does what, and how they agree.

Every process builds the same batches and draws the same noise for the whole batch, then works on its own rows of it.
Once per optimizer step the gradients are added up. So P processes with batch size b compute what one process with batch
size P x b computes, up to the order of additions. Alone, every function here is the plain thing.

What must be done once (files, events, samples) the first process does; the others wait in the next thing all do.
"""

import os
import pickle
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from functools import cached_property, wraps
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist
from torch import Tensor

from lora_core.data.dataset import Batch
from lora_core.errors import UserError
from lora_core.events import Command
from lora_core.launching import Place, place

T = TypeVar("T")

LONGEST_WAIT = timedelta(hours=12)
"""The others wait while the first draws samples or writes; one that died is noticed by its broken connection."""


@dataclass(frozen=True)
class Share:
    """A process's part of a batch: its rows, and how much of the batch's mean loss they are."""

    rows: slice
    weight: float


class Team:
    """The processes that train together, seen from one of them."""

    def __init__(self, here: Place = Place()):  # noqa: B008
        self.place = here
        self.rank, self.size = here.rank, here.size

    @property
    def alone(self) -> bool:
        return self.size == 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    # ---- shares --------------------------------------------------------------------------------------------------

    def share(self, count: int) -> Share:
        """This process's part of a batch of ``count`` samples.

        One that has none in a short batch works through the first sample with weight 0: it would only wait otherwise.
        """
        first, last = count * self.rank // self.size, count * (self.rank + 1) // self.size
        return Share(slice(first, last), (last - first) / count) if first < last else Share(slice(0, 1), 0.0)

    def rows(self, count: int) -> slice:
        return self.share(count).rows

    def own(self, batch: Batch, *tensors: Tensor) -> tuple[Any, ...]:
        """The rows of a batch and of tensors of its length that are this process's, after all draws were made."""
        if self.alone:
            return (batch, *tensors)
        rows = self.rows(len(batch))
        return (rows_of(batch, rows), *(tensor[rows] for tensor in tensors))

    def whole(self, own: Tensor, count: int) -> Tensor:
        """(count, ...) for a batch of which each process worked out its own rows (b, ...)."""
        if self.alone:
            return own
        share = self.share(count)
        found = own.new_zeros(count, *own.shape[1:])
        if share.weight:
            found[share.rows] = own
        return self._sum(found)

    def dropout_path(self) -> tuple[str, ...]:
        """What sets the dropout of this process apart from the first one's."""
        return (f"rank {self.rank}",) if self.rank else ()

    # ---- agreeing ------------------------------------------------------------------------------------------------

    def same(self, value: T) -> T:
        """The first process's value, for all. ``value`` counts for nothing in the others."""
        return value if self.alone else self._from(0, value)

    def told_by(self, source: int, value: T) -> T:
        """The value of one of the processes, for all."""
        return value if self.alone else self._from(source, value)

    def meet(self) -> None:
        """Wait for the others."""
        if not self.alone:
            dist.all_reduce(torch.zeros(1))

    def once_a_machine(self, compute: Callable[[], T]) -> T:
        """What the first process of each machine computes, for all of its machine."""
        if self.alone:
            return compute()
        leader = self.rank - self.place.local_rank
        return self._from(leader, compute() if self.rank == leader else None, self._machine)

    def check_same_data(self, fingerprint: str) -> None:
        """Raises UserError when this machine's images are not those of the first."""
        if self.same(fingerprint) != fingerprint:
            raise UserError("launch.other_images", rank=self.rank)

    def commands(self, own: Iterable[Command]) -> Iterable[Command]:
        """Commands as the first process hears them; every process gets them at the same step."""
        return own if self.alone else _Told(self, own)

    def align(self, parameters: Sequence[Tensor]) -> None:
        """Give all processes the first one's numbers: on unlike cards the same draw may differ in its last bits."""
        if self.alone:
            return
        with torch.no_grad():
            flat = self._wire(torch.cat([p.detach().float().reshape(-1) for p in parameters]))
            dist.broadcast(flat, 0)
            _spread(flat, parameters)

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter], loss: Tensor) -> Tensor:
        """Add up the gradients over all processes, in one go; gives the added loss.

        A parameter that no process has a gradient for keeps none, as it would in one process.
        """
        if self.alone:
            return loss
        here = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
        dist.all_reduce(here, dist.ReduceOp.MAX)  # on the CPU: nobody waits for the device
        used = [p for p, there in zip(parameters, here.tolist(), strict=True) if there]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = self._sum(torch.cat([loss.reshape(1).float(), *(p.grad.float().reshape(-1) for p in used)]))
        _spread(flat[1:], [p.grad for p in used])
        return flat[0].to(loss.device)

    # ---- transport -----------------------------------------------------------------------------------------------

    def _sum(self, tensor: Tensor) -> Tensor:
        moved = self._wire(tensor)
        dist.all_reduce(moved)
        return moved.to(tensor.device)

    def _wire(self, tensor: Tensor) -> Tensor:
        """Where the tensor can be sent from: the device with NCCL, else the CPU."""
        return tensor if tensor.device.type != "cuda" or "nccl" in dist.get_backend_config() else tensor.cpu()

    def _from(self, source: int, value: Any, group: Any = None) -> Any:
        data = pickle.dumps(value) if self.rank == source else b""
        length = torch.tensor([len(data)])
        dist.broadcast(length, source, group=group)
        buffer = torch.frombuffer(bytearray(data or bytes(int(length))), dtype=torch.uint8)
        dist.broadcast(buffer, source, group=group)
        return value if self.rank == source else pickle.loads(buffer.numpy().tobytes())

    @cached_property
    def _machine(self) -> Any:
        """The group of this machine's processes. All processes make all groups, in the same order."""
        if self.place.local_size == self.size:
            return None
        starts = range(0, self.size, self.place.local_size)
        groups = [dist.new_group(list(range(s, s + self.place.local_size)), backend="gloo") for s in starts]
        return groups[self.rank // self.place.local_size]


class _Told:
    def __init__(self, team: Team, own: Iterable[Command]):
        self.team, self.own = team, own

    def __iter__(self) -> Iterator[Command]:
        """A message only when there is something to tell: between two steps there hardly ever is."""
        new = list(self.own) if self.team.leads else []
        count = torch.tensor([len(new)])
        dist.broadcast(count, 0)
        return iter(self.team.same(new) if int(count) else [])


def join(device: torch.device) -> tuple[Team, torch.device]:
    """Meet the other processes; gives the team and this process's own device. Raises UserError for a card too few."""
    here = place()
    if here.size == 1:
        return Team(), device
    if device.type == "cuda":
        if here.local_rank >= torch.cuda.device_count():
            raise UserError("launch.too_few_cards", processes=here.local_size, cards=torch.cuda.device_count())
        device = torch.device("cuda", here.local_rank)
        torch.cuda.set_device(device)
    if here.supervisor is not None:
        end_with(here.supervisor)
    if not dist.is_initialized():
        fast = device.type == "cuda" and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if fast else "gloo", timeout=LONGEST_WAIT)
    # Sharding that the configuration file may ask for is not ours: accelerate would expect a wrapped model.
    for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM"):
        os.environ.pop(name, None)
    return Team(here), device


def leave() -> None:
    """Wait for the one that still writes, then part: who goes first would look like a crash to the others."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(torch.zeros(1))
        dist.destroy_process_group()


def end_with(supervisor: int) -> None:
    """End this process at once when the one that looks after it is gone: a rank left behind would hold its card."""

    def watch() -> None:
        while psutil.pid_exists(supervisor):
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="supervisor").start()


def leader_only(events: Callable[..., Iterator[T]]) -> Callable[..., Iterator[T]]:
    """For generators of a session: the first process goes through them, the others have nothing to do."""

    @wraps(events)
    def led(session: Any, *args: Any, **kwargs: Any) -> Iterator[T]:
        if session.team.leads:
            yield from events(session, *args, **kwargs)

    return led


def rows_of(batch: Batch, rows: slice) -> Batch:
    """A batch with some of its rows. Pixels are loaded for the own rows only, so they stay as they are."""
    kept = {f.name: getattr(batch, f.name) for f in fields(batch) if not f.name.startswith("pixels")}
    return replace(batch, **{name: None if value is None else value[rows] for name, value in kept.items()})


def _spread(flat: Tensor, targets: Sequence[Tensor]) -> None:
    """The reverse of flattening: each target gets its stretch."""
    parts = flat.split([target.numel() for target in targets])
    for target, part in zip(targets, parts, strict=True):
        target.copy_(part.view_as(target))
