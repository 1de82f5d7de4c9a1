"""Baking into a checkpoint of 4.3 GB and extracting from two of them: little memory, and the LoRA comes out again."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lora_core.merge.lora import load_lora
from lora_core.merge.lowrank import cosine
from tests.merge.makers import write_lora
from tests.models import PROJECT, full_size_sd15

pytestmark = [
    pytest.mark.full_size,
    pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux counts it"),
]

RUN = """
import re, sys, time
from pathlib import Path
from lora_core.settings.tools import TOOL_SETTINGS
from lora_core.tools import tool
settings = TOOL_SETTINGS.validate_json(sys.argv[1])
started = time.perf_counter()
for _ in tool(settings.job)(settings):
    pass
assert "torch" not in sys.modules
print(f"{settings.job} {time.perf_counter() - started:.1f} s, peak", end=" ")
print(int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**20)
"""
MOST = 1.5
"""GB (2**30 bytes) of memory that a file of 4.3 GB may take."""


def run(settings: dict, capsys) -> None:
    """Does a job in a process of its own and checks its memory."""
    command = [sys.executable, "-c", RUN, json.dumps(settings, default=str)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with capsys.disabled():
        print(f"\n{done.stdout.strip()} GB")
    assert float(done.stdout.split()[-1]) < MOST


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bake")
    full_size_sd15(folder / "base.safetensors")
    write_lora(folder / "lora.safetensors", "sd1", size="full", rank=8, precision="float")
    return folder


def test_bake_extract_and_take_out(folder: Path, capsys):
    lora = {"path": folder / "lora.safetensors", "ratio": 1.0}
    base, baked, back = (folder / f"{name}.safetensors" for name in ("base", "baked", "back"))
    run({"job": "apply", "checkpoint": base, "loras": [lora], "output": baked}, capsys)
    out = folder / "out.safetensors"
    run({"job": "extract", "base": base, "tuned": baked, "rank": 8, "output": out, "precision": "float"}, capsys)
    original, found = load_lora(folder / "lora.safetensors"), load_lora(out)
    assert set(found.names()) == set(original.names())
    for layer in original.names():
        assert cosine(original.change(layer), found.change(layer)) > 1 - 1e-6, layer
    run({"job": "apply", "checkpoint": baked, "loras": [lora], "output": back, "reverse": True}, capsys)
    baked.unlink()
    with base.open("rb") as one, back.open("rb") as two:
        one.seek(-(1 << 30), 2)
        two.seek(-(1 << 30), 2)
        while piece := one.read(1 << 24):
            first, second = (np.frombuffer(p, np.float32) for p in (piece, two.read(1 << 24)))
            assert np.allclose(first, second, rtol=0, atol=1e-7)
