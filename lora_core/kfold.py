"""k-fold validation: where over-fitting begins, from k runs of which each leaves out another part. Torch-free.

A set of a dozen pictures can spare one or two, and a border found with two pictures is little more than their luck. So
k runs are made, alike but for the part that is held out, until each picture was held out once; their curves are put
together picture by picture, and ``verdict`` judges them as it does those of one run, with all pictures (Stone 1974,
"Cross-validatory choice and assessment of statistical predictions"). The final run trains on all of them.

Every picture is shown as often in an epoch of a fold as in the final run, which has more pictures and so more steps:
what is carried over is the epoch, how often a picture is seen before it is copied.
"""

import math
from collections.abc import Sequence

from lora_core.data.folders import scan
from lora_core.data.held_out import digest
from lora_core.errors import UserError
from lora_core.events import PictureLoss, ValidationDone
from lora_core.i18n import Language, text
from lora_core.settings import RunSettings
from lora_core.settings.overlay import with_values
from lora_core.settings.validation import MOST_FOLDS
from lora_core.sweep import Planned, Result, plan
from lora_core.verdict import Verdict, by_epoch, judge

FOLD = "validation.fold"
FOLDS = 4
"""Usual number of parts: three quarters are trained on, and four runs take their time."""
MEASUREMENTS = 20
"""So many of a run, about, where the settings do not say how often: each costs some dozens of steps."""


def plan_folds(settings: RunSettings, folds: int = FOLDS) -> list[Planned]:
    """The runs, one a fold. Raises UserError for what can't be parted, and where one of them could not start."""
    if not 2 <= folds <= MOST_FOLDS:
        raise UserError("kfold.number", folds=folds, most=MOST_FOLDS)
    if settings.validation.folder is not None:
        raise UserError("kfold.folder", path=settings.validation.folder)
    pictures = count_pictures(settings)
    if 0 < pictures < folds:
        raise UserError("kfold.too_few", pictures=pictures, folds=folds)
    return plan(as_searched(settings), {FOLD: [f"{part}/{folds}" for part in range(1, folds + 1)]}, most=folds)


def as_searched(settings: RunSettings) -> RunSettings:
    """The settings of all folds: measured to the end, without samples and without files of single epochs."""
    every = settings.validation.every_n_epochs or max(1, settings.train.epochs // MEASUREMENTS)
    values = {
        "validation.every_n_epochs": every,
        "validation.patience": None,  # all curves have to be of one length
        "validation.keep_best": False,
        "sample.prompts": "",
        "save.save_every_n_epochs": None,
        "save.save_every_n_steps": None,
    }
    return with_values(settings, values)


def count_pictures(settings: RunSettings) -> int:
    """Different pictures that are trained on."""
    found = scan(settings.dataset)
    return len({digest(image.path) for subset in found.train for image in subset.images})


def final_values(verdict: Verdict) -> dict[str, int | str | None]:
    """What the final run changes: the epoch that was found, on all pictures. Empty where none was found."""
    if verdict.kind != "border":
        return {}
    return {"train.epochs": verdict.border, "train.max_train_steps": None, "validation.every_n_epochs": None, FOLD: ""}


# ---- what they say together ------------------------------------------------------------------------------------------


def are_folds(results: Sequence[Result]) -> bool:
    """Whether these are the runs of a k-fold search."""
    return len(results) > 1 and all(list(one.values) == [FOLD] for one in results)


def pooled(histories: Sequence[Sequence[ValidationDone]]) -> list[ValidationDone]:
    """One history of all folds, for the epochs that all of them measured."""
    folds = [{event.epoch: event for event in by_epoch(history)} for history in histories]
    if not folds:
        return []
    common = sorted(set.intersection(*(set(fold) for fold in folds)))
    return [_together([fold[epoch] for fold in folds]) for epoch in common]


def _together(events: Sequence[ValidationDone]) -> ValidationDone:
    """Of one epoch: held-out pictures side by side, all else the mean over the folds."""
    apart = [
        PictureLoss(name=f"{fold}/{picture.name}", held_out=True, loss=picture.loss)
        for fold, event in enumerate(events, 1)
        for picture in event.pictures
        if picture.held_out
    ]
    unrelated = [event.drift_unrelated for event in events if event.drift_unrelated is not None]
    return ValidationDone(
        time=max(event.time for event in events),
        epoch=events[0].epoch,
        step=max(event.step for event in events),
        fit=_mean([event.fit for event in events]),
        generalisation=_mean([picture.loss for picture in apart]) if apart else None,
        drift_class=_mean([event.drift_class for event in events]),
        drift_unrelated=_mean(unrelated) if unrelated else None,
        pictures=apart,
    )


def judged(results: Sequence[Result]) -> Verdict | None:
    """The verdict of all folds; None before all of them are done."""
    if any(one.state != "completed" for one in results):
        return None
    return judge(pooled([one.validations for one in results]))


def words(results: Sequence[Result], language: Language) -> str:
    """The verdict in words, with what the final run is to be; nothing before all folds are done."""
    verdict = judged(results)
    if verdict is None:
        return ""
    values = {"folds": len(results), "pictures": _pictures(results), "epoch": verdict.border}
    said = [text("kfold.verdict", language, verdict=verdict.words(language), **values)]
    if verdict.kind == "border":
        said.append(text("kfold.final", language, **values))
    return (" " if language == "en" else "").join(said)


def _pictures(results: Sequence[Result]) -> int:
    history = pooled([one.validations for one in results])
    return len(history[-1].pictures) if history else 0


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
