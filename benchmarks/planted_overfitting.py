"""Six runs that over-fit sooner or later, and whether the verdict finds where, from a few held-out pictures.

    OMP_NUM_THREADS=1 python benchmarks/planted_overfitting.py --write docs/overfitting.md docs/overfitting.ja.md

The built-in model learns the sample character from 4 pictures. The verdict (lora_core/verdict.py) sees 5 others, as a
run with a small validation folder does; the truth is the epoch of the lowest mean loss on 32 more. All are drawn by
tools/draw_usu_bear.py and measured in the same run at the same noise levels, but the two groups share neither pictures
nor noise. As five pictures may be lucky, each run is judged again from 200 other fives of these 37, against the rest.

The measurements of a run go to ``out``/<run>.jsonl as soon as it is done; a run that is there is not done again, so
that writing the table once more takes seconds. Small models gain nothing from several threads, which wait for one
another where other work runs: OMP_NUM_THREADS=1, and a second call with other --runs where a core is left.
"""

import argparse
import random
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lora_core.events import ValidationDone
from lora_core.i18n import Language
from lora_core.io.writing import replacing
from lora_core.settings import RunSettings
from lora_core.settings.presets import DEMO_DATASET
from lora_core.verdict import judge
from tools.draw_usu_bear import BACKGROUNDS, Scene, draw_scene

TRAINED, SEEN_BY_VERDICT, TRUTH = 4, 5, 32
"""Pictures."""
MOODS = ("smiling", "laughing", "winking", "sleeping", "surprised")
POSES = ("face", "bust", "standing", "waving", "cheering", "sitting")
OTHER_FIVES = 200
History = Sequence[ValidationDone]


@dataclass(frozen=True)
class Planted:
    """A run. What is not said is as in the first."""

    title: str
    title_ja: str
    epochs: int = 10
    """Enough to see it over-fit: the slower it learns, the more."""
    rate: float = 1.0
    """The demo's learning rates times so much."""
    rank: int = 16
    repeats: int = 20
    reg: bool = False
    """With the demo's regularisation images."""


