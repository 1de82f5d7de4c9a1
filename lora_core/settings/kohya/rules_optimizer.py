"""Optimizer and schedule: names, arguments that are fields here, and defaults that differ."""

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from lora_core.errors import UserError
from lora_core.settings.fields import unions_of
from lora_core.settings.kohya.command import split
from lora_core.settings.kohya.draft import Draft
from lora_core.settings.kohya.rules import steps_per_epoch
from lora_core.settings.kohya.values import loosely

CLASSES: Mapping[str, str] = {
    "dadaptadagrad": "dadaptation.DAdaptAdaGrad",
    "dadaptadan": "dadaptation.DAdaptAdan",
    "dadaptadanip": "dadaptation.experimental.DAdaptAdanIP",
    "dadaptlion": "dadaptation.DAdaptLion",
    "dadaptsgd": "dadaptation.DAdaptSGD",
    "pagedadamw": "bitsandbytes.optim.PagedAdamW",
    "pagedadamw32bit": "bitsandbytes.optim.PagedAdamW32bit",
    "pagedlion8bit": "bitsandbytes.optim.PagedLion8bit",
    "radamschedulefree": "schedulefree.RAdamScheduleFree",
    "sgdschedulefree": "schedulefree.SGDScheduleFree",
    "sgdnesterov": "torch.optim.SGD",
    "sgdnesterov8bit": "bitsandbytes.optim.SGD8bit",
}
"""Short names of sd-scripts -> the class, for the optimizer "custom"."""

ALIASES: Mapping[str, str] = {"dadaptation": "DAdaptAdam", "dadaptadampreprint": "DAdaptAdam"}
"""D-Adaptation before its paper was final; what it became is here."""

DECAYS: Mapping[str, float] = {"AdamW": 0.01, "AdamW8bit": 0.01, "PagedAdamW8bit": 0.01}
"""Weight decay of the libraries that sd-scripts uses; 0 for all others."""

KOHYA_ARGS: Mapping[str, Mapping[str, Any]] = {
    "Adafactor": {"scale_parameter": True, "warmup_init": False},
    "Prodigy": {"use_bias_correction": False, "safeguard_warmup": False},
}
"""What sd-scripts passes where our optimizers have another default."""

FALLBACK = {"cosine_with_min_lr": "cosine", "warmup_stable_decay": "constant_with_warmup"}
"""Nearest schedule of those that are not here; constant for all others."""

ITS_OWN = ("weight_decay", "d_coef", "relative_step")
"""Arguments that are fields of ours."""


def implied(name: str, *, relative_step: bool) -> dict[str, Any]:
    """What our optimizer passes by itself (lora_core/train/optimizers.py) under the names in KOHYA_ARGS."""
    return dict.fromkeys(KOHYA_ARGS.get(name, ()), relative_step if name == "Adafactor" else True)


def optimizer(draft: Draft) -> None:
    """Optimizer and its arguments."""
    wanted = draft.text("optimizer")
    if draft.flag("use_8bit_adam"):
        wanted = "AdamW8bit" if "optimizer" not in draft.given else wanted
        draft.mapped("use_8bit_adam", "optimizer.name", wanted)
    if draft.flag("use_lion_optimizer"):
        wanted = wanted or "Lion"
        draft.mapped("use_lion_optimizer", "optimizer.name", wanted)
    draft.idle("use_8bit_adam")
    draft.idle("use_lion_optimizer")
    name = _optimizer_name(draft, wanted or "AdamW")
    arguments = dict(_arguments(draft))
    if wanted.lower().startswith("sgdnesterov"):
        arguments = {"momentum": "0.9", "nesterov": "True"} | arguments
    if name == "DAdaptAdam" and "decouple" in arguments:
        arguments["weight_decouple"] = arguments.pop("decouple")
    _set_arguments(draft, name, arguments)


def _optimizer_name(draft: Draft, wanted: str) -> str:
    """Our variant of an optimizer; sets it, as custom class where it has no variant."""
    known = {name.lower(): name for name in unions_of()["optimizer"] if name != "custom"}
    last = wanted.rpartition(".")[2].lower()
    if wanted.lower() in known or last in known:
        name = known.get(wanted.lower()) or known[last]
        draft.mapped("optimizer", "optimizer.name", name)
        return name
    if wanted.lower() in ALIASES:
        name = ALIASES[wanted.lower()]
        draft.differs("optimizer", "why.optimizer_alias", "optimizer.name", name, name=name)
        return name
    path = CLASSES.get(wanted.lower()) or (wanted if "." in wanted else f"torch.optim.{wanted}")
    draft.differs("optimizer", "why.optimizer_class", "optimizer.name", "custom", name=path)
    draft.changes["optimizer.class_path"] = path
    return "custom"


