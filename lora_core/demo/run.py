"""``kumakobo demo``: train the sample LoRA on the built-in model and show, in pictures and numbers, what it does."""

import json
from collections.abc import Sequence
from pathlib import Path

from lora_core.demo import HELDOUT, REGULARISATION
from lora_core.events import CheckpointSaved
from lora_core.i18n import Language, text
from lora_core.runs import create_run, home
from lora_core.settings import RunSettings
from lora_core.settings.overlay import apply_overrides
from lora_core.settings.presets import apply_preset, find_preset
from lora_core.train.console import Console
from lora_core.train.files import free_name, sample_folder
from lora_core.train.runner import run_training

PROMPTS = ("usu bear", "usu bear, blue background", "bear", "cat", "red heart")
"""Drawn with and without the LoRA: the first two should change, the others should not."""
SEEDS = (1, 2, 3)


def run(output: Path | None, overrides: Sequence[str], language: Language) -> int:
    """Train, compare, say where everything is. Returns the exit code."""
    settings = demo_settings(output, overrides)
    print(text("demo.intro", language))
    folder = create_run(settings)
    code = run_training(settings, folder, Console(language))
    saved = [event.path for event in folder.read_events() if isinstance(event, CheckpointSaved)]
    if code or not saved:
        return code or 1
    show(settings, saved[-1], language)
    return 0


def demo_settings(output: Path | None, overrides: Sequence[str]) -> RunSettings:
    """The demo preset, into its own folder, under a name that is free."""
    settings = apply_preset(RunSettings(), find_preset("demo"))
    folder = output or settings.save.output_dir or home() / "output" / "demo"
    settings.save.output_dir = folder.absolute()
    settings = apply_overrides(settings, overrides)
    settings.save.output_name = free_name(settings.save)
    return settings


def show(settings: RunSettings, lora: Path, language: Language) -> None:
    """Draw with and without the LoRA, measure, and print the next step."""
    from lora_core.demo.experiment import Experiment

    print(text("demo.comparing", language))
    experiment = Experiment.load(settings, lora)
    before_after = lora.with_name(f"{lora.stem}_before_after.png")
    # In English on the picture: Pillow's own font has no Japanese, and the system may have none either.
    titles = (text("demo.without", "en"), text("demo.with", "en"))
    experiment.sheet(PROMPTS, SEEDS, titles).save(before_after)
    numbers = experiment.numbers(HELDOUT, REGULARISATION / "1_bear", "bear")
    measured = lora.with_name(f"{lora.stem}_comparison.json")
    measured.write_text(json.dumps(numbers, indent=2), encoding="utf-8")
    print(text("demo.numbers", language, **numbers))
    print(text("demo.done", language, lora=lora, samples=sample_folder(settings.save), picture=before_after))
