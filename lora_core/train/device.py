"""Which device a run computes on and in which number format."""

from typing import Literal

import torch

from lora_core.errors import UserError
from lora_core.settings import TrainSettings

Precision = Literal["no", "fp16", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(train: TrainSettings) -> torch.device:
    """The device of the settings; auto takes the first that is there. Raises UserError if the one named is not."""
    available = {"cuda": torch.cuda.is_available, "xpu": torch.xpu.is_available, "mps": torch.backends.mps.is_available}
    if train.device == "auto":
        return torch.device(next((name for name, there in available.items() if there()), "cpu"))
    if train.device != "cpu" and not available[train.device]():
        raise UserError("train.no_device", device=train.device)
    return torch.device(train.device)


def choose_precision(train: TrainSettings, device: torch.device) -> Precision:
    """The precision of the settings; auto takes the fastest one the device is good at."""
    if train.mixed_precision == "fp16" and device.type == "cpu":
        raise UserError("train.fp16_on_cpu")
    if train.mixed_precision != "auto":
        return train.mixed_precision
    match device.type:
        case "cuda":
            return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
        case "xpu":
            return "bf16"
        case "cpu":
            return "bf16" if cpu_has_fast_bf16() else "no"
    return "no"


def cpu_has_fast_bf16() -> bool:
    """Whether the processor multiplies bf16 matrices in hardware; without, bf16 is slower than float32."""
    cpu = torch.cpu
    return bool(cpu._is_amx_tile_supported() or cpu._is_avx512_bf16_supported())


def describe(device: torch.device) -> str:
    """The card's name, or the processor."""
    match device.type:
        case "cuda":
            return torch.cuda.get_device_name(device)
        case "xpu":
            return torch.xpu.get_device_name(device)
        case "mps":
            return "Apple GPU"
    return f"CPU ({torch.get_num_threads()} threads)"
