"""From the processor's memory to the device's."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, without the processor waiting until the device has done what it was told before.

    A graphics card fetches by itself only from page-locked memory. PyTorch keeps what was once locked for the next
    such copy, and gives it out again only when the card has fetched it.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
