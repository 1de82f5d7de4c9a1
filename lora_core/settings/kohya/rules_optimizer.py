"""Optimizer and schedule: names, arguments that are fields here, and defaults that differ."""

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from lora_core.errors import UserError
from lora_core.settings.fields import unions_of
from lora_core.settings.kohya.command import split
from lora_core.settings.kohya.draft import Draft
from lora_core.settings.kohya.values import loosely

SHORT_NAMES = frozenset(
    {
        "AdamW",
        "AdamW8bit",
        "PagedAdamW",
        "PagedAdamW8bit",
        "PagedAdamW32bit",
        "Lion",
        "Lion8bit",
        "PagedLion8bit",
        "SGDNesterov",
        "SGDNesterov8bit",
        "DAdaptAdam",
        "DAdaptAdaGrad",
        "DAdaptAdan",
        "DAdaptAdanIP",
        "DAdaptAdamPreprint",
        "DAdaptLion",
        "DAdaptSGD",
        "Prodigy",
        "Adafactor",
        "AdamWScheduleFree",
        "RAdamScheduleFree",
        "SGDScheduleFree",
    }
)
"""Optimizers that sd-scripts knows by a short name; all others go by their class."""

ALIASES: Mapping[str, str] = {"dadaptation": "DAdaptAdam"}
"""D-Adaptation before it had variants."""

DECAYS: Mapping[str, float] = dict.fromkeys(
    ("AdamW", "AdamW8bit", "PagedAdamW", "PagedAdamW8bit", "PagedAdamW32bit", "AdEMAMix8bit", "PagedAdEMAMix8bit"), 0.01
)
"""Weight decay of the libraries that sd-scripts uses; 0 for all others."""

KOHYA_ARGS: Mapping[str, Mapping[str, Any]] = {
    "Adafactor": {"scale_parameter": True, "warmup_init": False},
    "Prodigy": {"use_bias_correction": False, "safeguard_warmup": False},
    "DAdaptAdam": {"decouple": False},
    "DAdaptAdamPreprint": {"decouple": False},
    "Muon": {"use_adjusted_lr": False},
    "AdEMAMix": {"weight_decouple": False},
}
"""What sd-scripts passes where our optimizers have another default."""

_OF_BITSANDBYTES = {"AdEMAMix": {"weight_decouple": "True", "weight_decay": "0.01"}}
"""What a class of bitsandbytes does by itself and the one here is told."""

TYPES: Mapping[str, str] = {
    "cosineannealinglr": "cosine",
    "cosineannealingwarmrestarts": "cosine_with_restarts",
    "rexscheduler": "rex",
    "rexlr": "rex",
    "rex": "rex",
}
"""Classes that people give as lr_scheduler_type -> the schedule of that shape."""

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
    if wanted.lower().startswith("bitsandbytes"):
        arguments = _OF_BITSANDBYTES.get(name, {}) | arguments
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
    path = wanted if "." in wanted else f"torch.optim.{wanted}"
    draft.differs("optimizer", "why.optimizer_class", "optimizer.name", "custom", name=path)
    draft.changes["optimizer.class_path"] = path
    return "custom"


def _arguments(draft: Draft) -> Iterator[tuple[str, str]]:
    yield from _pairs(draft, "optimizer_args")


def _pairs(draft: Draft, key: str) -> Iterator[tuple[str, str]]:
    """key=value as sd-scripts reads them: a list, or words separated by spaces."""
    value = draft.value(key)
    for part in value if isinstance(value, list) else _parts(draft.text(key)):
        name, equals, text = loosely(part).strip().strip("\"'").partition("=")
        name, text = name.strip(), "".join(text.split())
        if equals and name.isidentifier() and text:
            yield name, text
        elif loosely(part).strip():
            draft.unsupported(key, "why.bad_argument", argument=loosely(part))


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
    last = draft.text("lr_scheduler_type").rpartition(".")[2].lower()
    if last in TYPES:
        wanted = TYPES[last]
        draft.differs("lr_scheduler_type", "why.schedule_type", "schedule.name", wanted, name=wanted)
    finds_its_own = draft.changes.get("optimizer.relative_step") and draft.changes["optimizer.name"] == "Adafactor"
    if finds_its_own and wanted not in ("adafactor", "constant"):
        name = "adafactor"
        draft.differs("lr_scheduler", "why.adafactor_schedule", "schedule.name", name)
    elif wanted in known:
        name = wanted
        draft.mapped("lr_scheduler", "schedule.name", name)
    else:
        name = "constant"
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
    if "min_lr_ratio" in has:
        ratio = draft.number("lr_scheduler_min_lr_ratio")
        default = has["min_lr_ratio"].default
        draft.mapped("lr_scheduler_min_lr_ratio", "schedule.min_lr_ratio", default if ratio is None else ratio)
    _schedule_arguments(draft, name)
    _decay(draft, "decay" in has)


def _schedule_arguments(draft: Draft, name: str) -> None:
    """lr_scheduler_args: the steps of piecewise_constant, the floor of cosine_with_min_lr."""
    for argument, text in _pairs(draft, "lr_scheduler_args"):
        if (name, argument) == ("piecewise_constant", "step_rules"):
            draft.mapped("lr_scheduler_args", "schedule.step_rules", text)
        elif (name, argument) == ("cosine_with_min_lr", "min_lr_rate"):
            draft.mapped("lr_scheduler_args", "schedule.min_lr_ratio", _literal(text))
        else:
            draft.unsupported("lr_scheduler_args", "todo.schedule")


def _decay(draft: Draft, possible: bool) -> None:
    """lr_decay_steps: less than 1 is a part of the run."""
    steps = draft.number("lr_decay_steps") or 0.0
    if possible and 0 < steps < 1:
        draft.mapped("lr_decay_steps", "schedule.decay", round(steps * 100, 6))
    elif possible:
        draft.mapped("lr_decay_steps", "schedule.decay_steps", int(steps))
    else:
        draft.idle("lr_decay_steps", "why.other_variant" if steps else "why.off")


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
        draft.mapped("lr_warmup_steps", "schedule.warmup_steps", int(steps))
    else:
        draft.mapped(own, "schedule.warmup", round(percent, 6))
    draft.idle(own)
    draft.idle(other, "why.other_warmup" if steps else "why.off")


def text_encoder(draft: Draft) -> None:
    """When it stops, and whether its outputs wait on the disk."""
    percent = draft.number("stop_text_encoder_training") or 0.0
    if percent > 0:
        path = "train.stop_text_encoder_training"
        draft.differs("stop_text_encoder_training", "why.stop_text_encoder", path, percent)
    draft.idle("stop_text_encoder_training")
    for family in ("", "flux1_", "sdxl_"):
        key = f"{family}cache_text_encoder_outputs"
        for name, place in ((f"{key}_to_disk", "disk"), (key, "memory")):
            if name in draft.given and draft.flag(name):
                place = draft.changes.get("train.cache_text_encoder_outputs", place)
                draft.mapped(name, "train.cache_text_encoder_outputs", place)


def base_precision(draft: Draft) -> None:
    """fp8_base casts the frozen model to fp8; 8-bit integers with factors take the same memory and are more exact."""
    for key in ("fp8_base", "fp8_base_unet"):
        if draft.flag(key):
            draft.differs(key, "why.fp8_base", "train.base_precision", "int8")
        draft.idle(key)


def adapter_precision(draft: Draft) -> None:
    if draft.flag("full_bf16"):
        draft.mapped("full_bf16", "train.adapter_precision", "bf16", "why.full_bf16")
    draft.idle("full_bf16")
