"""Optimizers: one variant each, with the defaults of its library."""

import ast
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from lora_core.errors import UserError
from lora_core.settings.base import Settings


def parse_args(text: str) -> dict[str, Any]:
    """``key=value`` pairs separated by spaces or line ends, values as Python literals, else text.

    >>> parse_args("betas=(0.9,0.99) d_coef=2 mode=fast")
    {'betas': (0.9, 0.99), 'd_coef': 2, 'mode': 'fast'}
    """
    args: dict[str, Any] = {}
    for pair in text.split():
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier() or not value:
            raise UserError("settings.optimizer_args", pair=pair)
        try:
            args[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            args[name] = value
    return args


def _readable_args(text: str) -> str:
    parse_args(text)
    return text


Args = Annotated[str, AfterValidator(_readable_args)]


class _Optimizer(Settings):
    weight_decay: float = Field(0.01, ge=0, le=10, title="Weight decay")
    """Pulls the LoRA weights towards zero at every step. 0.01 is usual; 0 turns it off."""
    args: Args = Field("", title="Optimizer extra arguments", json_schema_extra={"kohya": "optimizer_args"})
    """More arguments of the optimizer as key=value, separated by spaces, for example betas=(0.9,0.99)."""


class AdamW(_Optimizer):
    name: Literal["AdamW"] = "AdamW"


class AdamW8bit(_Optimizer):
    name: Literal["AdamW8bit"] = "AdamW8bit"


class PagedAdamW8bit(_Optimizer):
    name: Literal["PagedAdamW8bit"] = "PagedAdamW8bit"


class Lion(_Optimizer):
    name: Literal["Lion"] = "Lion"


class Lion8bit(_Optimizer):
    name: Literal["Lion8bit"] = "Lion8bit"


class Adafactor(_Optimizer):
    name: Literal["Adafactor"] = "Adafactor"
    weight_decay: float = Field(0.0, ge=0, le=10, title="Weight decay")
    """Pulls the LoRA weights towards zero at every step. 0.01 is usual; 0 turns it off."""
    relative_step: bool = Field(True, title="Adafactor: own learning rate")
    """Adafactor finds its own learning rate; the learning rates above are then not used. Needs the adafactor or constant schedule."""


class DAdaptAdam(_Optimizer):
    name: Literal["DAdaptAdam"] = "DAdaptAdam"


class Prodigy(_Optimizer):
    name: Literal["Prodigy"] = "Prodigy"
    d_coef: float = Field(1.0, gt=0, le=10, title="Prodigy: d coefficient")
    """Multiplies the learning rate that Prodigy finds. 0.5 is more careful, 2 bolder."""


class AdamWScheduleFree(_Optimizer):
    name: Literal["AdamWScheduleFree"] = "AdamWScheduleFree"


class CustomOptimizer(_Optimizer):
    name: Literal["custom"] = "custom"
    class_path: str = Field("", title="Optimizer class", max_length=300)
    """Any installed torch optimizer by its dotted name, for example pytorch_optimizer.CAME. Weight decay is passed as weight_decay."""


OptimizerSettings = Annotated[
    AdamW
    | AdamW8bit
    | PagedAdamW8bit
    | Lion
    | Lion8bit
    | Adafactor
    | DAdaptAdam
    | Prodigy
    | AdamWScheduleFree
    | CustomOptimizer,
    Field(discriminator="name", title="Optimizer", json_schema_extra={"kohya": "optimizer"}),
]
FINDS_ITS_OWN_RATE = frozenset({"DAdaptAdam", "Prodigy"})
"""Optimizers whose learning rate is a multiplier, 1.0 in normal use."""
