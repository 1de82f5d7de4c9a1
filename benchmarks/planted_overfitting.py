"""Six runs that over-fit sooner or later, and whether the verdict finds where, from a few held-out pictures.

    python benchmarks/planted_overfitting.py [--epochs 10] [--runs plain,high_rate] [--out folder]

The built-in model learns the sample character from 7 of its 24 pictures. The verdict (lora_core/verdict.py) sees 5
more, as a run with a held-out share would; the other 12 are the truth: the epoch of the lowest mean loss on them. All
17 are measured in the same run at the same noise levels, but the two groups share neither pictures nor noise. One line
a run goes to ``out``/results.jsonl as soon as it is done, so that a run that is there is not done again, and the table
is printed.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lora_core.events import ValidationDone
from lora_core.settings import RunSettings
from lora_core.settings.presets import DEMO_DATASET
from lora_core.train.loop import train
from lora_core.verdict import best_epoch, judge

TRAINED, SEEN_BY_VERDICT = 7, 5

PLANTED: dict[str, dict[str, Any]] = {
    "plain": {},
    "high_rate": {"rate": 3.0},
    "low_rate": {"rate": 0.4},
    "high_rank": {"rank": 64},
    "many_repeats": {"repeats": 10},
    "regularised": {"reg": True},
}
"""What differs from the first: learning rate times so much, rank and alpha, repeats, regularisation images."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--levels", type=int, default=6, help="noise levels each picture is measured at")
    parser.add_argument("--runs", default=",".join(PLANTED))
    parser.add_argument("--out", type=Path, default=Path("output/planted_overfitting"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = arguments.out / "results.jsonl"
    for name in arguments.runs.split(","):
        if name in {row["name"] for row in rows_of(results)}:
            continue
        row = one_run(name, arguments.out / name, arguments.epochs, arguments.levels)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(f"{name}: {row['words']} ({row['seconds']:.0f} s)", flush=True)
    print(table(rows_of(results)))


def rows_of(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()] if results.exists() else []


def one_run(name: str, folder: Path, epochs: int, levels: int) -> dict[str, Any]:
    """Train, and compare the verdict with the truth."""
    began = time.time()
    shutil.rmtree(folder, ignore_errors=True)
    settings = settings_of(folder, epochs, levels, **PLANTED[name])
    history = [event for event in train(settings) if isinstance(event, ValidationDone)]
    seen, truth = (list(only(history, group)) for group in groups())
    found = judge(seen)
    return {
        "name": name,
        "kind": found.kind,
        "border": best_epoch(seen),
        "low": found.low,
        "high": found.high,
        "copies_from": found.copies_from,
        "true": best_epoch(truth),
        "fit": [event.fit for event in history],
        "seen": [event.generalisation for event in seen],
        "truth": [event.generalisation for event in truth],
        "drift": [event.drift_unrelated for event in history],
        "words": found.words("en"),
        "seconds": time.time() - began,
    }


def pictures() -> list[Path]:
    """The 24 pictures of the character, in a fixed order."""
    trained = sorted((DEMO_DATASET / "train").rglob("*.png"))
    return trained + sorted((DEMO_DATASET / "heldout").glob("*.png"))


def new_name(number: int) -> str:
    return f"{number:02}.png"


def groups() -> tuple[set[str], set[str]]:
    """Names of the pictures the verdict sees, and of those that are the truth: every third to the first."""
    apart = [new_name(number) for number in range(TRAINED, len(pictures()))]
    seen = set(apart[::3][:SEEN_BY_VERDICT])
    return seen, set(apart) - seen


def only(history: Sequence[ValidationDone], names: set[str]) -> Iterator[ValidationDone]:
    """The measurements as if these were the only pictures held out."""
    for event in history:
        kept = [picture for picture in event.pictures if not picture.held_out or picture.name in names]
        losses = [picture.loss for picture in kept if picture.held_out]
        yield event.model_copy(update={"pictures": kept, "generalisation": sum(losses) / len(losses)})


def settings_of(
    folder: Path, epochs: int, levels: int, *, rate: float = 1.0, rank: int = 16, repeats: int = 4, reg: bool = False
) -> RunSettings:
    """The demo's settings with few pictures, laid out under ``folder``."""
    train_dir, apart = folder / "train" / f"{repeats}_usu bear", folder / "apart"
    train_dir.mkdir(parents=True)
    apart.mkdir()
    for number, path in enumerate(pictures()):
        target = (train_dir if number < TRAINED else apart) / new_name(number)
        shutil.copy(path, target)
        shutil.copy(path.with_suffix(".txt"), target.with_suffix(".txt"))
    return RunSettings(
        model={"base": "built-in"},
        dataset={
            "train_dir": train_dir.parent,
            "reg_dir": DEMO_DATASET / "reg" if reg else None,
            "resolution": "64",
            "min_bucket_reso": 32,
            "max_bucket_reso": 128,
            "bucket_reso_steps": 16,
        },
        network={"rank": rank, "alpha": float(rank)},
        optimizer={"name": "AdamW"},
        train={
            "train_batch_size": 4,
            "epochs": epochs,
            "learning_rate": 1.5e-3 * rate,
            "text_encoder_lr": 4e-3 * rate,
            "device": "cpu",
        },
        validation={
            "every_n_epochs": 1,
            "folder": apart,
            "max_pictures": 100,
            "timesteps": levels,
            "class_prompt": "bear",
            "unrelated_prompts": "cat\nred heart",
        },
        save={"output_dir": folder / "out", "output_name": "usu", "save_every_n_epochs": None, "overwrite": True},
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """For docs/overfitting.md."""
    lines = [
        "| run | verdict | interval | copies from | true minimum | apart |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        apart = abs(row["border"] - row["true"])
        cells = (
            row["name"],
            row["border"],
            f"{row['low']} to {row['high']}",
            row["copies_from"] or "-",
            row["true"],
            apart,
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    near = sum(abs(row["border"] - row["true"]) <= 1 for row in rows)
    return "\n".join([*lines, "", f"Within one epoch of the true minimum: {near} of {len(rows)}."])


if __name__ == "__main__":
    main()
