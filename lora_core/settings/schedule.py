"""Learning rate schedules: one variant each."""

from typing import Annotated, Literal

from pydantic import Field

from lora_core.settings.base import Settings


class Constant(Settings):
    name: Literal["constant"] = "constant"


class AdafactorSchedule(Settings):
    name: Literal["adafactor"] = "adafactor"


class _WithWarmup(Settings):
    warmup: float = Field(10.0, ge=0, le=100, title="LR warmup (% of steps)", json_schema_extra={"kohya": "lr_warmup"})
    """Part of the run in which the learning rate rises from 0, in percent of all steps."""


class ConstantWithWarmup(_WithWarmup):
    name: Literal["constant_with_warmup"] = "constant_with_warmup"


class Linear(_WithWarmup):
    name: Literal["linear"] = "linear"


class Cosine(_WithWarmup):
    name: Literal["cosine"] = "cosine"


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


ScheduleSettings = Annotated[
    Constant | ConstantWithWarmup | Linear | Cosine | CosineWithRestarts | Polynomial | AdafactorSchedule,
    Field(discriminator="name", title="LR scheduler", json_schema_extra={"kohya": "lr_scheduler"}),
]
