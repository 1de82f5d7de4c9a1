"""Optimizers: one variant each, with the defaults of its library. The order is the one on the page: the usual ones first."""

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


class _WithoutDecay(_Optimizer):
    weight_decay: float = Field(0.0, ge=0, le=10, title="Weight decay")
    """Pulls the LoRA weights towards zero at every step. 0.01 is usual; 0 turns it off."""


class _WithCoefficient(_Optimizer):
    d_coef: float = Field(1.0, gt=0, le=10, title="Prodigy: d coefficient")
    """Multiplies the learning rate that Prodigy finds. 0.5 is more careful, 2 bolder."""


class AdamW8bit(_Optimizer):
    name: Literal["AdamW8bit"] = "AdamW8bit"


class AdamW(_Optimizer):
    name: Literal["AdamW"] = "AdamW"


class Prodigy(_WithCoefficient):
    name: Literal["Prodigy"] = "Prodigy"


class Adafactor(_WithoutDecay):
    name: Literal["Adafactor"] = "Adafactor"
    relative_step: bool = Field(True, title="Adafactor: own learning rate")
    """Adafactor finds its own learning rate; the learning rates above are then not used. Needs the adafactor or constant schedule."""


class Lion(_Optimizer):
    name: Literal["Lion"] = "Lion"


class Lion8bit(_Optimizer):
    name: Literal["Lion8bit"] = "Lion8bit"


class CAME(_Optimizer):
    name: Literal["CAME"] = "CAME"


class Muon(_Optimizer):
    name: Literal["Muon"] = "Muon"


class AdEMAMix(_Optimizer):
    name: Literal["AdEMAMix"] = "AdEMAMix"


class AdEMAMix8bit(_Optimizer):
    name: Literal["AdEMAMix8bit"] = "AdEMAMix8bit"


class PagedAdEMAMix8bit(_Optimizer):
    name: Literal["PagedAdEMAMix8bit"] = "PagedAdEMAMix8bit"


class PagedAdamW(_Optimizer):
    name: Literal["PagedAdamW"] = "PagedAdamW"


class PagedAdamW8bit(_Optimizer):
    name: Literal["PagedAdamW8bit"] = "PagedAdamW8bit"


class PagedAdamW32bit(_Optimizer):
    name: Literal["PagedAdamW32bit"] = "PagedAdamW32bit"


class PagedLion8bit(_Optimizer):
    name: Literal["PagedLion8bit"] = "PagedLion8bit"


class ProdigyPlusScheduleFree(_WithoutDecay, _WithCoefficient):
    name: Literal["ProdigyPlusScheduleFree"] = "ProdigyPlusScheduleFree"


class AdamWScheduleFree(_Optimizer):
    name: Literal["AdamWScheduleFree"] = "AdamWScheduleFree"


class RAdamScheduleFree(_Optimizer):
    name: Literal["RAdamScheduleFree"] = "RAdamScheduleFree"


class SGDScheduleFree(_WithoutDecay):
    name: Literal["SGDScheduleFree"] = "SGDScheduleFree"


class DAdaptAdam(_Optimizer):
    name: Literal["DAdaptAdam"] = "DAdaptAdam"


class DAdaptAdaGrad(_WithoutDecay):
    name: Literal["DAdaptAdaGrad"] = "DAdaptAdaGrad"


class DAdaptAdan(_WithoutDecay):
    name: Literal["DAdaptAdan"] = "DAdaptAdan"


class DAdaptAdanIP(_WithoutDecay):
    name: Literal["DAdaptAdanIP"] = "DAdaptAdanIP"


class DAdaptAdamPreprint(_Optimizer):
    name: Literal["DAdaptAdamPreprint"] = "DAdaptAdamPreprint"


class DAdaptLion(_WithoutDecay):
    name: Literal["DAdaptLion"] = "DAdaptLion"


class DAdaptSGD(_WithoutDecay):
    name: Literal["DAdaptSGD"] = "DAdaptSGD"


class SGDNesterov(_WithoutDecay):
    name: Literal["SGDNesterov"] = "SGDNesterov"


class SGDNesterov8bit(_WithoutDecay):
    name: Literal["SGDNesterov8bit"] = "SGDNesterov8bit"


class CustomOptimizer(_Optimizer):
    name: Literal["custom"] = "custom"
    class_path: str = Field("", title="Optimizer class", max_length=300)
    """Any installed torch optimizer by its dotted name, for example pytorch_optimizer.ADOPT. Weight decay is passed as weight_decay."""


OptimizerSettings = Annotated[
    AdamW8bit
    | AdamW
    | Prodigy
    | Adafactor
    | Lion
    | Lion8bit
    | CAME
    | Muon
    | AdEMAMix
    | AdEMAMix8bit
    | PagedAdEMAMix8bit
    | PagedAdamW
    | PagedAdamW8bit
    | PagedAdamW32bit
    | PagedLion8bit
    | ProdigyPlusScheduleFree
    | AdamWScheduleFree
    | RAdamScheduleFree
    | SGDScheduleFree
    | DAdaptAdam
    | DAdaptAdaGrad
    | DAdaptAdan
    | DAdaptAdanIP
    | DAdaptAdamPreprint
    | DAdaptLion
    | DAdaptSGD
    | SGDNesterov
    | SGDNesterov8bit
    | CustomOptimizer,
    Field(discriminator="name", title="Optimizer", json_schema_extra={"kohya": "optimizer"}),
]
FINDS_ITS_OWN_RATE = frozenset(
    {
        "Prodigy",
        "ProdigyPlusScheduleFree",
        "DAdaptAdam",
        "DAdaptAdaGrad",
        "DAdaptAdan",
        "DAdaptAdanIP",
        "DAdaptAdamPreprint",
        "DAdaptLion",
        "DAdaptSGD",
    }
)
"""Optimizers whose learning rate is a multiplier, 1.0 in normal use."""
ONE_RATE_FOR_ALL = FINDS_ITS_OWN_RATE - {"ProdigyPlusScheduleFree"}
"""Those of them that find one rate for the whole LoRA, so that its parts can't have different ones."""
SCHEDULE_FREE = frozenset({"AdamWScheduleFree", "RAdamScheduleFree", "SGDScheduleFree", "ProdigyPlusScheduleFree"})
"""Optimizers that average the weights in place of a falling learning rate."""
