"""What a copier LoRA of two pictures changes in pictures it never saw, and what it leaves alone.

Two pairs are made of one picture of the sample dataset: in colour and in grey, and without and with a red bow. For
each, a LoRA is made on the built-in model, in up to three ways:

* fast: trained on the difference of the pair, with the preset copier_difference;
* A, B: the preset copier on each picture, then B - A by SVD; 600 steps at 1e-3 with alpha = rank instead of 4,000 at
  1e-4 with alpha 1, which is as far as the small model needs to draw the picture without a prompt;
* A, on: the same, but B goes on from A instead of from nothing.

It is tried on six bears from other seeds, with and without the LoRA from the same noise: drawn from nothing, and (like
"image to image" at 0.5) redrawn from half the noise. Strength 1 is given bears as the model draws them; strength -1
takes away, so it is redrawn from bears that have what it takes: the same six, edited as the pair was.

The changed area is, for the grey pair, what has colour in the bear; for the bow, where the pair differs. The rest
begins three pixels away from it.

    python benchmarks/copier_pair.py [--way fast "A, B" "A, on"] [--pictures FOLDER]

The fast way takes a few minutes on two processor cores, each of the others about ten. With --pictures, sheets of what
was drawn are written there.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lora_core.demo import REGULARISATION
from lora_core.demo.experiment import Experiment, compose
from lora_core.events import RunFinished
from lora_core.generate.draw import to_image
from lora_core.generate.samplers import guided, make_scheduler
from lora_core.merge.combine import merge
from lora_core.settings import RunSettings
from lora_core.settings.overlay import with_values
from lora_core.settings.presets import find_preset, lay_over
from lora_core.settings.tools import LoraSource, MergeSettings
from lora_core.train.files import final_file
from lora_core.train.loop import train

SEEDS = (11, 12, 13, 14, 15, 16)
PICTURE = REGULARISATION / "1_bear" / "bear-01.png"
STRENGTHS = (-1.0, 0.5, 1.0)
NOISE = 0.5
"""Share of the steps that a redrawn picture goes through."""
SMALL = {"resolution": "64", "min_bucket_reso": 32, "max_bucket_reso": 128, "bucket_reso_steps": 16}
OVER_FITTED = {"optimizer.name": "AdamW", "network.alpha": 8.0, "train.learning_rate": 1e-3, "train.epochs": 600}
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


def saved_pair(name: str, folder: Path) -> tuple[Path, Path]:
    """The picture before and the one after, as files."""
    folder.mkdir(parents=True, exist_ok=True)
    before, paths = Image.open(PICTURE).convert("RGB"), (folder / "before.png", folder / "after.png")
    before.save(paths[0])
    EDITS[name](before).save(paths[1])
    return paths


def common(folder: Path, output_name: str) -> dict[str, object]:
    """Settings of every training here."""
    own = {"model.base": "built-in", "save.output_dir": folder, "save.output_name": output_name, "train.seed": 1}
    sample = {"sample.steps": 16, "sample.guidance": 3.0, "train.mixed_precision": "no", "train.device": "cpu"}
    return own | sample | {f"dataset.{key}": value for key, value in SMALL.items()}


def finished(settings: RunSettings) -> tuple[Path, int]:
    """The LoRA of a training, and its steps."""
    steps = [event.step for event in train(settings) if isinstance(event, RunFinished)]
    return final_file(settings.save), steps[0]


def fast(name: str, folder: Path, hold: float | None = None) -> tuple[RunSettings, Path, int]:
    """Settings, LoRA and steps of a pair, trained on its difference; ``hold`` in place of the preset's pair_outside."""
    before, after = saved_pair(name, folder)
    pair = {"dataset.pair_before": before, "dataset.pair_after": after, "dataset.trigger_words": "bear"}
    settings = with_values(lay_over(RunSettings(), find_preset("copier_difference")), common(folder, "copier") | pair)
    settings = settings if hold is None else with_values(settings, {"loss.pair_outside": hold})
    return settings, *finished(settings)


def learned(picture: Path, folder: Path, output_name: str, start: Path | None = None) -> tuple[RunSettings, Path, int]:
    """A picture learned by heart, without a caption."""
    alone = folder / output_name
    alone.mkdir()
    (alone / "picture.png").write_bytes(picture.read_bytes())
    (alone / "picture.txt").touch()
    own = {"dataset.train_dir": alone, "network.network_weights": start}
    rare = {"save.save_every_n_epochs": None, "sample.every_n_epochs": None, "save.save_precision": "float"}
    base = lay_over(RunSettings(), find_preset("copier"))
    settings = with_values(base, {**common(folder, output_name), **OVER_FITTED, **own, **rare})
    return settings, *finished(settings)


