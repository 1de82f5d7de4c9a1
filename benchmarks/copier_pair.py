"""What a copier LoRA of two pictures changes in pictures it never saw, and what it leaves alone.

Two pairs are made of one picture of the sample dataset: in colour and in grey, and without and with a red bow. For
each, a LoRA is trained on the built-in model with the preset copier_difference, and bears are drawn without it and
with it from the same noise. The changed area is, for the grey pair, what has colour in the picture drawn without the
LoRA; for the bow, where the pair differs. The rest begins three pixels away from it.

    python benchmarks/copier_pair.py [--pictures FOLDER]

Takes a few minutes on two processor cores. With --pictures, sheets of what was drawn are written there.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lora_core.demo import REGULARISATION
from lora_core.demo.experiment import Experiment, compose
from lora_core.events import RunFinished
from lora_core.settings import RunSettings
from lora_core.settings.overlay import with_values
from lora_core.settings.presets import find_preset, lay_over
from lora_core.train.files import final_file
from lora_core.train.loop import train

SEEDS = (11, 12, 13, 14, 15, 16)
PICTURE = REGULARISATION / "1_bear" / "bear-01.png"
STRENGTHS = (-1.0, 0.5, 1.0)
RED, DARK_RED = "#e8263d", "#a8152b"
COLOURED = 0.1
"""Strongest minus weakest colour, 0 to 1, from which a place has colour."""


def in_grey(picture: Image.Image) -> Image.Image:
    return picture.convert("L").convert("RGB")


def with_bow(picture: Image.Image) -> Image.Image:
    """A red bow under the chin, drawn four times as large and scaled down."""
    large = picture.resize((256, 256), Image.Resampling.BICUBIC)
    pen, (x, y) = ImageDraw.Draw(large), (128, 228)
    for side in (-1, 1):
        pen.polygon([(x, y), (x + 52 * side, y - 28), (x + 52 * side, y + 28)], fill=RED)
    pen.ellipse((x - 16, y - 16, x + 16, y + 16), fill=DARK_RED)
    return large.resize(picture.size, Image.Resampling.LANCZOS)


EDITS: Mapping[str, Callable[[Image.Image], Image.Image]] = {"colour to grey": in_grey, "red bow": with_bow}


@dataclass(frozen=True)
class Measured:
    inside: float
    """Mean absolute change of the changed area, 0 to 1."""
    outside: float
    before: float
    """What the change is about, in the changed area: colour, or red over the other colours."""
    after: float

    @property
    def ratio(self) -> float:
        return self.outside / self.inside


def numbers(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) in [0, 1]."""
    return np.asarray(picture.convert("RGB"), dtype=np.float64) / 255


def colour(pixels: np.ndarray) -> np.ndarray:
    return pixels.max(axis=2) - pixels.min(axis=2)


def redness(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., 0] - pixels[..., 1:].mean(axis=2)


def grown(area: np.ndarray, pixels: int) -> np.ndarray:
    """The area and what is within so many pixels of it."""
    return np.asarray(Image.fromarray(area).convert("L").filter(ImageFilter.MaxFilter(2 * pixels + 1))) > 0


def measure(name: str, without: Image.Image, with_it: Image.Image, bow: np.ndarray) -> Measured:
    one, other = numbers(without), numbers(with_it)
    area = colour(one) > COLOURED if name == "colour to grey" else bow
    amount = colour if name == "colour to grey" else redness
    change, rest = np.abs(other - one).mean(axis=2), ~grown(area, 3)
    return Measured(change[area].mean(), change[rest].mean(), amount(one)[area].mean(), amount(other)[area].mean())


def trained(name: str, folder: Path) -> tuple[RunSettings, Path, int]:
    """Settings, LoRA and steps of a pair."""
    folder.mkdir(parents=True)
    before = Image.open(PICTURE).convert("RGB")
    files = {"pair_before": folder / "before.png", "pair_after": folder / "after.png"}
    before.save(files["pair_before"])
    EDITS[name](before).save(files["pair_after"])
    small = {"resolution": "64", "min_bucket_reso": 32, "max_bucket_reso": 128, "bucket_reso_steps": 16}
    dataset = {f"dataset.{key}": value for key, value in {**files, **small, "trigger_words": "bear"}.items()}
    own = {"model.base": "built-in", "save.output_dir": folder, "save.output_name": "copier", "train.seed": 1}
    sample = {"sample.steps": 16, "sample.guidance": 3.0, "train.mixed_precision": "no", "train.device": "cpu"}
    settings = with_values(lay_over(RunSettings(), find_preset("copier_difference")), {**dataset, **own, **sample})
    steps = [event.step for event in train(settings) if isinstance(event, RunFinished)]
    return settings, final_file(settings.save), steps[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path)
    pictures = parser.parse_args().pictures
    before = numbers(Image.open(PICTURE))
    bow = grown(np.abs(numbers(with_bow(Image.open(PICTURE).convert("RGB"))) - before).max(axis=2) > 0.1, 1)
    print("| pair | strength | steps | changed area | rest | rest / changed | colour or red in it |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for index, name in enumerate(EDITS):
            settings, lora, steps = trained(name, Path(folder) / str(index))
            experiment = Experiment.load(settings, lora)
            without = [experiment.picture("bear", seed, on=False) for seed in SEEDS]
            for strength in STRENGTHS:
                experiment.network.multiplier = strength
                with_it = [experiment.picture("bear", seed, on=True) for seed in SEEDS]
                found = [measure(name, *both, bow) for both in zip(without, with_it, strict=True)]
                inside, outside, was, now = (
                    float(np.mean([getattr(one, key) for one in found]))
                    for key in ("inside", "outside", "before", "after")
                )
                row = f"| {name} | {strength:+g} | {steps} | {inside:.3f} | {outside:.3f} | {outside / inside:.0%} "
                print(f"{row}| {was:.3f} → {now:.3f} |", flush=True)
                if pictures is not None:
                    pictures.mkdir(parents=True, exist_ok=True)
                    sheet = compose([("bear", [without, with_it])], ("without", f"with, {strength:+g}"))
                    sheet.save(pictures / f"copier_{index}_{strength:+g}.png")


if __name__ == "__main__":
    main()
