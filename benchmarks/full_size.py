"""A whole Stable Diffusion 1.5 checkpoint, offline: seconds to the first step, seconds a step, peak memory.

Weights are random (the file is made first, 4.3 GB in float32), the work is the same as with real ones.

    python benchmarks/full_size.py --steps 10 --size 256
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from lora_core.events import CheckpointSaved, RunFailed, RunStarted, StepDone  # noqa: E402
from lora_core.runs import RunFolder, create_run  # noqa: E402
from lora_core.settings import RunSettings  # noqa: E402
from tests.models import full_size_sd15  # noqa: E402

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--file", choices=DTYPES, default="fp32", help="number format of the checkpoint")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint of your own instead of a random one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = arguments.checkpoint or full_size_sd15(Path(folder) / "sd15.safetensors", DTYPES[arguments.file])
        found = measure(checkpoint, Path(folder), arguments.steps, arguments.size)
    print(json.dumps(found, indent=2))


def measure(checkpoint: Path, folder: Path, steps: int, size: int, **changes: Any) -> dict[str, float | str]:
    """Train in a process of its own, as the app does, and watch it. ``changes``: further settings, by section."""
    run = create_run(settings_for(checkpoint, folder, steps, size, changes), folder / "runs")
    begun, wall = time.time(), time.perf_counter()
    command = [sys.executable, "-c", OFFLINE.format(run=str(run.path))]
    with run.log.open("wb") as log:
        process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=subprocess.STDOUT)
        peak = watch(process)
    return report(run, begun, time.perf_counter() - wall, peak)


OFFLINE = """
import socket, sys
def refuse(*arguments): raise OSError("the network was used")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
from lora_core.cli import main
sys.exit(main(["train", {run!r}]))
"""
"""The trainer with every connection refused: it must not want one."""


def settings_for(
    checkpoint: Path, folder: Path, steps: int, size: int, changes: Mapping[str, Mapping[str, Any]]
) -> RunSettings:
    images = folder / "images" / f"{steps}_usu bear"
    images.mkdir(parents=True)
    Image.effect_noise((size, size), 60).convert("RGB").save(images / "0.png")
    sections: dict[str, dict[str, Any]] = {
        "model": {"base": str(checkpoint)},
        "dataset": {"train_dir": images.parent, "resolution": str(size)},
        "optimizer": {"name": "AdamW8bit"},
        "train": {"epochs": 1},
        "save": {"output_dir": folder / "out", "output_name": "full_size"},
    }
    return RunSettings.model_validate({name: own | changes.get(name, {}) for name, own in sections.items()})


def watch(process: subprocess.Popen) -> float:
    """Wait for a process; its largest memory in GB, memory-mapped files included."""
    peak = [0.0]

    def look() -> None:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peak[0] = max(peak[0], watched.memory_info().rss / 2**30)
            except psutil.Error:
                return
            time.sleep(0.1)

    thread = threading.Thread(target=look)
    thread.start()
    process.wait()
    thread.join()
    return peak[0]


def report(run: RunFolder, begun: float, wall: float, peak: float) -> dict[str, float | str]:
    events = run.read_events()
    if failed := [event for event in events if isinstance(event, RunFailed)]:
        raise SystemExit(f"{failed[0].message['en']}\n{failed[0].detail}")
    steps = [event for event in events if isinstance(event, StepDone)]
    started = next(event for event in events if isinstance(event, RunStarted))
    saved = next(event for event in events if isinstance(event, CheckpointSaved) and event.final)
    return {
        "machine": f"{os.cpu_count()} cores, {started.device}, {started.precision}",
        "steps": len(steps),
        "seconds_to_first_step": round(steps[0].time - begun, 1),
        "seconds_per_step": round(sum(event.seconds for event in steps[1:]) / max(1, len(steps) - 1), 2),
        "seconds_in_all": round(wall, 1),
        "peak_memory_gb": round(peak, 2),
        "lora_mb": round(saved.path.stat().st_size / 2**20, 1),
    }


if __name__ == "__main__":
    main()
