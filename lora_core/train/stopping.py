"""Text encoders that stop learning before the run ends, as a function of the step."""

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from lora_core.settings import TrainSettings

STOPPED = "stopped"
"""Key of an optimizer's group that learns no more; its rate counts as 0 whatever the schedule says."""


def text_encoders_stop_at(train: TrainSettings, total_steps: int) -> int | None:
    """The 0-based step from which text encoders are frozen; None if they learn to the end."""
    if train.stop_text_encoder_steps is not None:
        return train.stop_text_encoder_steps
    if train.stop_text_encoder_training is not None:
        return int(total_steps * train.stop_text_encoder_training / 100)
    return None


def is_text_encoder(group: Mapping[str, Any]) -> bool:
    return str(group["name"]).startswith("text_encoder")


def freeze_text_encoders(optimizer: Optimizer) -> None:
    """Their weights take no gradients from now on, and every optimizer passes over weights without gradients.

    The rate in the group stays, because some optimizers that find their own take the first group's for all.
    """
    for group in optimizer.param_groups:
        if is_text_encoder(group) and not group.get(STOPPED):
            group[STOPPED] = True
            for parameter in group["params"]:
                parameter.requires_grad_(False)
                parameter.grad = None
