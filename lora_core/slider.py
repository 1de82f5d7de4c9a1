"""Concept sliders from prompts: which prompts are asked, and what is drawn to train on. Torch-free."""

import hashlib
import json
from dataclasses import dataclass

from lora_core.settings import RunSettings, SliderSettings

PICTURES = 16
"""Pictures that the model draws where there is no image folder. They get new noise each time they are shown, and at the
high noise where a concept is decided they hardly differ; more of them mostly make the start longer."""


@dataclass(frozen=True)
class Wording:
    """The three prompts of a slider, with the same words in front of each."""

    target: str
    more: str
    less: str


def wordings(slider: SliderSettings) -> tuple[Wording, ...]:
    """The prompts as they are, then with each of the words in front that are to be kept apart from the concept."""
    fronts = ("", *(f"{line.strip()} " for line in slider.keep.splitlines() if line.strip()))
    own = Wording(slider.target.strip(), slider.more.strip(), slider.less.strip())
    return tuple(Wording(front + own.target, front + own.more, front + own.less) for front in fronts)


def drawn_prompts(slider: SliderSettings) -> list[str]:
    """The prompt of each picture that is drawn to train on: every wording in turn."""
    targets = [wording.target for wording in wordings(slider)]
    return [targets[number % len(targets)] for number in range(PICTURES)]


def drawn_fingerprint(settings: RunSettings) -> str:
    """Says whether two runs draw the same pictures, given the model and the seed."""
    sample = settings.sample
    facts = (drawn_prompts(settings.slider), sample.sampler, sample.steps, sample.guidance, settings.dataset.resolution)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
