"""``kumakobo doctor``: what works on this machine, and what to do about what does not.

A finding is made once and said in either language. torch is asked in a process of its own (torch_probe.py), so that
the app, which never imports torch, can show the same report.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lora_core.i18n import Language, text
from lora_core.runs import PROJECT, home
from lora_core.setup.hardware import Hardware, detect

Status = Literal["ok", "info", "warning", "error"]
GIB = 2**30
_PYTHONS = ((3, 11), (3, 13))
_LITTLE_DISK = 5 * GIB
_LITTLE_MEMORY = 8 * GIB
_LITTLE_VRAM = 5 * GIB
"""SD 1.5 at 512 px trains in about 6 GB; less needs the low-memory preset."""


@dataclass(frozen=True)
class Row:
    """One finding. The sentences are ``doctor.<key>``, ``doctor.<key>.<said>`` and ``doctor.cure.<advice>``."""

    key: str
    status: Status
    said: str = ""
    """Which sentence describes the value; "" when the value is a plain text."""
    values: dict[str, Any] = field(default_factory=dict)
    advice: str = ""

    def name(self, language: Language = "en") -> str:
        return text(f"doctor.{self.key}", language)

    def value(self, language: Language = "en") -> str:
        return text(f"doctor.{self.key}.{self.said}", language, **self.values) if self.said else self.values["value"]

    def cure(self, language: Language = "en") -> str:
        """What to do; "" when nothing needs doing."""
        return text(f"doctor.cure.{self.advice}", language, **self.values) if self.advice else ""


@dataclass(frozen=True)
class Machine:
    """All that the findings are made from."""

    torch: dict[str, Any]
    """What torch_probe printed; {"error": ...} when it failed."""
    hardware: Hardware
    python: tuple[int, int, int]
    memory: tuple[int, int]
    """Free and total main memory, bytes."""
    disk: int
    """Free bytes where results go."""
    folder: Path
    """Where runs and results go."""
    writable: bool
    long_paths: bool = True


def report() -> list[Row]:
    """Look at this machine. The last row is the verdict. Takes some seconds."""
    return findings(look())


def findings(machine: Machine) -> list[Row]:
    """The report on a machine, the verdict last. Pure."""
    rows = [row for check in CHECKS for row in check(machine)]
    return [*rows, _verdict(machine, rows)]


def _python(machine: Machine) -> Iterator[Row]:
    fits = _PYTHONS[0] <= machine.python[:2] <= _PYTHONS[1]
    version = ".".join(map(str, machine.python))
    yield Row("python", "ok" if fits else "error", values={"value": version}, advice="" if fits else "python")


def _torch(machine: Machine) -> Iterator[Row]:
    if error := machine.torch.get("error"):
        yield Row("torch", "error", "broken", {"error": error}, "torch")
        return
    values = {"value": machine.torch["torch"]}
    if _card_unused(machine):
        assert machine.hardware.nvidia
        yield Row("torch", "warning", values=values | {"card": machine.hardware.nvidia.names[0]}, advice="cpu_build")
    else:
        yield Row("torch", "ok", values=values)


def _card_unused(machine: Machine) -> bool:
    """An NVIDIA card is there, but this torch was built without CUDA."""
    return machine.hardware.nvidia is not None and not (machine.torch.get("cuda") or machine.torch.get("hip"))


def _devices(machine: Machine) -> Iterator[Row]:
    devices = machine.torch.get("devices", [])
    for device in devices:
        values = {
            "name": device["name"],
            "kind": device["kind"],
            "free": _gigabytes(device["free"]),
            "total": _gigabytes(device["total"]),
        }
        if not device["works"]:
            yield Row("device", "error", "unusable", values, "no_kernels")
        elif device["free"] < _LITTLE_VRAM:
            yield Row("device", "warning", "card", values, "vram")
        else:
            yield Row("device", "ok", "card", values)
    nvidia = machine.hardware.nvidia
    if not devices and nvidia and not _card_unused(machine) and "error" not in machine.torch:
        yield Row("device", "warning", "silent", {"name": nvidia.names[0], "driver": nvidia.driver_text}, "driver")
    elif not devices:
        yield Row("device", "info", "cpu", {"threads": machine.torch.get("threads", os.cpu_count())}, "cpu_only")


def _bf16(machine: Machine) -> Iterator[Row]:
    if "error" in machine.torch:
        return
    devices = machine.torch["devices"]
    able = all(device["bf16"] for device in devices) if devices else machine.torch["cpu_bf16"]
    yield Row("bf16", "ok", "yes") if able else Row("bf16", "info", "no", advice="fp16" if devices else "fp32")


def _bitsandbytes(machine: Machine) -> Iterator[Row]:
    found = machine.torch.get("bitsandbytes", {})
    if version := found.get("version"):
        yield Row("bitsandbytes", "ok", values={"value": version})
    elif "error" in found and machine.hardware.system != "Darwin":
        yield Row("bitsandbytes", "warning", "broken", {"error": found["error"]}, "bitsandbytes")


def _memory(machine: Machine) -> Iterator[Row]:
    free, total = machine.memory
    values = {"free": _gigabytes(free), "total": _gigabytes(total)}
    little = free < _LITTLE_MEMORY
    yield Row("memory", "warning" if little else "ok", "amount", values, "memory" if little else "")


def _disk(machine: Machine) -> Iterator[Row]:
    values = {"free": _gigabytes(machine.disk), "folder": machine.folder}
    little = machine.disk < _LITTLE_DISK
    yield Row("disk", "warning" if little else "ok", "amount", values, "disk" if little else "")


def _folder(machine: Machine) -> Iterator[Row]:
    values = {"value": str(machine.folder)}
    if not machine.writable:
        yield Row("folder", "error", values=values, advice="not_writable")
    elif any(part.lower().startswith("onedrive") for part in machine.folder.parts):
        yield Row("folder", "warning", values=values, advice="onedrive")
    elif not machine.long_paths and len(str(machine.folder)) > 60:
        yield Row("folder", "warning", values=values, advice="long_paths")
    else:
        yield Row("folder", "ok", values=values)


CHECKS: tuple[Callable[[Machine], Iterator[Row]], ...] = (
    _python,
    _torch,
    _devices,
    _bf16,
    _bitsandbytes,
    _memory,
    _disk,
    _folder,
)


def _verdict(machine: Machine, rows: Sequence[Row]) -> Row:
    if any(row.status == "error" for row in rows):
        return Row("verdict", "error", "error")
    if not machine.torch["devices"]:
        return Row("verdict", "warning" if _card_unused(machine) else "info", "cpu")
    warned = any(row.status == "warning" for row in rows)
    return Row("verdict", "warning" if warned else "ok", "warning" if warned else "ok")


def _gigabytes(size: int) -> str:
    return f"{size / GIB:.1f}"


def look() -> Machine:
    """Measure this machine."""
    import psutil

    folder = home()
    memory = psutil.virtual_memory()
    return Machine(
        torch=ask_torch(),
        hardware=detect(),
        python=sys.version_info[:3],
        memory=(memory.available, memory.total),
        disk=shutil.disk_usage(_existing(folder)).free,
        folder=folder,
        writable=can_write(folder),
        long_paths=_long_paths(),
    )


def ask_torch() -> dict[str, Any]:
    """What torch says of this machine, from a process of its own."""
    command = [sys.executable, "-m", "lora_core.torch_probe"]
    try:
        done = subprocess.run(
            command,
            cwd=PROJECT,
            env=os.environ | {"PYTHONUTF8": "1", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=300,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": str(error)}
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return {"error": last[0]}


def can_write(folder: Path) -> bool:
    """Whether a file can be made there, tried out."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _long_paths() -> bool:
    """Whether paths may be longer than 260 characters; only Windows may say no."""
    if sys.platform != "win32":
        return True
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Control\FileSystem") as key:
            return bool(winreg.QueryValueEx(key, "LongPathsEnabled")[0])
    except OSError:
        return False


def lines(rows: Sequence[Row], language: Language) -> list[str]:
    """The report as text for a terminal."""
    said = []
    for row in rows:
        said.append(f"{text(f'doctor.mark.{row.status}', language)} {row.name(language)}: {row.value(language)}")
        if cure := row.cure(language):
            said.append(f"       -> {cure}")
    return said


def as_json(rows: Sequence[Row], language: Language) -> str:
    return json.dumps(
        [
            {
                "key": row.key,
                "status": row.status,
                "name": row.name(language),
                "value": row.value(language),
                "advice": row.cure(language),
            }
            for row in rows
        ],
        ensure_ascii=False,
        indent=2,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; 1 when something is broken."""
    from lora_core.cli import language

    parser = argparse.ArgumentParser("kumakobo doctor", description=text("cli.doctor", language()))
    parser.add_argument("--json", action="store_true", help=text("cli.doctor.json", language()))
    arguments = parser.parse_args(argv)
    rows = report()
    if arguments.json:
        print(as_json(rows, language()))
    else:
        print(f"Kumakobo doctor, {platform.platform()}")
        print("\n".join(lines(rows, language())))
    return int(any(row.status == "error" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
