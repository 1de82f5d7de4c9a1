"""The doctor's findings on machines of all kinds, in both languages."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lora_core import doctor
from lora_core.doctor import GIB, Machine, findings
from lora_core.i18n import LANGUAGES, catalogue
from lora_core.runs import PROJECT
from lora_core.setup.hardware import Hardware, Nvidia

TORCH = {
    "torch": "2.13.0+cu130",
    "cuda": "13.0",
    "hip": None,
    "devices": [],
    "cpu_bf16": True,
    "threads": 8,
    "bitsandbytes": {"version": "0.50.2"},
}
CARD = {"kind": "cuda", "name": "RTX 3060", "free": 11 * GIB, "total": 12 * GIB, "bf16": True, "works": True}
NVIDIA = Nvidia(("RTX 3060",), (580, 95), (8, 6), (8, 6))
GOOD = Machine(
    torch=TORCH | {"devices": [CARD]},
    hardware=Hardware("Windows", "AMD64", nvidia=NVIDIA),
    python=(3, 12, 1),
    memory=(24 * GIB, 32 * GIB),
    disk=200 * GIB,
    folder=Path("/home/kuma/kumakobo"),
    writable=True,
)
MACHINES = {
    "good": (GOOD, "verdict", "ok", ""),
    "cpu": (
        dataclasses.replace(GOOD, torch=TORCH | {"torch": "2.13.0+cpu", "cuda": None}, hardware=Hardware("Linux")),
        "device",
        "info",
        "cpu_only",
    ),
    "cpu_build": (dataclasses.replace(GOOD, torch=TORCH | {"cuda": None}), "torch", "warning", "cpu_build"),
    "driver": (dataclasses.replace(GOOD, torch=TORCH), "device", "warning", "driver"),
    "no_kernels": (
        dataclasses.replace(GOOD, torch=TORCH | {"devices": [CARD | {"works": False}]}),
        "device",
        "error",
        "no_kernels",
    ),
    "vram": (dataclasses.replace(GOOD, torch=TORCH | {"devices": [CARD | {"free": GIB}]}), "device", "warning", "vram"),
    "bf16": (dataclasses.replace(GOOD, torch=TORCH | {"devices": [CARD | {"bf16": False}]}), "bf16", "info", "fp16"),
    "broken_torch": (dataclasses.replace(GOOD, torch={"error": "DLL load failed"}), "torch", "error", "torch"),
    "bitsandbytes": (
        dataclasses.replace(GOOD, torch=TORCH | {"devices": [CARD], "bitsandbytes": {"error": "no library"}}),
        "bitsandbytes",
        "warning",
        "bitsandbytes",
    ),
    "python": (dataclasses.replace(GOOD, python=(3, 14, 0)), "python", "error", "python"),
    "memory": (dataclasses.replace(GOOD, memory=(3 * GIB, 8 * GIB)), "memory", "warning", "memory"),
    "disk": (dataclasses.replace(GOOD, disk=GIB), "disk", "warning", "disk"),
    "read_only": (dataclasses.replace(GOOD, writable=False), "folder", "error", "not_writable"),
    "onedrive": (
        dataclasses.replace(GOOD, folder=Path("/Users/kuma/OneDrive - Kuma/studio")),
        "folder",
        "warning",
        "onedrive",
    ),
    "long_paths": (
        dataclasses.replace(GOOD, folder=Path("/" + "deep/" * 20), long_paths=False),
        "folder",
        "warning",
        "long_paths",
    ),
}


@pytest.mark.parametrize(("machine", "key", "status", "advice"), MACHINES.values(), ids=MACHINES)
def test_each_trouble_has_its_finding_and_advice(machine, key, status, advice):
    rows = {row.key: row for row in findings(machine)}
    assert (rows[key].status, rows[key].advice) == (status, advice)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("machine", [machine for machine, *_ in MACHINES.values()], ids=MACHINES)
def test_every_finding_can_be_said(machine, language):
    rows = findings(machine)
    assert rows[-1].key == "verdict"
    assert len(json.loads(doctor.as_json(rows, language))) == len(rows)
    assert all("{" not in line for line in doctor.lines(rows, language))
    assert all(row.cure(language) for row in rows if row.status in ("warning", "error") and row.key != "verdict")


def test_the_verdict_is_the_worst_of_the_findings():
    verdicts = {name: findings(machine)[-1].status for name, (machine, *_) in MACHINES.items()}
    assert verdicts["good"] == verdicts["bf16"] == "ok"
    assert {name for name, status in verdicts.items() if status == "error"} == {
        name for name, (_, _, status, _) in MACHINES.items() if status == "error"
    }
    assert verdicts["cpu"] == "info"


def test_every_advice_is_given_by_some_machine():
    given = {row.advice for machine, *_ in MACHINES.values() for row in findings(machine)} | {"fp32"}
    written = {key.rpartition(".")[2] for key in catalogue("en") if key.startswith("doctor.cure.")}
    assert written == given - {""}


def test_this_machine_is_asked_without_importing_torch_here():
    code = """if True:
        import sys
        from lora_core import doctor
        rows = doctor.report()
        print("torch" in sys.modules)
        print(doctor.as_json(rows, "en"))
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, encoding="utf-8")
    first, _, report = done.stdout.partition("\n")
    assert first == "False", done.stderr
    assert {row["key"] for row in json.loads(report)} >= {"python", "torch", "device", "memory", "disk", "folder"}


def test_a_folder_that_cannot_be_made_is_not_writable(tmp_path):
    (tmp_path / "file").touch()
    assert not doctor.can_write(tmp_path / "file" / "below")
    assert doctor.can_write(tmp_path / "くま" / "new")
