"""How fast LoRAs are merged: ours against an SVD of every whole matrix, and against reading and writing the files.

    python benchmarks/merge.py                    # SD 1.5, LoCon and SDXL pairs; full SVD on some layers, scaled up
    python benchmarks/merge.py --all-layers       # full SVD of every layer of the SD 1.5 pair (minutes)
    python benchmarks/merge.py --only sd1

The files are random, made for the run. Times are the best of several; the full SVD is run once. "command" is a new
process: ``kumakobo merge a b --rank R -o c``.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command does; torch, the rival, keeps all its threads

import numpy as np
import torch

from lora_core.io.arrays import read_arrays, save_arrays
from lora_core.merge import combine
from lora_core.merge.lowrank import flat_shape
from lora_core.settings.tools import MergeSettings
from tests.merge import makers


@dataclass(frozen=True)
class Pair:
    name: str
    family: str
    size: str
    rank: int
    wanted: int
    """Rank of the result: half of what both have together, so that something must be chosen."""


PAIRS = {
    "sd1": Pair("SD 1.5, 264 modules, rank 8", "sd1", "full", 8, 8),
    "locon": Pair("SD 1.5 LoCon, 350 modules, rank 8", "sd1", "locon", 8, 8),
    "sdxl": Pair("SDXL, 986 modules, rank 16", "sdxl", "full", 16, 16),
}
SAMPLE = 24
"""Layers that the full SVD is timed on, spread over the sizes; its time is scaled by the work, O I min(O, I)."""


def best_of(count: int, action: Callable[[], object]) -> float:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def make(pair: Pair, folder: Path) -> list[Path]:
    paths = [folder / f"{pair.family}-{name}.safetensors" for name in "ab"]
    for seed, path in enumerate(paths):
        makers.write_lora(path, pair.family, size=pair.size, rank=pair.rank, seed=seed, precision="fp16")  # type: ignore[arg-type]
    return paths


def compute(settings: MergeSettings, sources: list) -> None:
    for _ in combine.combined(settings, sources):
        pass


def full_svd(sources: list, wanted: int, layers: list[str]) -> float:
    """Seconds of forming the sum and decomposing it whole, as the usual tool does, without its clamp."""
    start = time.perf_counter()
    for layer in layers:
        changes = [torch.from_numpy(source.file.change(layer).dense()) for source in sources]
        whole = sum(changes).flatten(1)
        u, s, vh = torch.linalg.svd(whole, full_matrices=False)
        _ = (u[:, :wanted] * s[:wanted], vh[:wanted])
    return time.perf_counter() - start


def work(shape: tuple[int, ...]) -> float:
    rows, columns = flat_shape(shape)
    return float(rows) * columns * min(rows, columns)


def measure(pair: Pair, folder: Path, *, all_layers: bool) -> None:
    paths = make(pair, folder)
    loras = [{"path": paths[0], "ratio": 0.7}, {"path": paths[1], "ratio": -0.4}]
    settings = MergeSettings.model_validate({"loras": loras, "rank": pair.wanted})
    sources = combine.load_sources(settings.loras)
    names = combine.layer_names(sources)
    shapes = {name: sources[0].file.shape(name) for name in names}
    ours = best_of(5, lambda: compute(settings, sources))

    chosen = names if all_layers else [names[int(i)] for i in np.linspace(0, len(names) - 1, SAMPLE)]
    part = full_svd(sources, pair.wanted, chosen)
    full = part * sum(map(work, shapes.values())) / sum(work(shapes[name]) for name in chosen)

    output = folder / "out.safetensors"
    tensors, metadata = read_arrays(paths[0])
    files = best_of(3, lambda: [read_arrays(path) for path in paths])
    files += best_of(3, lambda: save_arrays(tensors, metadata, output, "fp16"))
    words = [sys.executable, "-m", "lora_core", "merge", *map(str, paths), "--rank", str(pair.wanted), "--force"]
    command = best_of(3, lambda: subprocess.run([*words, "-o", str(output)], check=True, stdout=subprocess.DEVNULL))
    estimated = "" if all_layers else f" (from {len(chosen)} layers)"
    print(f"{pair.name}, merged to rank {pair.wanted}")
    print(f"  ours, compute             {ours:8.3f} s")
    print(f"  full SVD of every layer   {full:8.1f} s{estimated}: {full / ours:,.0f} times as long")
    print(f"  reading and writing files {files:8.3f} s: {files / ours:.1f} times as long as computing")
    print(f"  the whole command         {command:8.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PAIRS, action="append")
    parser.add_argument("--all-layers", action="store_true")
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, numpy {np.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only or PAIRS:
            measure(PAIRS[name], Path(folder), all_layers=arguments.all_layers)


if __name__ == "__main__":
    main()