RUNS: Mapping[str, Planted] = {
    "plain": Planted("plain", "基準"),
    "high_rate": Planted("learning rate × 2", "学習率 2 倍", epochs=8, rate=2.0),
    "low_rate": Planted("learning rate × 0.5", "学習率 0.5 倍", epochs=16, rate=0.5),
    "high_rank": Planted("rank 64", "rank 64", rank=64),
    "many_repeats": Planted("repeats 40 instead of 20", "繰り返し 40（基準は 20）", epochs=8, repeats=40),
    "regularised": Planted("with regularisation images", "正則化画像あり", reg=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--levels", type=int, default=8, help="noise levels each picture is measured at")
    parser.add_argument("--out", type=Path, default=Path("output/planted_overfitting"))
    parser.add_argument("--write", nargs="+", type=Path, default=(), metavar="PAGE", help="pages to put the table into")
    arguments = parser.parse_args()
    for name in arguments.runs:
        file = arguments.out / f"{name}.jsonl"
        if not file.exists():
            began = time.monotonic()
            history = []
            for event in measurements(settings_of(arguments.out / name, RUNS[name], arguments.levels)):
                history.append(event)
                seconds = time.monotonic() - began
                print(
                    f"{name}: epoch {event.epoch} of {RUNS[name].epochs}, {seconds:.0f} s", file=sys.stderr, flush=True
                )
            keep(file, history)
            shutil.rmtree(arguments.out / name)
    rows = [row_of(name, kept(file)) for name in RUNS if (file := arguments.out / f"{name}.jsonl").exists()]
    print(table(rows, "en"))
    for page in arguments.write:
        page.write_text(with_table(page.read_text("utf-8"), table(rows, language_of(page))), encoding="utf-8")


# ---- a run -----------------------------------------------------------------------------------------------------------


def measurements(settings: RunSettings) -> Iterator[ValidationDone]:
    """Train; what was measured before the first step and after each epoch."""
    from lora_core.train.loop import train

    return (event for event in train(settings) if isinstance(event, ValidationDone))


def keep(file: Path, history: History) -> None:
    with replacing(file) as new:
        new.write_text("".join(event.model_dump_json() + "\n" for event in history), encoding="utf-8")


def kept(file: Path) -> list[ValidationDone]:
    return [ValidationDone.model_validate_json(line) for line in file.read_text("utf-8").splitlines()]


def scenes() -> list[Scene]:
    """Of all pictures: those trained on, those that the verdict sees, those that are the truth. Always the same."""
    rng = random.Random(0)
    return [
        Scene(
            pose=rng.choice(POSES),
            mood=rng.choice(MOODS),
            background=rng.choice(sorted(BACKGROUNDS)),
            zoom=rng.uniform(0.8, 1.0),
            shift=(rng.uniform(-0.06, 0.06), rng.uniform(-0.04, 0.04)),
            tilt=rng.uniform(-12, 12),
        )
        for _ in range(TRAINED + SEEN_BY_VERDICT + TRUTH)
    ]


def name_of(number: int) -> str:
    return f"{number:02}.png"


def groups() -> tuple[set[str], set[str]]:
    """Names of the pictures that the verdict sees, and of those that are the truth."""
    first = TRAINED + SEEN_BY_VERDICT
    return {name_of(n) for n in range(TRAINED, first)}, {name_of(n) for n in range(first, first + TRUTH)}


def write_pictures(train_dir: Path, apart: Path) -> None:
    for number, scene in enumerate(scenes()):
        file = (train_dir if number < TRAINED else apart) / name_of(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        draw_scene(scene).save(file)
        file.with_suffix(".txt").write_text(scene.caption, encoding="utf-8")


def settings_of(folder: Path, planted: Planted, levels: int) -> RunSettings:
    """The demo's, with the pictures laid out under ``folder`` and a rate that does not fall: a falling one would stop
    the learning before it over-fits, at an epoch that depends on how many there are.
    """
    shutil.rmtree(folder, ignore_errors=True)
    apart = folder / "apart"
    write_pictures(folder / "train" / f"{planted.repeats}_usu bear", apart)
    return RunSettings.model_validate(
        {
            "model": {"base": "built-in"},
            "dataset": {
                "train_dir": folder / "train",
                "reg_dir": DEMO_DATASET / "reg" if planted.reg else None,
                "resolution": "64",
                "min_bucket_reso": 32,
                "max_bucket_reso": 128,
                "bucket_reso_steps": 16,
            },
            "network": {"rank": planted.rank, "alpha": float(planted.rank)},
            "optimizer": {"name": "AdamW"},
            "schedule": {"name": "constant"},
            "train": {
                "train_batch_size": 4,
                "epochs": planted.epochs,
                "learning_rate": 1.5e-3 * planted.rate,
                "text_encoder_lr": 4e-3 * planted.rate,
                "device": "cpu",
                "mixed_precision": "no",  # so that the numbers do not depend on the processor
                "seed": 1,
            },
            "validation": {
                "every_n_epochs": 1,
                "folder": apart,
                "max_pictures": 100,
                "timesteps": levels,
                "class_prompt": "bear",
                "unrelated_prompts": "cat",
            },
            "save": {"output_dir": folder / "out", "output_name": "usu", "save_every_n_epochs": None},
        }
    )


# ---- judging ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """The verdict on a run beside the truth."""

    planted: Planted
    border: int
    low: int
    high: int
    copies_from: int | None
    true: int
    others_near: float
    """Share of other fives whose border is within an epoch of the minimum on the rest."""
    losses: tuple[float, float, float]
    """On the pictures that are the truth: of the source model, at the true minimum, after the last epoch."""
    lost: float
    """How much higher the loss on those is at the border than at the true minimum, as a part of it."""
    fits: tuple[float, float]
    """On the trained pictures: at the true minimum, after the last epoch."""

    @property
    def apart(self) -> int:
        return abs(self.border - self.true)

    @property
    def over_fits(self) -> bool:
        """Whether the true minimum lies inside, so that there is something to be found."""
        before, lowest, last = self.losses
        return 0 < self.true < self.planted.epochs and lowest < min(before, last)


def row_of(name: str, history: History) -> Row:
    seen, truth = groups()
    found, curve = judge(only(history, seen)), only(history, truth)
    lowest = min(curve, key=loss_of)
    at_lowest = next(event for event in history if event.epoch == lowest.epoch)
    return Row(
        planted=RUNS[name],
        border=found.border,
        low=found.low,
        high=found.high,
        copies_from=found.copies_from,
        true=lowest.epoch,
        others_near=others_near(history),
        lost=loss_of(next(event for event in curve if event.epoch == found.border)) / loss_of(lowest) - 1,
        losses=(loss_of(curve[0]), loss_of(lowest), loss_of(curve[-1])),
        fits=(at_lowest.fit, history[-1].fit),
    )


def only(history: History, names: set[str]) -> list[ValidationDone]:
    """The measurements as if these were the only pictures held out."""
    found = []
    for event in history:
        pictures = [picture for picture in event.pictures if not picture.held_out or picture.name in names]
        losses = [picture.loss for picture in pictures if picture.held_out]
        update = {"pictures": pictures, "generalisation": sum(losses) / len(losses)}
        found.append(event.model_copy(update=update))
    return found


def loss_of(event: ValidationDone) -> float:
    assert event.generalisation is not None
    return event.generalisation


def others_near(history: History) -> float:
    """How often five pictures drawn by chance are within an epoch of the rest."""
    names = sorted(picture.name for picture in history[0].pictures if picture.held_out)
    rng = random.Random(0)
    near = 0
    for _ in range(OTHER_FIVES):
        seen = set(rng.sample(names, SEEN_BY_VERDICT))
        true = min(only(history, set(names) - seen), key=loss_of).epoch
        near += abs(judge(only(history, seen)).border - true) <= 1
    return near / OTHER_FIVES


# ---- the table -------------------------------------------------------------------------------------------------------

BEGIN, END = "<!-- written by benchmarks/planted_overfitting.py -->", "<!-- end -->"
WORDS: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "head": "| run | verdict | interval | copies from | true minimum | apart | loss above it | other fives near "
        "| unseen: before, lowest, last | trained: there, last |",
        "near": "Within one epoch of the true minimum: {near} of {all}; other fives: {others:.0%}. "
        "True minimum inside the interval: {inside} of {all}.",
        "flat": "Did not over-fit within their epochs: {names}.",
        "interval": "{low} to {high}",
    },
    "ja": {
        "head": "| 学習 | 判定 | 範囲 | 丸写し | 真の最小 | 差 | 損失の差 | 別の 5 枚で 1 以内 "
        "| 未学習：最初、最小、最後 | 学習画像：その時、最後 |",
        "near": "真の最小との差が 1 エポック以内：{all} 回中 {near} 回（別の 5 枚では {others:.0%}）。"
        "範囲が真の最小を含む：{all} 回中 {inside} 回。",
        "flat": "最後まで過学習しなかったもの：{names}。",
        "interval": "{low}〜{high}",
    },
}


def language_of(page: Path) -> Language:
    return "ja" if page.name.endswith(".ja.md") else "en"


def table(rows: Sequence[Row], language: Language) -> str:
    words = WORDS[language]
    columns = words["head"].count("|") - 1
    lines = [words["head"], "| --- " + "| ---: " * (columns - 1) + "|"]
    for row in rows:
        cells = (
            title_of(row, language),
            row.border,
            words["interval"].format(low=row.low, high=row.high),
            row.copies_from or "-",
            row.true,
            row.apart,
            f"{row.lost:.1%}",
            f"{row.others_near:.0%}",
            ", ".join(f"{loss:.4f}" for loss in row.losses),
            ", ".join(f"{loss:.4f}" for loss in row.fits),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    counts = {
        "near": sum(row.apart <= 1 for row in rows),
        "inside": sum(row.low <= row.true <= row.high for row in rows),
        "all": len(rows),
        "others": sum(row.others_near for row in rows) / max(len(rows), 1),
    }
    lines += ["", words["near"].format(**counts)]
    if flat := [title_of(row, language) for row in rows if not row.over_fits]:
        lines.append(words["flat"].format(names=", ".join(flat)))
    return "\n".join(lines)


def title_of(row: Row, language: Language) -> str:
    return row.planted.title_ja if language == "ja" else row.planted.title


def with_table(page: str, written: str) -> str:
    """The page with the table between its two marks. Raises ValueError if they are not there."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no place for the table: {BEGIN} and {END} belong around it")
    return f"{before}{begin}\n\n{written}\n\n{end}{after}"


if __name__ == "__main__":
    main()
