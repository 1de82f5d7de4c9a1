"""What a concept slider does to pictures it never saw, at strengths from -2 to 2, and what it leaves alone.

The built-in model and the preset slider: once from prompts ("bear", more "blue bear", less "red bear"), without any
picture, and once from two folders without pairs, eight red and eight blue bears that the model drew. Bears are then
drawn from other seeds. In the area of the bear (what is not white without the LoRA) the blue minus the red is measured,
and how many of the bears become bluer with every strength; in the rest, the mean change.

    python benchmarks/concept_slider.py [--pictures FOLDER]

Takes a few minutes on two processor cores. With --pictures, a sheet of what was drawn is written there for each.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lora_core.demo.experiment import CELL, GAP, Experiment
from lora_core.events import RunFinished
from lora_core.families import FAMILIES
from lora_core.generate.draw import draw
from lora_core.generate.prompts import SamplePrompt
from lora_core.settings import RunSettings
from lora_core.settings.overlay import with_values
from lora_core.settings.presets import find_preset, lay_over
from lora_core.train.files import final_file
from lora_core.train.loop import train

SEEDS = (11, 12, 13, 14, 15, 16)
STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)
WHITE = 0.9
"""Weakest colour, 0 to 1, from which a place is background."""
OWN: Mapping[str, Any] = {
    "model.base": "built-in",
    "dataset.resolution": "64",
    "dataset.min_bucket_reso": 32,
    "dataset.max_bucket_reso": 128,
    "dataset.bucket_reso_steps": 16,
    "dataset.trigger_words": "bear",
    "train.seed": 1,
    "train.device": "cpu",
    "train.mixed_precision": "no",
    "sample.steps": 16,
    "sample.guidance": 3.0,
    "sample.sampler": "ddim",
    "save.output_name": "slider",
}


def numbers(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) in [0, 1]."""
    return np.asarray(picture.convert("RGB"), dtype=np.float64) / 255


def blueness(pixels: np.ndarray, area: np.ndarray) -> float:
    return float((pixels[..., 2] - pixels[..., 0])[area].mean())


def drawn_sets(root: Path) -> dict[str, Path]:
    """Eight red and eight blue bears, each from a seed of its own, as the built-in model draws them."""
    settings = with_values(RunSettings(), OWN)
    family = FAMILIES["sd1"]
    components = family.load(settings.model, dtype=torch.float32, device=torch.device("cpu"))
    for start, colour in ((100, "red"), (200, "blue")):
        (root / colour).mkdir(parents=True)
        for seed in range(start, start + 8):
            prompt = SamplePrompt(f"{colour} bear", seed=seed)
            image = draw(family, components, prompt, settings.sample, settings.model).image
            image.save(root / colour / f"{seed}.png")
    return {"dataset.pair_before": root / "red", "dataset.pair_after": root / "blue"}


def trained(own: Mapping[str, Any], folder: Path) -> tuple[RunSettings, int]:
    """Settings and steps of a run of the preset."""
    settings = with_values(lay_over(RunSettings(), find_preset("slider")), {**OWN, **own, "save.output_dir": folder})
    steps = [event.step for event in train(settings) if isinstance(event, RunFinished)]
    return settings, steps[0]


def pictures_at(settings: RunSettings) -> dict[float, list[Image.Image]]:
    """Bears of all seeds at every strength."""
    experiment = Experiment.load(settings, final_file(settings.save))
    found = {}
    for strength in STRENGTHS:
        experiment.network.multiplier = strength
        found[strength] = [experiment.picture("bear", seed, on=strength != 0) for seed in SEEDS]
    return found


def report(name: str, steps: int, found: Mapping[float, Sequence[Image.Image]]) -> None:
    bases = [numbers(picture) for picture in found[0.0]]
    areas = [base.min(axis=2) < WHITE for base in bases]
    blue = {
        strength: [blueness(numbers(picture), area) for picture, area in zip(pictures, areas, strict=True)]
        for strength, pictures in found.items()
    }
    rising = sum(all(np.diff([blue[strength][number] for strength in STRENGTHS]) > 0) for number in range(len(SEEDS)))
    for strength in STRENGTHS:
        rest = [
            np.abs(numbers(picture) - base)[~area].mean()
            for picture, base, area in zip(found[strength], bases, areas, strict=True)
        ]
        print(
            f"| {name} | {steps} | {strength:+g} | {np.mean(blue[strength]):+.3f} | {np.mean(rest):.3f} |", flush=True
        )
    print(f"{name}: {rising} of {len(SEEDS)} bears bluer at every strength than at the one before", file=sys.stderr)


def sheet(found: Mapping[float, Sequence[Image.Image]]) -> Image.Image:
    """A row for each seed, a column for each strength."""
    side = CELL + GAP
    made = Image.new("RGB", (len(found) * side + GAP, len(SEEDS) * side + GAP), "white")
    for column, pictures in enumerate(found.values()):
        for row, picture in enumerate(pictures):
            cell = picture.resize((CELL, CELL), Image.Resampling.LANCZOS)
            made.paste(cell, (GAP + column * side, GAP + row * side))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path)
    pictures = parser.parse_args().pictures
    prompts = {"slider.target": "bear", "slider.more": "blue bear", "slider.less": "red bear"}
    print("| slider | steps | strength | blue - red of the bear | change of the rest |")
    print("| --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as root:
        for name, own in (("prompts", prompts), ("two folders", drawn_sets(Path(root) / "sets"))):
            settings, steps = trained(own, Path(root) / name)
            found = pictures_at(settings)
            report(name, steps, found)
            if pictures is not None:
                pictures.mkdir(parents=True, exist_ok=True)
                sheet(found).save(pictures / f"slider_{name.replace(' ', '_')}.png")


if __name__ == "__main__":
    main()
