"""What torch sees of this machine, printed as JSON. Run as a program, so that who asks need not import torch."""

import json
from typing import Any

import torch


def devices() -> list[dict[str, Any]]:
    """Every accelerator: kind, name, memory in bytes, whether bf16 and this build work on it."""
    found = []
    for index in range(torch.cuda.device_count()):
        kind = "rocm" if torch.version.hip else "cuda"
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        with torch.cuda.device(index):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        found.append(
            {
                "kind": kind,
                "name": properties.name,
                "free": free,
                "total": total,
                "bf16": bf16,
                "works": _works(f"cuda:{index}"),
            }
        )
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        for index in range(torch.xpu.device_count()):
            total = torch.xpu.get_device_properties(index).total_memory
            free = total - torch.xpu.memory_allocated(index)
            name = torch.xpu.get_device_name(index)
            works = _works(f"xpu:{index}")
            found.append({"kind": "xpu", "name": name, "free": free, "total": total, "bf16": True, "works": works})
    if torch.backends.mps.is_available():
        total = torch.mps.recommended_max_memory()
        free = total - torch.mps.driver_allocated_memory()
        works = _works("mps")
        found.append({"kind": "mps", "name": "Apple GPU", "free": free, "total": total, "bf16": works, "works": works})
    return found


def _works(device: str) -> bool:
    """Whether a sum comes out right: False when the build has no code for the card."""
    try:
        return float(torch.ones(8, device=device).sum()) == 8
    except RuntimeError:
        return False


def bitsandbytes() -> dict[str, str]:
    """Its version, or why it does not load."""
    try:
        import bitsandbytes
    except Exception as error:  # its native library may fail in any way
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {"version": bitsandbytes.__version__}


def probe() -> dict[str, Any]:
    cpu_features = torch.backends.cpu.get_cpu_capability()
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "devices": devices(),
        "cpu": cpu_features,
        "cpu_bf16": cpu_features == "AMX" or _has_avx512_bf16(),
        "threads": torch.get_num_threads(),
        "bitsandbytes": bitsandbytes(),
    }


def _has_avx512_bf16() -> bool:
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check and check())


if __name__ == "__main__":
    print(json.dumps(probe()))
