"""Checkpoints and LoRAs: extraction against full SVDs, baking against copying the file. Random weights, real shapes.

    python benchmarks/merge_checkpoints.py extract [--spectrum tuned] [--every 1] [--rank 16]
    python benchmarks/merge_checkpoints.py apply [--file fp32] [--checkpoint model.safetensors]

"extract" decomposes the difference of each of the 192 layers of SD 1.5's U-Net that a LoRA is trained on, by ours and
then by torch.linalg.svd in one process: as extraction scripts call it (square factors) and thin.
On a computer that does other things too, set OMP_NUM_THREADS=1: the processor's own time is taken then, which other
work hardly changes. "apply" bakes a rank 16 LoRA into a checkpoint of full size (4.3 GB in fp32), in a process of its
own.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from lora_core.merge.parallel import blas_threads, in_order  # noqa: E402

os.environ.setdefault("OPENBLAS_NUM_THREADS", str(blas_threads(side_by_side=True)))  # as the command does

import numpy as np  # noqa: E402

from lora_core.merge import known  # noqa: E402
from lora_core.merge.lowrank import flat_shape  # noqa: E402
from lora_core.merge.randomized import checked  # noqa: E402

Array = np.ndarray
CLOCK = time.process_time if os.environ.get("OMP_NUM_THREADS") == "1" else time.perf_counter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="job", required=True)
    job = jobs.add_parser("extract")
    job.add_argument("--spectrum", choices=SPECTRA, default="tuned")
    job.add_argument("--rank", type=int, default=16)
    job.add_argument("--every", type=int, default=1, help="take every nth layer only")
    job = jobs.add_parser("apply")
    job.add_argument("--file", choices=("fp32", "fp16"), default="fp32", help="number format of the checkpoint")
    job.add_argument("--checkpoint", type=Path, help="an SD 1.5 checkpoint of your own instead of a random one")
    job.add_argument("--folder", type=Path, help="where to work; needs three times the checkpoint's size")
    arguments = parser.parse_args()
    if arguments.job == "extract":
        measure_extraction(arguments.spectrum, arguments.rank, arguments.every)
    else:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            measure_baking(arguments.checkpoint, Path(folder), arguments.file)


# ---- extraction ------------------------------------------------------------------------------------------------------


def tuned(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Singular values that fall as a fine-tuned model's do, roughly with the root of their number."""
    k = min(rows, columns)
    u, v = (rng.standard_normal(size, dtype=np.float32) for size in ((rows, k), (k, columns)))
    return (u * np.arange(1, k + 1, dtype=np.float32) ** -0.5) @ v * np.float32(1e-3 / k)