def by_difference(name: str, folder: Path, *, goes_on: bool, layers: str = "") -> tuple[RunSettings, Path, int]:
    """Settings, LoRA and steps of B - A, with layer weights."""
    before, after = saved_pair(name, folder)
    _, a, first = learned(before, folder, "a")
    settings, b, second = learned(after, folder, "b", a if goes_on else None)
    loras = [LoraSource(path=path, ratio=ratio, block_weights=layers) for path, ratio in ((b, 1), (a, -1))]
    output = folder / "copier.safetensors"
    for _ in merge(MergeSettings(loras=loras, output=output)):
        pass
    return settings, output, first + second


WAYS: Mapping[str, Callable[[str, Path], tuple[RunSettings, Path, int]]] = {
    "fast": fast,
    "A, B": partial(by_difference, goes_on=False),
    "A, on": partial(by_difference, goes_on=True),
}


@torch.no_grad()
def redrawn(experiment: Experiment, picture: Image.Image, seed: int, *, on: bool, steps: int = 20) -> Image.Image:
    """A picture drawn again from ``NOISE`` of the way (SDEdit, Meng et al. 2022), with the LoRA or without."""
    family, components, settings = experiment.family, experiment.components, experiment.settings
    process = family.noise_process(components)
    scheduler = make_scheduler("ddim", process)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps[round(steps * (1 - NOISE)) :]
    pixels = torch.from_numpy(numbers(picture)).permute(2, 0, 1)[None].float() * 2 - 1
    with experiment.switched(on):
        mean, _ = family.encode_images(components, pixels)
        latents = family.scale_latents(components, mean).float()
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
        latents = process.add_noise(latents, noise, timesteps[:1])
        told = family.encode_prompts(components, ["", "bear"], settings.model)
        for t in timesteps:
            both = family.predict(components, torch.cat([latents] * 2), torch.stack([t] * 2), told).float()
            step = scheduler.step(guided(*both.chunk(2), settings.sample.guidance), t, latents)
            latents = step.prev_sample
        return to_image(family.decode(components, latents)[0])


Pictures = list[Image.Image]


def tried(experiment: Experiment, name: str, strength: float, bears: Pictures) -> dict[str, tuple[Pictures, Pictures]]:
    """What a strength is tried on -> pictures without and with the LoRA."""
    experiment.network.multiplier = strength
    given = bears if strength > 0 else [EDITS[name](bear) for bear in bears]
    both = [[redrawn(experiment, *one, on=on) for one in zip(given, SEEDS, strict=True)] for on in (False, True)]
    drawn = [experiment.picture("bear", seed, on=True) for seed in SEEDS]
    kind = "redrawn" if strength > 0 else "redrawn, edited"
    return {"drawn": (bears, drawn), kind: (both[0], both[1])}


def row(name: str, without: Pictures, with_it: Pictures, bow: np.ndarray) -> str:
    found = [measure(name, *both, bow) for both in zip(without, with_it, strict=True)]
    inside, outside, was, now = (
        float(np.mean([getattr(one, key) for one in found])) for key in ("inside", "outside", "before", "after")
    )
    return f"{inside:.3f} | {outside:.3f} | {outside / inside:.0%} | {was:.3f} → {now:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--pair", nargs="*", choices=EDITS, default=list(EDITS))
    parser.add_argument("--hold", type=float, help="loss.pair_outside of the fast way, in place of the preset's")
    parser.add_argument("--layers", default="", help="layer weights of B - A")
    parser.add_argument("--pictures", type=Path)
    arguments = parser.parse_args()
    own = {way: {"hold": arguments.hold} if way == "fast" else {"layers": arguments.layers} for way in WAYS}
    ways = {way: partial(make, **own[way]) for way, make in WAYS.items()}
    before = numbers(Image.open(PICTURE))
    bow = grown(np.abs(numbers(with_bow(Image.open(PICTURE).convert("RGB"))) - before).max(axis=2) > 0.1, 1)
    print("| pair | way | steps | strength | bears | changed area | rest | rest / changed | colour or red in it |")
    print("| --- | --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, way) in enumerate((name, way) for name in arguments.pair for way in arguments.way):
            settings, lora, steps = ways[way](name, Path(folder) / str(number))
            experiment = Experiment.load(settings, lora)
            bears = [experiment.picture("bear", seed, on=False) for seed in SEEDS]
            for strength in STRENGTHS:
                for kind, (without, with_it) in tried(experiment, name, strength, bears).items():
                    measured = row(name, without, with_it, bow)
                    print(f"| {name} | {way} | {steps} | {strength:+g} | {kind} | {measured} |", flush=True)
                    if arguments.pictures is not None:
                        arguments.pictures.mkdir(parents=True, exist_ok=True)
                        sheet = compose([("bear", [without, with_it])], ("without", f"with, {strength:+g}"))
                        sheet.save(arguments.pictures / f"copier_{number}_{strength:+g}_{kind[-6:]}.png")


if __name__ == "__main__":
    main()
