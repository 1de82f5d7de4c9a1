"""Learning rate schedules: one variant each."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from lora_core.errors import UserError
from lora_core.settings.base import Settings


class Constant(Settings):
    name: Literal["constant"] = "constant"


class AdafactorSchedule(Settings):
    name: Literal["adafactor"] = "adafactor"


class _WithWarmup(Settings):
    warmup: float = Field(10.0, ge=0, le=100, title="LR warmup (% of steps)", json_schema_extra={"kohya": "lr_warmup"})
    """Part of the run in which the learning rate rises from 0, in percent of all steps."""
    warmup_steps: int | None = Field(
        None, ge=0, title="LR warmup (steps)", json_schema_extra={"kohya": "lr_warmup_steps"}
    )
    """The same as a number of steps, whatever the length of the run. Empty: the percentage decides."""


class _WithFloor(Settings):
    min_lr_ratio: float = Field(
        0.1, ge=0, le=1, title="LR min ratio", json_schema_extra={"kohya": "lr_scheduler_min_lr_ratio"}
    )
    """Where the learning rate ends, as a part of the start: 0.1 ends at a tenth."""


class ConstantWithWarmup(_WithWarmup):
    name: Literal["constant_with_warmup"] = "constant_with_warmup"


class Linear(_WithWarmup):
    name: Literal["linear"] = "linear"


class Cosine(_WithWarmup):
    name: Literal["cosine"] = "cosine"


class CosineWithMinLr(_WithFloor, _WithWarmup):
    name: Literal["cosine_with_min_lr"] = "cosine_with_min_lr"


class CosineWithRestarts(_WithWarmup):
    name: Literal["cosine_with_restarts"] = "cosine_with_restarts"
    num_cycles: int = Field(
        1, ge=1, le=1000, title="LR number of cycles", json_schema_extra={"kohya": "lr_scheduler_num_cycles"}
    )
    """How often the learning rate falls from the top to 0 and starts again."""


class Polynomial(_WithWarmup):
    name: Literal["polynomial"] = "polynomial"
    power: float = Field(1.0, gt=0, le=20, title="LR power", json_schema_extra={"kohya": "lr_scheduler_power"})
    """Shape of the fall: 1 is a straight line, 2 falls fast first and slowly at the end."""


class Rex(_WithWarmup):
    name: Literal["rex"] = "rex"


class WarmupStableDecay(_WithFloor, _WithWarmup):
    name: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    min_lr_ratio: float = Field(
        0.0, ge=0, le=1, title="LR min ratio", json_schema_extra={"kohya": "lr_scheduler_min_lr_ratio"}
    )
    """Where the learning rate ends, as a part of the start: 0.1 ends at a tenth."""
    decay: float = Field(20.0, ge=0, le=100, title="LR decay (% of steps)")
    """Part of the run in which the learning rate falls, at its end. Before that it stays at the top."""
    decay_steps: int | None = Field(None, ge=0, title="LR decay (steps)", json_schema_extra={"kohya": "lr_decay_steps"})
    """The same as a number of steps. Empty: the percentage decides."""


class InverseSqrt(_WithWarmup):
    name: Literal["inverse_sqrt"] = "inverse_sqrt"
    timescale: int | None = Field(
        None, ge=1, title="LR timescale (steps)", json_schema_extra={"kohya": "lr_scheduler_timescale"}
    )
    """How slowly the learning rate falls: after three times as many steps more it is half. Empty: the warm-up's length, or 10,000 without one."""


def read_rules(text: str) -> list[tuple[float, float | None]]:
    """``1:50%,0.3:1000,0.1`` as pairs of factor and end: a part of the run below 0, else a step; None for the last.

    >>> read_rules("1:50%,0.3:1000,0.1")
    [(1.0, -0.5), (0.3, 1000.0), (0.1, None)]
    """
    rules: list[tuple[float, float | None]] = []
    parts = [part.strip() for part in text.split(",")]
    for number, part in enumerate(parts):
        found = re.fullmatch(r"(\d*\.?\d+(?:e-?\d+)?)(?:\s*:\s*(\d*\.?\d+)(%)?)?", part, re.IGNORECASE)
        if found is None or (found[2] is None) != (number == len(parts) - 1):
            raise UserError("settings.step_rules", part=part)
        end = None if found[2] is None else -float(found[2]) / 100 if found[3] else float(found[2])
        rules.append((float(found[1]), end))
    return rules


def _readable_rules(text: str) -> str:
    read_rules(text)
    return text


class PiecewiseConstant(Settings):
    name: Literal["piecewise_constant"] = "piecewise_constant"
    step_rules: Annotated[str, AfterValidator(_readable_rules)] = Field("1:50%,0.3:80%,0.1", title="LR step rules")
    """Factors of the learning rate and until when each holds, in steps or percent of the run; the last holds to the end. 1:500,0.1 is the full rate for 500 steps, then a tenth."""


ScheduleSettings = Annotated[
    Constant
    | ConstantWithWarmup
    | Linear
    | Cosine
    | CosineWithMinLr
    | CosineWithRestarts
    | Polynomial
    | Rex
    | WarmupStableDecay
    | InverseSqrt
    | PiecewiseConstant
    | AdafactorSchedule,
    Field(discriminator="name", title="LR scheduler", json_schema_extra={"kohya": "lr_scheduler"}),
]
