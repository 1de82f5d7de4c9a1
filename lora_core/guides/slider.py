"""Concept slider: from a few prompts, or two folders, to settings for the model at hand."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_core.checks_slider import prompts_of_slider
from lora_core.data.folders import scan
from lora_core.data.picture_sets import are_folders
from lora_core.errors import Problem, UserError
from lora_core.guides.offers import Source, settings_for_source, source_of
from lora_core.runs import home
from lora_core.settings import DatasetSettings, RunSettings
from lora_core.settings.overlay import with_values
from lora_core.settings.presets import apply_preset, find_preset
from lora_core.settings.slider import NO_SLIDER
from lora_core.train.files import free_name

PRESET = "slider"
_FOLDERS = ("train_dir", "reg_dir", "config", "metadata_file", "mask_dir", "pair_before", "pair_after")


@dataclass(frozen=True)
class Wish:
    """What somebody asked for: prompts, or two folders; then ``target`` are the words that go for both."""

    target: str = ""
    more: str = ""
    less: str = ""
    keep: str = ""
    folder_less: Path | None = None
    folder_more: Path | None = None

    @property
    def is_pictures(self) -> bool:
        return self.folder_less is not None or self.folder_more is not None


def problems_of(wish: Wish, page: RunSettings) -> list[Problem]:
    """What stands in the way of a wish, errors first, and what is worth a warning."""
    if wish.is_pictures:
        return _of_folders(wish)
    if not wish.target.strip():
        return [Problem("slider.target", "guides.slider_target")]
    return list(prompts_of_slider(with_values(page, _prompts(wish))))


def settings_for(wish: Wish, page: RunSettings) -> RunSettings:
    """The settings that train the slider, from those on the page: model, output folder and sample prompts stay.

    Raises UserError for prompts that are missing or the same, and for folders that are no two sets of pictures.
    """
    for problem in problems_of(wish, page):
        if problem.severity == "error":
            raise UserError(problem.key, **problem.values)
    source = source_of(page.model, page.model.family)
    what = _sets(wish) if wish.is_pictures else _prompts(wish)
    changes: dict[str, Any] = {
        **settings_for_source(source),
        **_drawn_as(source),
        "model.base": page.model.base,
        **{f"dataset.{name}": None for name in _FOLDERS},
        "dataset.trigger_words": "",
        "sample.prompts": page.sample.prompts.strip() or wish.target.strip(),
        "save.output_dir": page.save.output_dir or home() / "output",
        "save.output_name": _name(wish),
    }
    settings = with_values(apply_preset(page, find_preset(PRESET)), changes | what)
    return with_values(settings, {"save.output_name": free_name(settings.save)})


def _prompts(wish: Wish) -> dict[str, Any]:
    words = {"target": wish.target, "more": wish.more, "less": wish.less}
    return {f"slider.{name}": text.strip() for name, text in words.items()} | {"slider.keep": wish.keep.strip()}


def _sets(wish: Wish) -> dict[str, Any]:
    return {
        "dataset.pair_before": wish.folder_less,
        "dataset.pair_after": wish.folder_more,
        "dataset.trigger_words": wish.target.strip(),
        **NO_SLIDER,
    }


def _of_folders(wish: Wish) -> list[Problem]:
    dataset = DatasetSettings(pair_before=wish.folder_less, pair_after=wish.folder_more)
    if None in (wish.folder_less, wish.folder_more) or not are_folders(dataset):
        return [Problem("dataset.pair_before", "guides.slider_folders")]
    return list(scan(dataset).problems)


def _drawn_as(source: Source) -> dict[str, Any]:
    """How the source model draws well, for it draws what is trained on.

    FLUX.1 dev is trained with the guidance it is used with: its answers to two prompts then lie as far apart as those
    of other models with their CFG scale.
    """
    if source.built_in:
        return {"sample.steps": 24, "sample.guidance": 3.0}
    return {"model.guidance": 3.5} if source.family == "flux" else {}


def _name(wish: Wish) -> str:
    """For "happy bear": slider_happy_bear."""
    words = wish.folder_more.name if wish.folder_more is not None else wish.more
    return re.sub(r"[^\w-]+", "_", f"slider_{words}").strip("_-")[:80]
