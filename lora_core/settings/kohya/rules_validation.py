"""Validation: there a share alone turns it on, here its rhythm does."""

from collections.abc import Iterator
from typing import Any

from lora_core.settings.kohya.draft import Draft
from lora_core.settings.run import RunSettings

_KEYS = {
    "validation_split": "validation.split",
    "validate_every_n_epochs": "validation.every_n_epochs",
    "validation_seed": "validation.seed",
    "max_validation_steps": "validation.max_pictures",
}


def validation(draft: Draft) -> None:
    """sd-scripts validates after each epoch unless told otherwise, and counts batches where we count pictures."""
    if split := draft.number("validation_split"):
        draft.mapped("validation_split", "validation.split", split)
        every = draft.whole("validate_every_n_epochs") or 1
        draft.mapped("validate_every_n_epochs", "validation.every_n_epochs", every)
        if (seed := draft.whole("validation_seed")) is not None:
            draft.mapped("validation_seed", "validation.seed", seed)
        if batches := draft.whole("max_validation_steps"):
            pictures = batches * (draft.whole("train_batch_size") or 1)
            draft.mapped("max_validation_steps", "validation.max_pictures", pictures)
        if draft.whole("validate_every_n_steps"):
            draft.unsupported("validate_every_n_steps", "todo.validation")
    for key, path in _KEYS.items():
        draft.idle(key)
        draft.changes.setdefault(path, draft.defaults[path])
    draft.idle("validate_every_n_steps")


def exported(settings: RunSettings) -> Iterator[tuple[str, Any]]:
    """Kohya's keys of the settings; without validation its own defaults."""
    own = settings.validation
    on = own.every_n_epochs is not None and own.split is not None
    batches = -(-own.max_pictures // settings.train.train_batch_size)
    yield "validation_split", own.split if on else 0.0
    yield "validate_every_n_epochs", own.every_n_epochs if on else None
    yield "validation_seed", own.seed if on else None
    yield "max_validation_steps", batches if on else None
