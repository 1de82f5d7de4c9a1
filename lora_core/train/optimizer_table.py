"""Which class of which library each optimizer of the settings is, and what it is always given. Torch-free."""

from collections.abc import Mapping
from typing import Any

CLASSES: Mapping[str, str] = {
    "AdamW8bit": "bitsandbytes.optim.AdamW8bit",
    "AdamW": "torch.optim.AdamW",
    "Prodigy": "prodigyopt.Prodigy",
    "Adafactor": "transformers.optimization.Adafactor",
    "Lion": "pytorch_optimizer.Lion",
    "Lion8bit": "bitsandbytes.optim.Lion8bit",
    "CAME": "pytorch_optimizer.CAME",
    "Muon": "pytorch_optimizer.Muon",
    "AdEMAMix": "pytorch_optimizer.AdEMAMix",
    "AdEMAMix8bit": "bitsandbytes.optim.AdEMAMix8bit",
    "PagedAdEMAMix8bit": "bitsandbytes.optim.PagedAdEMAMix8bit",
    "PagedAdamW": "bitsandbytes.optim.PagedAdamW",
    "PagedAdamW8bit": "bitsandbytes.optim.PagedAdamW8bit",
    "PagedAdamW32bit": "bitsandbytes.optim.PagedAdamW32bit",
    "PagedLion8bit": "bitsandbytes.optim.PagedLion8bit",
    "ProdigyPlusScheduleFree": "prodigyplus.ProdigyPlusScheduleFree",
    "AdamWScheduleFree": "schedulefree.AdamWScheduleFree",
    "RAdamScheduleFree": "schedulefree.RAdamScheduleFree",
    "SGDScheduleFree": "schedulefree.SGDScheduleFree",
    # The authors' own: in pytorch_optimizer 4.1 the first group's rate counts for all, and Adan squares twice.
    "DAdaptAdam": "dadaptation.DAdaptAdam",
    "DAdaptAdaGrad": "dadaptation.DAdaptAdaGrad",
    "DAdaptAdan": "dadaptation.DAdaptAdan",
    "DAdaptAdanIP": "dadaptation.experimental.DAdaptAdanIP",
    "DAdaptAdamPreprint": "dadaptation.experimental.DAdaptAdamPreprint",
    "DAdaptLion": "dadaptation.DAdaptLion",
    "DAdaptSGD": "dadaptation.DAdaptSGD",
    "SGDNesterov": "torch.optim.SGD",
    "SGDNesterov8bit": "bitsandbytes.optim.SGD8bit",
}

_DECOUPLED = {"weight_decouple": True}
"""Weight decay beside the gradient, as AdamW has it, not through the gradient's averages."""
_NESTEROV = {"momentum": 0.9, "nesterov": True}
"""As sd-scripts passes them."""

ALWAYS: Mapping[str, Mapping[str, Any]] = {
    "AdamW": {"fused": True},  # one kernel for all parameters instead of one launch each
    "Prodigy": {"use_bias_correction": True, "safeguard_warmup": True},
    "Lion": _DECOUPLED,
    "CAME": _DECOUPLED,
    # Moonlight's factor 0.2 sqrt(max(rows, columns)): updates as large as AdamW's, and so AdamW's learning rates.
    "Muon": _DECOUPLED | {"use_adjusted_lr": True},
    "AdEMAMix": _DECOUPLED,
    "DAdaptAdam": {"decouple": True},
    "DAdaptAdamPreprint": {"decouple": True},
    "SGDNesterov": _NESTEROV,
    "SGDNesterov8bit": _NESTEROV | {"lr": 1e-3},  # each group has its own; the class wants one all the same
}
"""Arguments that differ from the library's defaults; what the person writes under extra arguments goes before them."""


WARMS_UP_ITSELF = frozenset({"AdamWScheduleFree", "SGDScheduleFree"})
"""Given the warm-up's steps, they raise the rate themselves: their averages must know of it."""


def package_of(name: str) -> str | None:
    """The package an optimizer comes from, if it is not one that nothing here works without."""
    package = CLASSES.get(name, "").partition(".")[0]
    return package if package and package not in ("torch", "transformers") else None
