"""Optimizers by the names the settings have for them."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

from lora_core.errors import UserError
from lora_core.settings import OptimizerSettings, parse_args
from lora_core.train.optimizer_table import ALWAYS, CLASSES, WARMS_UP_ITSELF

ParamGroups = Sequence[dict[str, Any]]


def create_optimizer(settings: OptimizerSettings, groups: ParamGroups, *, warmup_steps: int = 0) -> Optimizer:
    """The optimizer over ``groups`` (dicts with ``params``, ``lr`` and ``name``).

    ``warmup_steps`` is for optimizers that warm up by themselves (schedule-free). Raises UserError if the class is not
    installed or refuses its arguments.
    """
    path = settings.class_path if settings.name == "custom" else CLASSES[settings.name]
    factory = find_class(path)
    arguments = _arguments(settings, groups, warmup_steps) | parse_args(settings.args)
    if settings.name == "Adafactor" and settings.relative_step:
        groups = [{k: v for k, v in group.items() if k != "lr"} for group in groups]
    if settings.name == "Muon":
        groups = list(muon_groups(groups, settings.weight_decay))
    try:
        optimizer = factory(list(groups), **arguments)
    except (TypeError, ValueError) as error:
        raise UserError("train.optimizer_refused", name=settings.name, error=str(error)) from error
    if has_averaged_weights(optimizer):
        optimizer.train()
    return optimizer


def has_averaged_weights(optimizer: Optimizer) -> bool:
    """Whether it is schedule-free: trains one set of weights and gives out another."""
    return hasattr(optimizer, "eval") and any("train_mode" in group for group in optimizer.param_groups)


def muon_groups(groups: ParamGroups, weight_decay: float) -> Iterator[dict[str, Any]]:
    """Each group in two of the same name: matrices for Muon, all else for the AdamW inside it.

    A convolution counts as the matrix (outputs, inputs x height x width). One row or one column has no directions to
    make orthogonal: lengths of DoRA and LoRAs of rank 1 go to AdamW.
    """
    for group in groups:
        split: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
        for parameter in group["params"]:
            split[_is_matrix(parameter)].append(parameter)
        for is_matrix, parameters in split.items():
            if parameters:
                yield {**group, "params": parameters, "use_muon": is_matrix, "weight_decay": weight_decay}


def _is_matrix(parameter: torch.Tensor) -> bool:
    return parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) > 1


def _arguments(settings: OptimizerSettings, groups: ParamGroups, warmup_steps: int) -> dict[str, Any]:
    """Constructor arguments beside the parameter groups."""
    arguments: dict[str, Any] = {"weight_decay": settings.weight_decay, **ALWAYS.get(settings.name, {})}
    match settings.name:
        case "Adafactor":
            arguments |= {"lr": None, "relative_step": settings.relative_step, "warmup_init": settings.relative_step}
            arguments |= {"scale_parameter": settings.relative_step}
        case "Prodigy":
            arguments |= {"d_coef": settings.d_coef}
        case "ProdigyPlusScheduleFree":
            arguments |= {"d_coef": settings.d_coef, "split_groups": len(groups) > 1}
    if settings.name in WARMS_UP_ITSELF:
        arguments |= {"warmup_steps": warmup_steps}
    return arguments


def find_class(path: str) -> Callable[..., Optimizer]:
    """The optimizer class of a dotted name. Raises UserError if it can't be imported or is no optimizer."""
    module_name, _, class_name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError, OSError) as error:
        raise UserError("train.optimizer_missing", name=path, error=str(error)) from error
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        raise UserError("train.optimizer_no_class", name=path)
    return found


def current_rates(optimizer: Optimizer) -> dict[str, float]:
    """The learning rate in force, per group, with what the optimizer itself found (Prodigy's d, Adafactor's own).

    0 for a group that takes no gradients any more.
    """
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper passes on only what it knows
    return {group["name"]: _rate(inner, group) for group in inner.param_groups if group.get("charted", True)}


def _rate(optimizer: Optimizer, group: dict[str, Any]) -> float:
    if not any(parameter.requires_grad for parameter in group["params"]):
        return 0.0
    if group.get("relative_step"):
        state = optimizer.state.get(group["params"][0])
        return float(optimizer._get_lr(group, state)) if state else 0.0
    # Schedule-free keeps the warmed-up rate apart from the one asked for.
    return float(group.get("scheduled_lr", group["lr"])) * float(group.get("d", 1.0))


@contextmanager
def averaged_weights(optimizer: Optimizer) -> Iterator[None]:
    """Inside, a schedule-free optimizer's parameters are its averaged weights, the ones to save and draw with.

    Afterwards they are bit for bit what they were: switching back by arithmetic would leave rounding behind, and a run
    that was saved on the way would end differently from one that was not.
    """
    if not has_averaged_weights(optimizer):
        yield
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = [parameter.data for parameter in parameters]
    for parameter in parameters:
        # The optimizer's own numbers are float32, even beside weights in bf16.
        parameter.data = parameter.data.to(torch.float32, copy=True)
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        for parameter, before in zip(parameters, kept, strict=True):
            parameter.data = before
