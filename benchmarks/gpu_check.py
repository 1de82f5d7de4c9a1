"""Everything one wants to know of a graphics card, in one call of less than nine minutes.

Real trainings on random models of full size (nothing is downloaded): speed, memory, fp16 and bf16, optimizers, samples,
resuming, merging, the presets on imitated smaller cards, and where a step waits for the card. Each case has a process
of its own; one that fails is a row with its reason. Prints a table and writes it, and all numbers as JSON, to --out.

    python benchmarks/gpu_check.py
    python benchmarks/gpu_check.py --cases sdxl flux        # those whose names hold one of these words
    python benchmarks/gpu_check.py --tiny --device cpu      # tries the script itself with small models
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

LIMIT = 520.0
"""Seconds for all cases; what has not begun by then is left out."""
CASE_LIMIT = 150.0
AHEAD_CORES = 4
"""From so many cores on, the next case's process loads its libraries while one is measured."""
ROW, MACHINE = "ROW ", "MACHINE "
"""What the lines begin with by which a case's process answers."""
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "bitsandbytes", "prodigyopt")
Row = dict[str, Any]


def main() -> None:
    arguments = parser().parse_args()
    if arguments.worker:
        work(arguments)
        return
    names = chosen(arguments.cases)
    machine, rows = run_cases(names, arguments)
    report = table(machine, rows)
    print(report)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "gpu_check.md").write_text(report, encoding="utf-8")
    found = json.dumps({"machine": machine, "rows": rows}, indent=2)
    (arguments.out / "gpu_check.json").write_text(found + "\n", encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=Path(), help="folder for gpu_check.md and gpu_check.json")
    p.add_argument("--cases", nargs="+", default=(), metavar="WORD", help="only cases whose names hold one of these")
    p.add_argument("--tiny", action="store_true", help="small models, all in one process: a try, no measurement")
    p.add_argument("--device", choices=("auto", "cuda", "xpu", "mps", "cpu"), default="auto")
    p.add_argument("--limit", type=float, default=LIMIT, help="seconds after which no further case is begun")
    p.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return p


def chosen(words: Sequence[str]) -> list[str]:
    from benchmarks.gpu_cases import CASES

    names = [name for name in CASES if not words or any(word.lower() in name.lower() for word in words)]
    if not names:
        raise SystemExit(f"No case is called so. There are: {', '.join(CASES)}")
    return names


# ---- The processes ---------------------------------------------------------------------------------------------------


def run_cases(names: Sequence[str], arguments: argparse.Namespace) -> tuple[Row, list[Row]]:
    """What is known of the machine, and a row for each case."""
    groups = [list(names)] if arguments.tiny else [[name] for name in names]
    ahead = (os.cpu_count() or 1) >= AHEAD_CORES
    machine: Row = {}
    rows: list[Row] = []
    began, waiting = time.monotonic(), None
    for number, group in enumerate(groups):
        left = arguments.limit - (time.monotonic() - began)
        if left <= 0:
            rows += [missing(name, None, "no time left") for name in group]
            continue
        process = waiting or Worker(arguments)
        is_last = number + 1 == len(groups)
        waiting = Worker(arguments) if ahead and not is_last else None
        found, answers = process.run(group, arguments.limit if arguments.tiny else CASE_LIMIT)
        machine = machine or found
        rows += answers
        for row in answers:
            print(said(row), file=sys.stderr, flush=True)
    if waiting is not None:
        waiting.end()
    return machine, rows


