"""The script that measures graphics cards, tried on the processor with small models."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_cases import CASES, CHECKS, STEPS
from benchmarks.gpu_check import COLUMNS, missing, table
from benchmarks.random_models import TINY
from lora_core.families import FAMILIES
from lora_core.settings.presets import find_preset

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "gpu_check.py"


def test_a_try_with_small_models_gives_a_row_for_each_case(tmp_path):
    command = [sys.executable, SCRIPT, "--tiny", "--device", "cpu", "--out", tmp_path]
    done = subprocess.run(
        [*command, "--cases", "flux cut 512", "sd15 fp16"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    rows = {row["case"]: row for row in json.loads((tmp_path / "gpu_check.json").read_text("utf-8"))["rows"]}
    trained = rows["flux cut 512"]
    assert (trained["ok"], trained["reason"]) == (True, ""), trained
    assert trained["steps"] == STEPS
    assert trained["step_s"] > 0
    assert trained["picture_finite"]
    assert trained["opens_in_diffusers"]
    # What does not work is a row with its reason, and the cases after and before it are not lost.
    assert not rows["sd15 fp16"]["ok"]
    assert "fp16" in rows["sd15 fp16"]["reason"]
    report = (tmp_path / "gpu_check.md").read_text("utf-8")
    assert "| flux cut 512 | ok |" in report
    assert "| sd15 fp16 | FAILED |" in report


def test_every_family_and_check_has_a_case():
    assert {case.family for case in CASES.values()} == set(FAMILIES) == set(TINY)
    assert {case.check for case in CASES.values()} == set(CHECKS)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.preset])
def test_presets_of_cases_are_there(name):
    preset = find_preset(CASES[name].preset)
    assert preset.values["model.family"] == CASES[name].family
    assert preset.values["dataset.resolution"] == str(CASES[name].size)


def test_the_report_tells_where_a_step_waits():
    rows = [
        {"case": "a", "ok": True, "reason": "", "waits": {"train/session.py:1": 2}},
        missing("b", None, "needs a card | 40 GB"),
    ]
    report = table({"device": "Card", "memory_gb": 8.0, "versions": {"torch": "2"}}, rows)
    lines = report.splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert len(COLUMNS) > 5
    assert "* a: train/session.py:1 (2 ×)" in lines
    assert "* memory (GB): 8.0" in lines
