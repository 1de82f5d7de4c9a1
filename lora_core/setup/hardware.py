"""What this machine can compute with, found without any package installed."""

import csv
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Ask = Callable[[Sequence[str]], str | None]
"""Runs a command and returns what it printed; None when it is not there or fails."""

_NVIDIA_SMI = ("nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi", r"C:\Windows\System32\nvidia-smi.exe")
# PCI device ids (first byte) of Arc cards: A series 0x56.., B series 0xe2.. Integrated graphics are not picked on
# their own, because most of them are too old for PyTorch.
_ARC = re.compile(r"0x(56|e2)[0-9a-f]{2}", re.IGNORECASE)


@dataclass(frozen=True)
class Nvidia:
    names: tuple[str, ...]
    driver: tuple[int, ...]
    oldest_capability: tuple[int, int] | None = None
    """Compute capability of the oldest card, (8, 6) for an RTX 3060; None when the driver is too old to say."""
    newest_capability: tuple[int, int] | None = None

    @property
    def driver_text(self) -> str:
        return ".".join(map(str, self.driver))


@dataclass(frozen=True)
class Hardware:
    system: str
    """As ``platform.system()``: Linux, Darwin or Windows."""
    machine: str = "x86_64"
    nvidia: Nvidia | None = None
    amd: bool = False
    intel: bool = False


def detect() -> Hardware:
    """Look at this machine. Takes a second or so; nothing is downloaded."""
    system = platform.system()
    adapters = _windows_adapters(ask) if system == "Windows" else ""
    return Hardware(
        system,
        platform.machine(),
        nvidia=None if system == "Darwin" else query_nvidia(ask),
        amd=_linux_amd(Path("/")) if system == "Linux" else "radeon" in adapters.lower(),
        intel=_linux_arc(Path("/")) if system == "Linux" else bool(re.search(r"\bArc\b", adapters)),
    )


def query_nvidia(ask: Ask) -> Nvidia | None:
    """The NVIDIA cards and their driver, from nvidia-smi."""
    for program in _NVIDIA_SMI:
        # Drivers before 470 do not know compute_cap and refuse the whole question.
        for fields in ("name,driver_version,compute_cap", "name,driver_version"):
            answer = ask([program, f"--query-gpu={fields}", "--format=csv,noheader"])
            if answer and (found := parse_nvidia(answer)):
                return found
    return None


def parse_nvidia(answer: str) -> Nvidia | None:
    """Cards from lines such as ``NVIDIA GeForce RTX 3060, 580.95.05, 8.6``; None when there is no such line."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(answer.splitlines()) if len(row) >= 2]
    rows = [row for row in rows if re.fullmatch(r"\d+(\.\d+)+", row[1])]
    if not rows:
        return None
    found = [row[2].split(".") for row in rows if len(row) > 2 and re.fullmatch(r"\d+\.\d+", row[2])]
    capabilities = [(int(major), int(minor)) for major, minor in found]
    return Nvidia(
        names=tuple(row[0] for row in rows),
        driver=tuple(int(part) for part in rows[0][1].split(".")),
        oldest_capability=min(capabilities, default=None),
        newest_capability=max(capabilities, default=None),
    )


def _linux_amd(root: Path) -> bool:
    """Whether the kernel's compute driver has a GPU (CPUs are listed there too, with gpu_id 0)."""
    nodes = (root / "sys/class/kfd/kfd/topology/nodes").glob("*/gpu_id")
    return (root / "dev/kfd").exists() and any(_read(node) not in ("", "0") for node in nodes)


def _linux_arc(root: Path) -> bool:
    devices = (root / "sys/class/drm").glob("card*/device")
    return any(_read(d / "vendor") == "0x8086" and _ARC.fullmatch(_read(d / "device")) for d in devices)


def _windows_adapters(ask: Ask) -> str:
    question = "(Get-CimInstance Win32_VideoController).Name"
    return ask(["powershell", "-NoProfile", "-Command", question]) or ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def ask(command: Sequence[str]) -> str | None:
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