class Worker:
    """A process that has loaded its libraries and waits for the names of cases."""

    def __init__(self, arguments: argparse.Namespace):
        self._folder = tempfile.TemporaryDirectory(prefix="gpu_check_", ignore_cleanup_errors=True)
        command = [sys.executable, __file__, "--worker", self._folder.name, "--device", arguments.device]
        self._process = subprocess.Popen(
            [*command, *(["--tiny"] if arguments.tiny else [])],
            cwd=PROJECT,
            # Small models gain nothing from more threads, which wait for one another where other work runs.
            env=os.environ | ({"OMP_NUM_THREADS": "1"} if arguments.tiny else {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        # Read all the while: a full pipe would stop a process that says much before it is given its case.
        self._said: list[str] = []
        self._reader = threading.Thread(target=lambda: self._said.extend(self._process.stdout), daemon=True)
        self._reader.start()

    def run(self, names: Sequence[str], limit: float) -> tuple[Row, list[Row]]:
        """The machine and a row for each case, whatever becomes of the process."""
        reason = ""
        try:
            self._process.stdin.write("".join(f"{name}\n" for name in names))
            self._process.stdin.close()
            self._process.wait(limit)
        except subprocess.TimeoutExpired:
            reason = f"not done after {limit:g} s"
        except OSError:
            pass  # it ended before it could listen; what it said follows
        self.end()
        machine = next((json.loads(line[len(MACHINE) :]) for line in self._said if line.startswith(MACHINE)), {})
        rows = {
            row["case"]: row for line in self._said if line.startswith(ROW) for row in [json.loads(line[len(ROW) :])]
        }
        reason = reason or f"its process ended with {self._process.returncode}"
        lost = [name for name in names if name not in rows]
        for name in lost:  # it ended in the first of them
            rows[name] = missing(name, False, reason, "".join(self._said[-30:]) if name == lost[0] else "")
        return machine, [rows[name] for name in names]

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(5)
        self._folder.cleanup()


def missing(name: str, ok: bool | None, reason: str, detail: str = "") -> Row:
    return {"case": name, "ok": ok, "reason": reason} | ({"detail": detail} if detail else {})


def work(arguments: argparse.Namespace) -> None:
    """A case's process: load, wait for names, answer with a row each."""
    import diffusers  # noqa: F401  what takes long to load is loaded before the waiting
    import transformers  # noqa: F401
    from accelerate.state import AcceleratorState

    from benchmarks import gpu_cases

    for line in sys.stdin:
        # Only now is the card touched: the case before has had it for itself.
        device = gpu_cases.device_of(arguments.device)
        print(MACHINE + json.dumps(facts_of(device)), flush=True)
        AcceleratorState._reset_state(reset_partial_state=True)  # it refuses a second precision in one process
        name = line.strip()
        folder = arguments.worker / name.replace(" ", "_")
        folder.mkdir()
        row = gpu_cases.check_case(name, gpu_cases.Place(folder, device, arguments.tiny))
        print(ROW + json.dumps(row, default=str), flush=True)


def facts_of(device: Any) -> Row:
    """Card, driver and versions."""
    import torch

    from lora_core.train.device import describe

    row: Row = {"device": describe(device), "system": platform.platform(), "python": platform.python_version()}
    row["cores"] = os.cpu_count()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        row["memory_gb"] = round(properties.total_memory / 2**30, 1)
        row["capability"] = f"{properties.major}.{properties.minor}"
        row["driver"], row["cuda"], row["cudnn"] = driver(), torch.version.cuda, torch.backends.cudnn.version()
    return row | {"versions": {package: installed(package) for package in PACKAGES}}


def driver() -> str | None:
    """Version of NVIDIA's driver, if its tool is there."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return None


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# ---- The report ------------------------------------------------------------------------------------------------------

COLUMNS: Mapping[str, str] = {
    "case": "case",
    "ok": "result",
    "step_s": "s/step",
    "spread_s": "spread",
    "training_peak_gb": "peak GB",
    "training_reserved_gb": "reserved GB",
    "preparing_peak_gb": "peak before",
    "sampling_peak_gb": "peak sampling",
    "prepare_s": "prepare s",
    "loss_first": "loss first",
    "loss_last": "last",
    "opens_in_diffusers": "diffusers",
    "waits": "waits",
    "reason": "remark",
}
"""What is measured -> how its column is called."""


def table(machine: Row, rows: Sequence[Row]) -> str:
    """The report in Markdown."""
    named = {key: value for key, value in machine.items() if key != "versions" and value is not None}
    packages = ", ".join(f"{name} {number}" for name, number in machine.get("versions", {}).items() if number)
    lines = [
        "# Graphics card check",
        "",
        *(f"* {key.replace('_gb', ' (GB)')}: {value}" for key, value in named.items()),
        f"* packages: {packages}",
        "",
        f"| {' | '.join(COLUMNS.values())} |",
        f"| {' | '.join('---' for _ in COLUMNS)} |",
        *(f"| {' | '.join(cell(row, key) for key in COLUMNS)} |" for row in rows),
        "",
    ]
    waits = [f"* {row['case']}: {where} ({count} ×)" for row in rows for where, count in row.get("waits", {}).items()]
    if waits:
        lines += ["Where a step waits for the card:", "", *waits, ""]
    return "\n".join(lines)


def cell(row: Row, key: str) -> str:
    value = row.get(key)
    if key == "ok":
        return {True: "ok", False: "FAILED", None: "left out"}[value]
    if key == "reason":
        return (value or remark(row)).replace("|", "/")
    if key == "waits":
        return "" if value is None else str(sum(value.values()))
    return "" if value is None else {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value}"


def remark(row: Row) -> str:
    """What a case has found that has no column."""
    known = {
        "resumed_lora_differs": "resumed LoRA differs by {:.2g}",
        "resumed_loss_differs": "losses by {:.2g}",
        "preview_s": "preview of a merge {:g} s",
        "load_s": "load {:g} s",
        "load_again_s": "again {:g} s",
        "model_gb": "{:g} GB",
    }
    return ", ".join(text.format(row[key]) for key, text in known.items() if key in row)


def said(row: Row) -> str:
    """One line for the screen while the cases run."""
    step = f"{row['step_s']} s/step" if "step_s" in row else ""
    return "  ".join(filter(None, (row["case"], cell(row, "ok"), step, cell(row, "reason"))))


if __name__ == "__main__":
    main()
