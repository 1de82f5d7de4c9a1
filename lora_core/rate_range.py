"""The learning rate range test: what it found, in numbers and words. Torch-free, and a function of the curve alone.

A short training raises its rate by the same factor at every step. At first nothing happens, then the loss falls faster
and faster, then it rises and runs away (Smith 2017, "Cyclical learning rates for training neural networks", section
3.3). The rate to train with is a tenth of that at which the loss was lowest: the rule of fastai's LRFinder (Howard and
Gugger 2020, "fastai: a layered API for deep learning", section 4.2; "minimum" there). At the lowest point itself
learning already stops, and a long training meets steeper places than a short test does.

The loss here is that of fixed pictures and fixed noise, so the curve needs no smoothing.
"""

import math
from collections.abc import Sequence
from typing import Literal

from lora_core.errors import UserError
from lora_core.events import RatePoint, RateRangeDone
from lora_core.i18n import Language, text
from lora_core.preflight import check
from lora_core.settings import FINDS_ITS_OWN_RATE, TrainSettings
from lora_core.settings.optimizer import SCHEDULE_FREE
from lora_core.settings.problems import SettingsError
from lora_core.settings.tools import RateRangeSettings

Kind = Literal["found", "no_fall", "still_falling", "starts_too_high"]

RESULT = "lr_range.json"
"""In the run folder of the test."""
BELOW_LOWEST_POINT = 10
"""The proposed rate is so many times lower than that of the lowest loss."""
LEAST_FALL = 0.005
"""Of the loss at the start. Of fixed noise it has no scatter, but less would be no reason to trust a rate."""
RUNS_AWAY = 1.5
"""Times the loss at the start. No usable rate makes the model so much worse than it was; fastai, whose loss scatters,
allows 4 times the lowest one."""
LEAST_RANGE = 10
"""The highest rate is at least so many times the lowest."""
MOST = 10.0
"""The largest learning rate that the settings take."""


def check_range(settings: RateRangeSettings) -> None:
    """Raises UserError where there is nothing to find: the optimizer finds its own rate, or the range is too short."""
    optimizer = settings.training.optimizer
    if optimizer.name in FINDS_ITS_OWN_RATE:
        raise UserError("lr_range.own_rate", optimizer=optimizer.name)
    if optimizer.name in SCHEDULE_FREE:
        raise UserError("lr_range.schedule_free", optimizer=optimizer.name)
    if getattr(optimizer, "relative_step", False):
        raise UserError("lr_range.relative_step")
    if settings.highest < LEAST_RANGE * settings.lowest:
        values = {"lowest": f"{settings.lowest:g}", "highest": f"{settings.highest:g}", "times": LEAST_RANGE}
        raise UserError("lr_range.too_short", **values)


def check_ready(settings: RateRangeSettings) -> None:
    """Raises UserError where the test could not start. What is missing for saving alone does not matter to it."""
    check_range(settings)
    found = [p for p in check(settings.training) if p.severity == "error" and not p.path.startswith("save.")]
    if found:
        raise SettingsError(settings.training.save.output_name, found)


def rate_at(settings: RateRangeSettings, step: int) -> float:
    """The rate of step ``step``, counted from 0."""
    return settings.lowest * (settings.highest / settings.lowest) ** (step / (settings.steps - 1))


def runs_away(loss: float, start: float) -> bool:
    """Whether what was learned is lost, and further rates say nothing."""
    return not math.isfinite(loss) or loss > RUNS_AWAY * start


def judge(
    settings: RateRangeSettings,
    start: float,
    points: Sequence[RatePoint],
    blew_up_at: float | None = None,
    *,
    seed: int = 0,
) -> RateRangeDone:
    """The answer of a test. Without a clear one there is no rate, and ``kind`` says why."""
    kind, rate = _found(settings, start, points, blew_up_at)
    return RateRangeDone(
        kind=kind,
        rate=rate,
        start=start,
        points=list(points),
        blew_up_at=blew_up_at,
        adopt={} if rate is None else adopted(settings.training.train, rate),
        optimizer=settings.training.optimizer.name,
        seed=seed,
    )


def _found(
    settings: RateRangeSettings, start: float, points: Sequence[RatePoint], blew_up_at: float | None
) -> tuple[Kind, float | None]:
    lowest = lowest_point(points)
    if lowest is None or lowest.loss > (1 - LEAST_FALL) * start:
        return "no_fall", None
    if blew_up_at is None and lowest is points[-1]:
        return "still_falling", None
    rate = rounded(lowest.rate / BELOW_LOWEST_POINT)
    return ("found", rate) if rate >= settings.lowest else ("starts_too_high", None)


def lowest_point(points: Sequence[RatePoint]) -> RatePoint | None:
    """The point of the lowest loss; the first of several."""
    return min(points, key=lambda point: point.loss, default=None)


def reference(train: TrainSettings) -> float:
    """The rate that the test speaks of: that of the U-Net or transformer."""
    return train.unet_lr or train.learning_rate


def adopted(train: TrainSettings, rate: float) -> dict[str, float]:
    """Settings that train the U-Net at ``rate`` and the other parts in the proportion to it that they had."""
    names = ("learning_rate", "unet_lr", "text_encoder_lr", "text_encoder_2_lr")
    given = {name: value for name in names if (value := getattr(train, name)) is not None}
    times = rate / reference(train)
    return {f"train.{name}": min(MOST, rounded(value * times)) for name, value in given.items()}


def rounded(rate: float) -> float:
    """Two digits: more would be pretence."""
    return float(f"{rate:.2g}")


def words(found: RateRangeDone, language: Language) -> str:
    """The answer in a sentence or two."""
    lowest = lowest_point(found.points)
    values = {
        "rate": "-" if found.rate is None else f"{found.rate:g}",
        "lowest": "-" if lowest is None else f"{lowest.rate:.2g}",
        "fall": 0.0 if lowest is None else 1 - lowest.loss / found.start,
        "times": BELOW_LOWEST_POINT,
        "least": LEAST_FALL,
    }
    said = [text(f"lr_range.{found.kind}", language, **values)]
    if found.blew_up_at is not None:
        said.append(text("lr_range.blew_up", language, rate=f"{found.blew_up_at:.2g}"))
    return (" " if language == "en" else "").join(said)


def lines(found: RateRangeDone, language: Language) -> list[str]:
    """For the terminal: the curve as a table, the answer, and the settings to change."""
    rows = [f"  {point.rate:<10.2g} {point.loss:.5f}  {_bar(point.loss, found)}" for point in found.points]
    head = text("lr_range.table", language, start=f"{found.start:.5f}")
    sets = [f"  --set {path}={value:g}" for path, value in found.adopt.items()]
    return [head, *rows, words(found, language), *sets]


_BAR = 40
"""Characters of the longest bar."""


def _bar(loss: float, found: RateRangeDone) -> str:
    losses = [found.start, *(point.loss for point in found.points)]
    low, high = min(losses), max(losses)
    return "#" * round(_BAR * (loss - low) / (high - low)) if high > low else ""
