"""What it saves that the model stays loaded: seconds from pressing Draw to the picture, the first time and after that.

Each job is put in line and run as the page does it. The first starts a process and reads the model, the others find it
in memory. Weights of "sd15" and "sdxl" are random (the file is made first, 2.1 or 6.9 GB); the work is the same as with
real ones. On a computer that does other things too, look at the processor's own time, which they do not change much.

    python benchmarks/second_picture.py --model sd15 --steps 4 --size 256
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from lora_core import jobs, picture_worker  # noqa: E402
from lora_core.families.source import BUILT_IN  # noqa: E402
from lora_core.settings.generate import GenerateSettings  # noqa: E402
from tests.families.test_sdxl_keys import shapes  # noqa: E402
from tests.models import full_size_file, sd15_shapes  # noqa: E402


class Job(NamedTuple):
    seconds: float
    processor_seconds: float
    """Of the process that draws."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="built-in", help="built-in, sd15, sdxl, or a checkpoint of your own")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--jobs", type=int, default=4, help="how often Draw is pressed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["KUMAKOBO_HOME"] = folder
        base = model_file(arguments.model, Path(folder))
        found = measure(base, Path(folder) / "runs", arguments.steps, arguments.size, arguments.jobs)
    print(json.dumps({"model": arguments.model, **report(found)}, indent=2))


def model_file(name: str, folder: Path) -> str:
    """The settings' name of the model; of the random ones the file is made now."""
    if name not in ("sd15", "sdxl"):
        return BUILT_IN if name == BUILT_IN else str(Path(name).absolute())
    keys = sd15_shapes() if name == "sd15" else shapes("sdxl")
    return str(full_size_file(folder / f"{name}.safetensors", keys, torch.float16))


def measure(base: str, root: Path, steps: int, size: int, count: int) -> list[Job]:
    """Each job from putting it in line to its end. All are done by one process, which is ended then."""
    found, processes, spent = [], set(), 0.0
    for seed in range(count):
        settings = GenerateSettings(base=base, prompts=["a bear"], steps=steps, width=size, height=size, seed=seed)
        begun = time.perf_counter()
        run = jobs.start(settings, root)
        while jobs.state(run) not in jobs.ENDED:
            time.sleep(0.01)
        wall, process = time.perf_counter() - begun, jobs.alive(run) or picture_worker.process(root)
        if process is None or jobs.state(run) != "finished":
            raise SystemExit(jobs.log_tail(run))
        times = process.cpu_times()
        found.append(Job(wall, times.user + times.system - spent))
        spent = times.user + times.system
        processes.add(process.pid)
        while jobs.current(root):
            time.sleep(0.01)
    jobs.free_memory(root)
    assert len(processes) == 1
    return found


def report(found: list[Job]) -> dict[str, object]:
    """The first of the jobs, the median of the later ones and their ratio."""
    told: dict[str, object] = {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}
    for name, seconds in zip(Job._fields, zip(*found, strict=True), strict=True):
        first, later = seconds[0], median(seconds[1:])
        numbers = {"first": round(first, 2), "later": round(later, 2), "later/first": round(later / first, 3)}
        told[name] = numbers | {"all": [round(one, 2) for one in seconds]}
    return told


if __name__ == "__main__":
    main()
