"""What the System tab says about this machine: the doctor's report, folders, graphics memory, text for a bug report."""

import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from app.i18n import say
from app.shared_files import shared_folder
from lora_core.doctor import Row, report
from lora_core.i18n import Language
from lora_core.runs import PROJECT, home, runs_root

PACKAGES = ("kumakobo", "gradio", "torch", "diffusers", "transformers", "accelerate", "bitsandbytes", "pydantic")


class Report:
    """The doctor's findings, kept until somebody asks to check again: a check takes seconds."""

    def __init__(self) -> None:
        self._rows: Sequence[Row] | None = None
        self._lock = threading.Lock()

    @property
    def known(self) -> bool:
        return self._rows is not None

    def forget(self) -> None:
        self._rows = None

    def rows(self) -> Sequence[Row]:
        with self._lock:
            rows = self._rows if self._rows is not None else report()
            self._rows = rows
            return rows


def versions() -> list[tuple[str, str]]:
    """(name, version) of what is installed, without importing it."""
    found = [("Python", platform.python_version()), (platform.system(), platform.release())]
    for package in PACKAGES:
        try:
            found.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            continue
    return found


def folders(language: Language) -> list[tuple[str, Path]]:
    """(what is there, where) of the folders that Kumakobo uses by itself."""
    return [
        (say("system.folder.program", language), PROJECT),
        (say("system.folder.runs", language), runs_root()),
        (say("system.folder.cache", language), shared_folder().parent),
        (say("system.folder.home", language), home()),
    ]


@dataclass(frozen=True)
class Card:
    """A graphics card; memory in GB."""

    name: str
    used: float
    total: float


def graphics_cards() -> list[tuple[str, str]]:
    """(name, "used / total GB") of the NVIDIA cards; empty without nvidia-smi."""
    return [(card.name, f"{card.used:.1f} / {card.total:.1f} GB") for card in cards()]


def cards() -> list[Card]:
    """The NVIDIA cards, in the order in which training would take them; empty without nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, "--query-gpu=name,memory.used,memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [card for line in done.stdout.splitlines() if (card := _card(line))]


def _card(line: str) -> Card | None:
    """
    >>> _card("NVIDIA GeForce RTX 4070, 1024, 12288")
    Card(name='NVIDIA GeForce RTX 4070', used=1.0, total=12.0)
    """
    parts = [part.strip() for part in line.rsplit(",", 2)]
    if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
        return None
    return Card(parts[0], int(parts[1]) / 1024, int(parts[2]) / 1024)


def debug_text(rows: Sequence[Row]) -> str:
    """For a bug report, in English. The person's own folder is masked."""
    lines = [f"{name} {version}" for name, version in versions()]
    lines += [f"{name}: {memory}" for name, memory in graphics_cards()]
    lines += [f"[{row.status}] {row.name('en')}: {row.value('en')}" for row in rows]
    lines.append(f"python: {sys.executable}")
    return masked("\n".join(lines))


def masked(text: str) -> str:
    return text.replace(str(Path.home()), "~") if len(str(Path.home())) > 1 else text
