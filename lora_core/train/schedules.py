"""Learning rate schedules as pure functions of the step: there is no scheduler state to save."""

import math
from collections.abc import Callable

from torch.optim import Optimizer

from lora_core.settings import ScheduleSettings

Factor = Callable[[int], float]
"""Step (0-based) -> what the learning rate is multiplied by at that step."""


def warmup_steps(schedule: ScheduleSettings, total_steps: int) -> int:
    """Steps in which the rate rises: the schedule's percentage of all steps, rounded down."""
    return int(total_steps * getattr(schedule, "warmup", 0.0) / 100)


def factor(schedule: ScheduleSettings, total_steps: int) -> Factor:
    """The schedule as a function of the step, equal to the Hugging Face schedule of the same name."""
    warm = warmup_steps(schedule, total_steps)
    falling = {
        "constant": lambda _: 1.0,
        "adafactor": lambda _: 1.0,
        "constant_with_warmup": lambda _: 1.0,
        "linear": lambda x: 1.0 - x,
        "cosine": lambda x: 0.5 * (1.0 + math.cos(math.pi * x)),
        "cosine_with_restarts": lambda x: _restarts(x, schedule.num_cycles),
        "polynomial": lambda x: _polynomial(x, schedule.power),
    }[schedule.name]

    def at(step: int) -> float:
        if step < warm:
            return step / max(1, warm)
        progress = (step - warm) / max(1, total_steps - warm)
        return max(0.0, falling(min(1.0, progress)))

    return at


def _restarts(x: float, cycles: int) -> float:
    """Cosine from 1 to 0, ``cycles`` times over the run (Loshchilov & Hutter 2017, SGDR)."""
    return 0.0 if x >= 1.0 else 0.5 * (1.0 + math.cos(math.pi * ((cycles * x) % 1.0)))


_POLYNOMIAL_END = 1e-3
"""Where the polynomial schedule ends, as a share of the start: the usual 1e-7 for a rate of 1e-4."""


def _polynomial(x: float, power: float) -> float:
    return (1.0 - _POLYNOMIAL_END) * (1.0 - x) ** power + _POLYNOMIAL_END


def set_rates(optimizer: Optimizer, at: Factor, step: int) -> None:
    """Give every group its base rate times the factor of this step. Groups without a rate of their own keep theirs."""
    for group in optimizer.param_groups:
        if group.get("base_lr") is not None:
            group["lr"] = group["base_lr"] * at(step)
