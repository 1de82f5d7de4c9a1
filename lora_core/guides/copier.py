"""Copier LoRA (コピー機LoRA) of two pictures: the preset for the model at hand, and nothing else in the way."""

import re
from pathlib import Path
from typing import Any

from lora_core.data.folders import scan
from lora_core.errors import Problem, UserError
from lora_core.guides.offers import settings_for_source, source_of
from lora_core.runs import home
from lora_core.settings import DatasetSettings, RunSettings
from lora_core.settings.overlay import with_values
from lora_core.settings.presets import apply_preset, find_preset
from lora_core.settings.slider import NO_SLIDER
from lora_core.train.files import free_name

PRESET = "copier_difference"
_FOLDERS = ("train_dir", "reg_dir", "config", "metadata_file", "mask_dir")


def problems_of(before: Path | None, after: Path | None) -> list[Problem]:
    """What keeps two pictures from being a pair, and what is worth a warning."""
    return list(scan(DatasetSettings(pair_before=before, pair_after=after)).problems)


def settings_for(before: Path | None, after: Path | None, page: RunSettings) -> RunSettings:
    """The settings that train the change between two pictures, from those on the page: model and output folder stay.

    Raises UserError for pictures that are no pair: one alone, the same twice, of different sizes, unreadable.
    """
    if before is None and after is None:
        raise UserError("guides.no_pair")
    for problem in problems_of(before, after):
        if problem.severity == "error":
            raise UserError(problem.key, **problem.values)
    assert after is not None
    source = source_of(page.model, page.model.family)
    changes: dict[str, Any] = {
        **settings_for_source(source),
        "model.base": page.model.base,
        **{f"dataset.{name}": None for name in _FOLDERS},
        "dataset.trigger_words": "",
        **NO_SLIDER,
        "dataset.pair_before": before,
        "dataset.pair_after": after,
        "save.output_dir": page.save.output_dir or home() / "output",
        "save.output_name": re.sub(r"[^\w-]+", "_", f"copier_{after.stem}").strip("_-")[:80],
    }
    settings = with_values(apply_preset(page, find_preset(PRESET)), changes)
    return with_values(settings, {"save.output_name": free_name(settings.save)})
