"""Do the other settings fit a concept slider from prompts? Part of lora_core/checks.py."""

from collections.abc import Callable, Iterator

from lora_core.errors import Problem
from lora_core.settings import RunSettings
from lora_core.settings.slider import NO_SLIDER

Found = Iterator[Problem]


def prompts_of_slider(settings: RunSettings) -> Found:
    """A way needs two ends."""
    slider = settings.slider
    if not slider.is_on:
        return
    for name in ("more", "less"):
        if not getattr(slider, name).strip():
            yield Problem(f"slider.{name}", f"checks.slider_{name}", {"target": slider.target.strip()})
            return
    if slider.more.split() == slider.less.split():
        yield Problem("slider.less", "checks.slider_same", {"prompt": slider.more.strip()})


def slider_and_pair(settings: RunSettings) -> Found:
    """Prompts and picture pairs are two ways to say what is to be learned."""
    if settings.slider.is_on and settings.dataset.has_pair:
        yield Problem("slider.target", "checks.slider_pair", {}, "error", dict(NO_SLIDER))


def text_encoder_of_slider(settings: RunSettings) -> Found:
    """The words keep their meaning; what they make of a picture is changed."""
    path = "train.train_text_encoder"
    if settings.slider.is_on and settings.train.train_text_encoder:
        yield Problem(path, "checks.slider_text_encoder", {}, "warning", {path: False})


def pictures_of_slider(settings: RunSettings) -> Found:
    """Whoever left the prompt behind and chose pictures would wonder why they are not learned."""
    if settings.slider.is_on and settings.dataset.has_pictures and not settings.dataset.has_pair:
        values = {"target": settings.slider.target.strip()}
        yield Problem("slider.target", "checks.slider_pictures", values, "warning", dict(NO_SLIDER))


def unused_by_slider(settings: RunSettings) -> Found:
    """Nothing is compared with a picture, so neither regularisation pictures nor validation say anything."""
    if not settings.slider.is_on or settings.dataset.has_pair:
        return
    for path, value in (
        ("dataset.reg_dir", settings.dataset.reg_dir),
        ("validation.every_n_epochs", settings.validation.every_n_epochs),
    ):
        if value is not None:
            yield Problem(path, "checks.slider_unused", {}, "warning", {path: None})


COMBINATIONS: tuple[Callable[[RunSettings], Found], ...] = (
    prompts_of_slider,
    slider_and_pair,
    text_encoder_of_slider,
    pictures_of_slider,
    unused_by_slider,
)