def _arguments(draft: Draft) -> Iterator[tuple[str, str]]:
    value = draft.value("optimizer_args")
    for part in value if isinstance(value, list) else _parts(draft.text("optimizer_args")):
        name, equals, text = loosely(part).strip().strip("\"'").partition("=")
        name, text = name.strip(), "".join(text.split())
        if equals and name.isidentifier() and text:
            yield name, text
        elif loosely(part).strip():
            draft.unsupported("optimizer_args", "why.bad_argument", argument=loosely(part))


def _parts(text: str) -> list[str]:
    try:
        return split(text)
    except UserError:  # a lone quotation mark
        return text.split()


def _set_arguments(draft: Draft, name: str, arguments: dict[str, str]) -> None:
    fields = unions_of()["optimizer"][name].model_fields
    decay = _literal(arguments.pop("weight_decay", DECAYS.get(name, 0.0)))
    draft.changes["optimizer.weight_decay"] = decay
    relative = name == "Adafactor" and bool(_literal(arguments.pop("relative_step", True)))
    if "relative_step" in fields:
        draft.changes["optimizer.relative_step"] = relative
    if "d_coef" in fields:
        draft.changes["optimizer.d_coef"] = _literal(arguments.pop("d_coef", 1.0))
    here = implied(name, relative_step=relative)
    for argument, theirs in KOHYA_ARGS.get(name, {}).items():
        if _literal(arguments.get(argument, theirs)) == here[argument]:
            arguments.pop(argument, None)
        else:
            arguments.setdefault(argument, str(theirs))
    text = " ".join(f"{key}={value}" for key, value in arguments.items())
    told = {"decay": decay} if decay != fields["weight_decay"].default else {}
    draft.mapped("optimizer_args", "optimizer.args", text, "why.decay" if told else "", **told)
    draft.changes["optimizer.args"] = text


def _literal(text: Any) -> Any:
    try:
        return ast.literal_eval(text) if isinstance(text, str) else text
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def schedule(draft: Draft) -> None:
    """Schedule and warm-up. Comes after the optimizer and the length."""
    known = unions_of()["schedule"]
    wanted = draft.text("lr_scheduler").lower() or "constant"
    finds_its_own = draft.changes.get("optimizer.relative_step") and draft.changes["optimizer.name"] == "Adafactor"
    if finds_its_own and wanted not in ("adafactor", "constant"):
        name = "adafactor"
        draft.differs("lr_scheduler", "why.adafactor_schedule", "schedule.name", name)
    elif wanted in known:
        name = wanted
        draft.mapped("lr_scheduler", "schedule.name", name)
    else:
        name = FALLBACK.get(wanted, "constant")
        draft.changes["schedule.name"] = name
        draft.unsupported("lr_scheduler", "why.no_schedule", name=name)
    has = known[name].model_fields
    _warmup(draft, name, "warmup" in has)
    for key, field in (("lr_scheduler_num_cycles", "num_cycles"), ("lr_scheduler_power", "power")):
        if field in has:
            value = draft.whole(key) if field == "num_cycles" else draft.number(key)
            draft.mapped(key, f"schedule.{field}", value or 1)
        else:
            draft.idle(key, "why.other_variant")


def _warmup(draft: Draft, name: str, possible: bool) -> None:
    steps, percent = draft.number("lr_warmup_steps") or 0.0, draft.number("lr_warmup") or 0.0
    own = "lr_warmup_steps" if steps or draft.dialect == "scripts" else "lr_warmup"
    other = "lr_warmup" if own == "lr_warmup_steps" else "lr_warmup_steps"
    if steps and 0 < steps < 1:  # sd-scripts takes less than 1 as a part of the run
        percent, steps = steps * 100, 0.0
    if not possible:
        if steps or percent:
            draft.differs(own, "why.constant_warmup", name=name)
    elif steps:
        _warmup_steps(draft, steps)
    else:
        draft.mapped(own, "schedule.warmup", round(percent, 6))
    draft.idle(own)
    draft.idle(other, "why.other_warmup" if steps else "why.off")


def _warmup_steps(draft: Draft, steps: float) -> None:
    """Warm-up is a part of the run here; the length of the run must be known to say how large a part."""
    per_epoch = steps_per_epoch(draft)
    total = draft.changes.get("train.max_train_steps") or (per_epoch or 0) * draft.changes["train.epochs"]
    if total:
        percent = min(100.0, round(100 * steps / total, 6))
        draft.differs("lr_warmup_steps", "why.warmup_steps", "schedule.warmup", percent, steps=total)
    else:
        draft.changes["schedule.warmup"] = 0.0
        draft.unsupported("lr_warmup_steps", "todo.warmup_steps")