def noise(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """No low-rank part at all: the hardest case."""
    return rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(1e-3)


def lora(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """A baked LoRA of rank 8, rounded as fp16 rounds the weight it was added to."""
    u, v = (rng.standard_normal(size, dtype=np.float32) for size in ((rows, 8), (8, columns)))
    return u @ v * np.float32(1e-3) + rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(1e-5)


SPECTRA: dict[str, Callable] = {"tuned": tuned, "noise": noise, "lora": lora}


Seconds = dict[str, dict[str, float]]
"""Size -> way -> seconds of all layers of the size."""


def measure_extraction(spectrum: str, rank: int, every: int) -> None:
    """Ours first, for all layers: torch's threads keep spinning for a while after each of its calls."""
    shapes = known.layers("sd1")
    layers = [name for name in shapes if name in known.default_targets("sd1") and name.startswith("lora_unet")][::every]
    sizes = {name: flat_shape(shapes[name]) for name in layers}
    counts = Counter(map(text_of, sizes.values()))
    seconds: Seconds = {size: dict.fromkeys(("ours", "svd", "thin"), 0.0) for size in counts}
    checked(noise(np.random.default_rng(0), 320, 320), rank=rank)
    found = {}
    for size in counts:
        matrices = {name: matrix_of(name, own, spectrum) for name, own in sizes.items() if text_of(own) == size}
        started = CLOCK()
        for name, done in in_order(lambda name: checked(matrices[name], rank=rank, name=name), matrices):  # noqa: B023
            found[name] = done.change
        seconds[size]["ours"] = CLOCK() - started
    worst = 1.0
    for name, size in sizes.items():
        matrix = matrix_of(name, size, spectrum)
        values = with_torch(matrix, seconds[text_of(size)])
        worst = max(worst, error_ratio(matrix, found[name], values, rank))
    print_table(spectrum, rank, counts, seconds)
    print(f"largest error: {worst:.6f} times the optimum")


def text_of(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def matrix_of(name: str, size: tuple[int, int], spectrum: str) -> Array:
    return SPECTRA[spectrum](np.random.default_rng(zlib.crc32(name.encode())), *size)


def with_torch(matrix: Array, seconds: dict[str, float]) -> Array:
    """Times both ways to call torch's SVD; returns the singular values."""
    import torch

    tensor = torch.from_numpy(matrix)
    for way, full in (("svd", True), ("thin", False)):
        started = CLOCK()
        values = torch.linalg.svd(tensor, full_matrices=full)[1]
        seconds[way] += CLOCK() - started
    return values.double().numpy()


def error_ratio(matrix: Array, change, values: Array, rank: int) -> float:
    """Measured error over that of the best approximation."""
    rest = matrix - change.up @ change.down
    return float(np.linalg.norm(rest.astype(np.float64)) / np.sqrt(np.square(values[rank:]).sum()))


def print_table(spectrum: str, rank: int, counts: Counter[str], seconds: Seconds) -> None:
    print(f"{sum(counts.values())} layers, {spectrum}, rank {rank}; seconds")
    print(f"{'size':>14} {'layers':>6} {'ours':>8} {'svd':>8} {'thin':>8} {'svd/ours':>9} {'thin/ours':>9}")
    every = {way: sum(taken[way] for taken in seconds.values()) for way in ("ours", "svd", "thin")}
    rows = [*sorted(seconds.items()), ("all", every)]
    for size, t in rows:
        count = counts.get(size, sum(counts.values()))
        ratios = f"{t['svd'] / t['ours']:9.1f} {t['thin'] / t['ours']:9.1f}"
        print(f"{size:>14} {count:>6} {t['ours']:8.3f} {t['svd']:8.3f} {t['thin']:8.3f} {ratios}", flush=True)


# ---- baking ----------------------------------------------------------------------------------------------------------


BAKE = """
import re, sys, time
from pathlib import Path
from lora_core.merge.apply import apply
from lora_core.settings.tools import ApplySettings, LoraSource
started = time.perf_counter()
source = LoraSource(path=Path(sys.argv[2]), ratio=float(sys.argv[4]))
for _ in apply(ApplySettings(checkpoint=Path(sys.argv[1]), loras=[source], output=Path(sys.argv[3]))):
    pass
seconds = time.perf_counter() - started
peak = re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]
print(seconds, int(peak) / 2**20)
"""
"""Seconds and peak memory in GB (2**30 bytes), as Linux counts it for this process alone."""


def measure_baking(checkpoint: Path | None, folder: Path, file: str) -> None:
    from tests.merge.makers import write_lora

    write_lora(folder / "lora.safetensors", "sd1", size="full", rank=16)
    checkpoint = checkpoint or make_checkpoint(folder / "model.safetensors", file)
    output = folder / "out.safetensors"
    rows = {"copy": copied(checkpoint, output), "bake": baked(checkpoint, folder / "lora.safetensors", output, 1.0)}
    rows["take out"] = baked(output, folder / "lora.safetensors", folder / "back.safetensors", 1.0)
    print(f"{checkpoint.stat().st_size / 1e9:.2f} GB, rank 16 LoRA of 264 layers")
    for name, (seconds, memory) in rows.items():
        print(f"{name:>9} {seconds:7.1f} s  {seconds / rows['copy'][0]:5.2f} x copy  peak {memory:5.2f} GB")


def make_checkpoint(path: Path, file: str) -> Path:
    import torch

    from tests.models import full_size_sd15

    return full_size_sd15(path, {"fp32": torch.float32, "fp16": torch.float16}[file])


def copied(source: Path, target: Path) -> tuple[float, float]:
    """A plain copy that is on the disk at the end, as ours is."""
    with source.open("rb") as file:  # both ways begin with the file in the system's memory, as far as it fits
        while file.read(1 << 24):
            pass
    started = time.perf_counter()
    with source.open("rb") as old, target.open("wb") as new:
        shutil.copyfileobj(old, new, 1 << 24)
        new.flush()
        os.fsync(new.fileno())
    seconds = time.perf_counter() - started
    target.unlink()
    return seconds, 0.0


def baked(checkpoint: Path, lora_file: Path, output: Path, ratio: float) -> tuple[float, float]:
    command = [sys.executable, "-c", BAKE, str(checkpoint), str(lora_file), str(output), str(ratio)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    seconds, memory = map(float, done.stdout.split())
    return seconds, memory


if __name__ == "__main__":
    main()
