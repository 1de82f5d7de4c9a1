"""Learning rate schedules as pure functions of the step: there is no scheduler state to save. Torch-free.

Steps are optimizer steps, whatever the number of batches or processes in each.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lora_core.settings import ScheduleSettings, TrainSettings
from lora_core.settings.schedule import InverseSqrt, PiecewiseConstant, WarmupStableDecay, read_rules

if TYPE_CHECKING:
    from torch.optim import Optimizer

Factor = Callable[[int], float]
"""Step (0-based) -> what the learning rate is multiplied by at that step."""


def warmup_steps(schedule: ScheduleSettings, total_steps: int) -> int:
    """Steps in which the rate rises: as many as set, or the percentage of all steps, rounded down."""
    return _steps(schedule, "warmup", total_steps)


def decay_steps(schedule: WarmupStableDecay, total_steps: int) -> int:
    """Steps in which the rate falls, at the end of the run. The warm-up comes first where both do not fit."""
    return min(_steps(schedule, "decay", total_steps), total_steps - warmup_steps(schedule, total_steps))


def _steps(schedule: ScheduleSettings, name: str, total_steps: int) -> int:
    steps: int | None = getattr(schedule, f"{name}_steps", None)
    return min(steps, total_steps) if steps is not None else int(total_steps * getattr(schedule, name, 0.0) / 100)


def factor(schedule: ScheduleSettings, total_steps: int) -> Factor:
    """The schedule as a function of the step, equal to the Hugging Face schedule of the same name; REX to its paper."""
    if isinstance(schedule, WarmupStableDecay):
        return _warmup_stable_decay(schedule, total_steps)
    if isinstance(schedule, PiecewiseConstant):
        return _piecewise(schedule, total_steps)
    warm = warmup_steps(schedule, total_steps)
    falling = _inverse_sqrt(schedule, warm) if isinstance(schedule, InverseSqrt) else _falling(schedule)

    def at(step: int) -> float:
        if step < warm:
            return step / max(1, warm)
        if isinstance(schedule, InverseSqrt):
            return falling(step)
        progress = (step - warm) / max(1, total_steps - warm)
        return max(0.0, falling(min(1.0, progress)))

    return at


def _falling(schedule: Any) -> Callable[[float], float]:
    """The fall after the warm-up, from the share x of it that is done."""
    return {
        "constant": lambda _: 1.0,
        "adafactor": lambda _: 1.0,
        "constant_with_warmup": lambda _: 1.0,
        "linear": lambda x: 1.0 - x,
        "cosine": _cosine,
        "cosine_with_min_lr": lambda x: _above(schedule.min_lr_ratio, _cosine(x)),
        "cosine_with_restarts": lambda x: _restarts(x, schedule.num_cycles),
        "polynomial": lambda x: _polynomial(x, schedule.power),
        "rex": _rex,
    }[schedule.name]


def _cosine(x: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * x))


def _above(floor: float, share: float) -> float:
    """A fall from 1 to 0 as one from 1 to ``floor``."""
    return floor + (1.0 - floor) * share


def _restarts(x: float, cycles: int) -> float:
    """Cosine from 1 to 0, ``cycles`` times over the run (Loshchilov & Hutter 2017, SGDR)."""
    return 0.0 if x >= 1.0 else _cosine((cycles * x) % 1.0)


_POLYNOMIAL_END = 1e-3
"""Where the polynomial schedule ends, as a share of the start: the usual 1e-7 for a rate of 1e-4."""


def _polynomial(x: float, power: float) -> float:
    return (1.0 - _POLYNOMIAL_END) * (1.0 - x) ** power + _POLYNOMIAL_END


def _rex(x: float) -> float:
    """Stays high and falls at the end (Chen et al. 2021, "REX: Revisiting Budgeted Training", eq. 1 with beta 1/2)."""
    return (1.0 - x) / (0.5 + 0.5 * (1.0 - x))


def _inverse_sqrt(schedule: InverseSqrt, warm: int) -> Callable[[float], float]:
    """1 / sqrt of the steps, in units of the timescale, which is 1 where the warm-up ends."""
    timescale = schedule.timescale or warm or 10_000
    return lambda step: 1.0 / math.sqrt((step + timescale - warm) / timescale)


def _warmup_stable_decay(schedule: WarmupStableDecay, total_steps: int) -> Factor:
    """Up, level, down by a cosine; both slopes end at the least rate (Hu et al. 2024, MiniCPM, section 4)."""
    warm, decay, low = warmup_steps(schedule, total_steps), decay_steps(schedule, total_steps), schedule.min_lr_ratio

    def at(step: int) -> float:
        if step < warm:
            return _above(low, step / warm)
        left = total_steps - step
        if left > decay:
            return 1.0
        return _above(low, _cosine(1.0 - max(0, left) / decay)) if decay else 1.0 if left > 0 else low

    return at


def _piecewise(schedule: PiecewiseConstant, total_steps: int) -> Factor:
    ends = sorted((_end(end, total_steps), value) for value, end in read_rules(schedule.step_rules))
    return lambda step: next(value for end, value in ends if step < end)


def _end(end: float | None, total_steps: int) -> float:
    """The first step that a rule no longer holds for; see read_rules."""
    return math.inf if end is None else end if end >= 0 else -end * total_steps


def text_encoders_stop_at(train: TrainSettings, total_steps: int) -> int | None:
    """The 0-based step from which text encoders are frozen; None if they learn to the end."""
    if train.stop_text_encoder_steps is not None:
        return train.stop_text_encoder_steps
    if train.stop_text_encoder_training is not None:
        return int(total_steps * train.stop_text_encoder_training / 100)
    return None


def set_rates(optimizer: "Optimizer", at: Factor, step: int) -> None:
    """Give every group its base rate times the factor of this step. Groups without a rate of their own keep theirs."""
    for group in optimizer.param_groups:
        if group.get("base_lr") is not None:
            group["lr"] = group["base_lr"] * at(step)
