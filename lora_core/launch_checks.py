"""Do the settings of several processes fit together, and this machine? Torch-free, quick enough for a page."""

import importlib.util
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from lora_core.errors import Problem
from lora_core.launching import gpu_ids, sharding
from lora_core.settings import RunSettings
from lora_core.setup.hardware import ask, query_nvidia

Found = Iterator[Problem]


def machines(settings: RunSettings) -> Found:
    """Ranks, shares and the address that several machines need."""
    launch = settings.launch
    if launch.machine_rank >= launch.machines:
        values = {"rank": launch.machine_rank, "machines": launch.machines, "last": launch.machines - 1}
        fix = {"launch.machine_rank": launch.machines - 1}
        yield Problem("launch.machine_rank", "checks.launch_rank_too_high", values, fix=fix)
    if launch.machines == 1:
        return
    if launch.processes % launch.machines:
        values = {"processes": launch.processes, "machines": launch.machines}
        fix = {"launch.processes": max(1, launch.processes // launch.machines) * launch.machines}
        yield Problem("launch.processes", "checks.launch_not_divisible", values, fix=fix)
    if not launch.main_address.strip():
        yield Problem("launch.main_address", "checks.launch_no_address")


def cards_named(settings: RunSettings) -> Found:
    """GPU IDs are numbers, and enough for the processes of this machine."""
    launch = settings.launch
    ids, here = gpu_ids(launch), processes_here(settings)
    if not all(number.isdecimal() for number in ids):
        yield Problem("launch.gpu_ids", "checks.launch_gpu_ids", {"given": launch.gpu_ids}, fix={"launch.gpu_ids": ""})
    elif ids and here > len(ids):
        fix = {"launch.processes": len(ids) * launch.machines}
        yield Problem("launch.processes", "checks.launch_few_gpu_ids", {"ids": len(ids), "processes": here}, fix=fix)


def devices(settings: RunSettings) -> Found:
    if settings.launch.processes > 1 and settings.train.device in ("mps", "xpu"):
        values = {"device": settings.train.device}
        yield Problem("launch.processes", "checks.launch_device", values, fix={"launch.processes": 1})


def arguments(settings: RunSettings) -> Found:
    try:
        shlex.split(settings.launch.extra_args, posix=os.name != "nt")
    except ValueError:
        values = {"given": settings.launch.extra_args}
        yield Problem("launch.extra_args", "checks.launch_extra_args", values, fix={"launch.extra_args": ""})


def configuration(settings: RunSettings) -> Found:
    """The config file is of a known kind, and one process reads none."""
    path = settings.launch.config_file
    unset = {"launch.config_file": None}
    if path is None:
        return
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        yield Problem(
            "launch.config_file", "checks.launch_config_kind", {"path": path}, fix={"launch.config_file": None}
        )
    elif settings.launch.processes == 1:
        yield Problem("launch.config_file", "checks.launch_config_unused", severity="warning", fix=unset)


COMBINATIONS: tuple[Callable[[RunSettings], Found], ...] = (machines, cards_named, devices, arguments, configuration)


def config_here(settings: RunSettings) -> Found:
    """The config file is there, and what it asks for is installed."""
    path = settings.launch.config_file
    if path is None or settings.launch.processes == 1:
        return
    if not path.is_file():
        yield Problem("launch.config_file", "checks.launch_config_missing", {"path": path})
        return
    kind = sharding(path)
    if kind == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        yield Problem("launch.config_file", "checks.launch_no_deepspeed", fix={"launch.config_file": None})
    elif kind:
        yield Problem("launch.config_file", "checks.launch_not_sharded", {"kind": kind}, severity="warning")


def cards_here(settings: RunSettings) -> Found:
    """Two processes on one card would share its memory and be slower than one."""
    here = processes_here(settings)
    if here < 2 or settings.train.device not in ("auto", "cuda"):
        return
    cards = visible_cards(nvidia_cards(), os.environ)
    if cards and here > cards:
        fix = {"launch.processes": cards * settings.launch.machines}
        yield Problem(
            "launch.processes", "checks.launch_too_many_processes", {"processes": here, "cards": cards}, fix=fix
        )


def processes_here(settings: RunSettings) -> int:
    """Processes on each machine."""
    return settings.launch.processes // settings.launch.machines


@lru_cache(maxsize=1)
def nvidia_cards() -> int:
    """Cards of this machine, asked once: a page asks at every change."""
    found = query_nvidia(ask)
    return len(found.names) if found else 0


def visible_cards(cards: int, environment: Mapping[str, str]) -> int:
    """Of the machine's cards, those that CUDA_VISIBLE_DEVICES leaves."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    return cards if chosen is None else min(cards, sum(bool(one.strip()) for one in chosen.split(",")))
