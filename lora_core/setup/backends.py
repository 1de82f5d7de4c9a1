"""Which build of PyTorch fits this machine, and where it is downloaded from.

PyTorch 2.13 is built for CUDA 12.6, 13.0 and 13.2, ROCm 7.2, Intel XPU and CPU (its RELEASE.md has the table). The
default package index has the CUDA 13.0 build for Linux on x86_64, and on Windows only the CPU build.
"""

import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lora_core.errors import UserError
from lora_core.setup.hardware import Hardware, Nvidia

TORCH = "2.13.0"
PYTORCH_INDEX = "https://download.pytorch.org/whl"


@dataclass(frozen=True)
class Backend:
    title: str
    folder: str | None
    """Below the PyTorch index, and the version's local part (``2.13.0+cu130``); None: the default index has it."""
    gigabytes: int
    """Free disk space a first installation needs: downloads, unpacked packages and some room."""
    systems: tuple[str, ...]

    @property
    def index(self) -> str | None:
        return f"{PYTORCH_INDEX}/{self.folder}" if self.folder else None

    @property
    def requirement(self) -> str:
        return f"torch=={TORCH}+{self.folder}" if self.folder else f"torch=={TORCH}"


BACKENDS: dict[str, Backend] = {
    "cu132": Backend("NVIDIA, CUDA 13.2", "cu132", 12, ("Linux", "Windows")),
    "cu130": Backend("NVIDIA, CUDA 13.0", "cu130", 12, ("Linux", "Windows")),
    "cu126": Backend("NVIDIA, CUDA 12.6", "cu126", 12, ("Linux", "Windows")),
    "rocm": Backend("AMD, ROCm 7.2", "rocm7.2", 20, ("Linux",)),
    "xpu": Backend("Intel Arc, XPU", "xpu", 12, ("Linux", "Windows")),
    "mps": Backend("Apple, Metal", None, 6, ("Darwin",)),
    "cpu": Backend("CPU", "cpu", 6, ("Linux", "Windows")),
}
CHOICES = ("auto", "cuda", *BACKENDS)

_CUDA_13_DRIVER = 580
_CUDA_12_DRIVER = 525
_TURING = (7, 5)
"""CUDA 13 builds start here; Maxwell, Pascal and Volta cards need the CUDA 12.6 build."""
_BLACKWELL = (10, 0)
"""The CUDA 12.6 build has no code for these and newer cards."""


@dataclass(frozen=True)
class Choice:
    name: str
    """Of BACKENDS."""
    notes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Sentences the person should read, as key and values."""

    @property
    def backend(self) -> Backend:
        return BACKENDS[self.name]


def choose(hardware: Hardware, wanted: str = "auto") -> Choice:
    """The build for this machine, or the wanted one.

    Raises UserError for a build that does not exist for this system, and for macOS on Intel, which PyTorch left.
    """
    if hardware.system == "Darwin" and hardware.machine != "arm64":
        raise UserError("setup.intel_mac")
    if wanted == "cpu" and hardware.system == "Darwin":
        return Choice("mps")  # one build serves both there
    if wanted == "cuda":
        if hardware.nvidia is None:
            raise UserError("setup.no_nvidia")
        return _nvidia(hardware.nvidia)
    if wanted != "auto":
        if hardware.system not in BACKENDS[wanted].systems:
            fitting = ", ".join(name for name, backend in BACKENDS.items() if hardware.system in backend.systems)
            raise UserError("setup.wrong_system", backend=wanted, system=hardware.system, choices=fitting)
        return Choice(wanted)
    if hardware.system == "Darwin":
        return Choice("mps")
    if hardware.nvidia:
        return _nvidia(hardware.nvidia)
    if hardware.amd:
        return Choice("rocm") if hardware.system == "Linux" else Choice("cpu", [("setup.amd_windows", {})])
    return Choice("xpu" if hardware.intel else "cpu")


def _nvidia(cards: Nvidia) -> Choice:
    oldest, newest, driver = cards.oldest_capability, cards.newest_capability, cards.driver[0]
    facts = {"name": ", ".join(dict.fromkeys(cards.names)), "driver": cards.driver_text}
    if driver < _CUDA_12_DRIVER:
        return Choice("cpu", [("setup.driver_too_old", facts | {"needed": _CUDA_12_DRIVER})])
    if newest and newest >= _BLACKWELL and driver < _CUDA_13_DRIVER:
        return Choice("cpu", [("setup.driver_too_old", facts | {"needed": _CUDA_13_DRIVER})])
    if driver < _CUDA_13_DRIVER or (oldest and oldest < _TURING and not (newest and newest >= _BLACKWELL)):
        return Choice("cu126")
    return Choice("cu130")


def default_index_has(backend: str, hardware: Hardware) -> bool:
    """Whether the default package index holds this very build, so that an unreachable PyTorch index costs nothing."""
    linux_x86 = hardware.system == "Linux" and hardware.machine in ("x86_64", "AMD64")
    return (
        (backend == "mps") or (backend == "cpu" and hardware.system == "Windows") or (backend == "cu130" and linux_x86)
    )


def reachable(backend: Backend, seconds: float = 4, open_url: Callable = urllib.request.urlopen) -> bool:
    """Whether the PyTorch index answers and has this build. Honours the proxy settings of the environment."""
    try:
        with open_url(f"{backend.index}/torch/", timeout=seconds) as page:
            listed = page.read(5_000_000).decode("utf-8", errors="replace")
    except (OSError, urllib.error.URLError, ValueError):
        return False
    return f"{TORCH}%2B{backend.folder}" in listed or f"{TORCH}+{backend.folder}" in listed
