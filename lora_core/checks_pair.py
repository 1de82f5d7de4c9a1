"""Do the other settings fit a copier LoRA made of two pictures? Part of lora_core/checks.py."""

from collections.abc import Callable, Iterator

from lora_core.errors import Problem
from lora_core.settings import RunSettings

Found = Iterator[Problem]


def text_encoder_of_pair(settings: RunSettings) -> Found:
    """The change is in the picture, not in a word."""
    if settings.dataset.has_pair and settings.train.train_text_encoder:
        path = "train.train_text_encoder"
        yield Problem(path, "checks.pair_text_encoder", {}, "warning", {path: False})


def folders_of_pair(settings: RunSettings) -> Found:
    """Two pictures take the place of all folders."""
    if settings.dataset.has_pair:
        for name in ("train_dir", "reg_dir", "config", "metadata_file"):
            if getattr(settings.dataset, name) is not None:
                path = f"dataset.{name}"
                yield Problem(path, "checks.pair_folders", {}, "warning", {path: None})


def losses_of_pair(settings: RunSettings) -> Found:
    """The loss of a pair has its own mask and its own hold on the rest."""
    if settings.dataset.has_pair:
        for path, is_on, off in (
            ("loss.masked_loss", settings.loss.masked_loss != "off", "off"),
            ("loss.prior_preservation", settings.loss.prior_preservation is not None, None),
        ):
            if is_on:
                yield Problem(path, "checks.pair_prior", {}, "warning", {path: off})


COMBINATIONS: tuple[Callable[[RunSettings], Found], ...] = (text_encoder_of_pair, folders_of_pair, losses_of_pair)
