"""Where over-fitting begins, from the curves of a run. Torch-free, and a function of the events alone.

The border is the epoch of the lowest loss on pictures that are not trained on. How sure that is, a bootstrap over
those pictures says (Efron 1979): drawn again and again with replacement, where would the border have been? Copying
begins at the epoch from which on these pictures are worse than at the border in nearly all draws, while those trained
on still get better.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from lora_core.events import ValidationDone
from lora_core.i18n import Language, text

DRAWS = 400
"""Of the bootstrap: the ends of the interval hold to about one draw in twenty."""
LEFT_OUT = 0.05
"""Share of the draws beyond each end of the interval."""

N = TypeVar("N", int, float)
Kind = Literal["nothing", "no_pictures", "never_better", "still_learning", "border"]


@dataclass(frozen=True)
class Verdict:
    """What the curves say. Epochs count from 1; 0 is the source model."""

    kind: Kind
    border: int = 0
    low: int = 0
    high: int = 0
    """The border lies between these in nine of ten draws."""
    copies_from: int | None = None
    """From here on the training pictures are copied; None while that can't be said."""
    last: int = 0
    drift: float = 0.0
    """Of the unrelated prompts (of the class, without any) at the border."""

    def words(self, language: Language) -> str:
        """For example "Epoch 7 (6 to 9) is the border; from 10 on it copies the pictures."."""
        values = {"border": self.border, "low": self.low, "high": self.high, "last": self.last}
        if self.kind != "border":
            return text(f"verdict.{self.kind}", language, **values)
        key = "verdict.border" if self.low == self.high else "verdict.border_between"
        border = text(key, language, **values)
        if self.copies_from is None:
            return text("verdict.not_yet", language, border=border)
        return text("verdict.copies", language, border=border, epoch=self.copies_from)


def judge(history: Sequence[ValidationDone]) -> Verdict:
    """The verdict on the epochs so far."""
    events = by_epoch(history)
    if not events:
        return Verdict("nothing")
    last = events[-1].epoch
    curves = held_out_curves(events)
    if not curves:
        return Verdict("no_pictures", last=last)
    if len(events) < 3:
        return Verdict("nothing", last=last)
    epochs = [event.epoch for event in events]
    best = _lowest(mean_curve(curves))
    borders = [_lowest(mean_curve(draw)) for draw in draws(curves)]
    low, high = (epochs[place] for place in interval(borders))
    # The interval is that of the draws; with few pictures the measured border may lie outside.
    found = {"border": epochs[best], "low": min(low, epochs[best]), "high": max(high, epochs[best]), "last": last}
    drift = events[best].drift_unrelated
    found_drift = events[best].drift_class if drift is None else drift
    if epochs[best] == 0:
        return Verdict("never_better", **found)
    if best == len(events) - 1:
        return Verdict("still_learning", **found, drift=found_drift)
    return Verdict("border", **found, copies_from=_copies_from(events, curves, best), drift=found_drift)


def by_epoch(history: Sequence[ValidationDone]) -> list[ValidationDone]:
    """In order, the last word of each epoch."""
    return [event for _, event in sorted({event.epoch: event for event in history}.items())]


def best_epoch(history: Sequence[ValidationDone]) -> int:
    """The epoch of the lowest loss on held-out pictures so far; the first of several."""
    scored = [(event.generalisation, event.epoch) for event in history if event.generalisation is not None]
    return min(scored)[1] if scored else 0


def is_over(history: Sequence[ValidationDone], patience: int | None) -> bool:
    """Whether so many validations in a row were no better than the best before them."""
    if patience is None:
        return False
    scores = [event.generalisation for event in by_epoch(history) if event.generalisation is not None]
    return bool(scores) and len(scores) - 1 - _lowest(scores) >= patience


# ---- pictures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PictureRow:
    """How a picture went along with the training."""

    name: str
    held_out: bool
    first: float
    now: float
    fights: bool
    """It is trained on, and yet learned less than a quarter of what the typical training picture did."""

    @property
    def change(self) -> float:
        """(now - first) / first: -0.2 is a loss a fifth lower."""
        return self.now / self.first - 1 if self.first else 0.0


SLOW = 0.25
FEW = 3
"""With fewer pictures than this there is nothing typical."""


def picture_table(history: Sequence[ValidationDone]) -> list[PictureRow]:
    """Pictures from the one that gained least to the one that gained most, since the first measurement."""
    events = by_epoch(history)
    if len(events) < 2:
        return []
    first, now = events[0].pictures, events[-1].pictures
    if [p.name for p in first] != [p.name for p in now]:
        return []
    rows = [PictureRow(b.name, b.held_out, a.loss, b.loss, False) for a, b in zip(first, now, strict=True)]
    trained = sorted(row.change for row in rows if not row.held_out)
    typical = trained[len(trained) // 2] if len(trained) >= FEW else 0.0
    judged = [PictureRow(row.name, row.held_out, row.first, row.now, _fights(row, typical)) for row in rows]
    return sorted(judged, key=lambda row: -row.change)


def _fights(row: PictureRow, typical: float) -> bool:
    return not row.held_out and typical < 0 and row.change > SLOW * typical


# ---- the bootstrap ---------------------------------------------------------------------------------------------------

Curves = list[list[float]]
"""One row a picture, one column an epoch."""


def held_out_curves(events: Sequence[ValidationDone]) -> Curves:
    """The loss of each held-out picture over the epochs; empty when there are none, or not always the same."""
    rows = [[picture.loss for picture in event.pictures if picture.held_out] for event in events]
    if not rows or len({len(row) for row in rows}) != 1:
        return []
    return [list(column) for column in zip(*rows, strict=True)]


def _copies_from(events: Sequence[ValidationDone], curves: Curves, best: int) -> int | None:
    """The first epoch from which on unseen pictures are surely worse than at the border, and trained ones better."""
    means = [mean_curve(draw) for draw in draws(curves)]
    found = None
    for place in range(len(events) - 1, best, -1):
        worse = sum(mean[place] > mean[best] for mean in means) >= (1 - LEFT_OUT) * len(means)
        if not (worse and events[place].fit < events[best].fit):
            break
        found = events[place].epoch
    return found


def draws(curves: Curves) -> list[Curves]:
    """As many pictures again, with replacement, the same way every time."""
    source = random.Random(0)
    return [source.choices(curves, k=len(curves)) for _ in range(DRAWS)]


def mean_curve(curves: Curves) -> list[float]:
    return [sum(column) / len(column) for column in zip(*curves, strict=True)]


def _lowest(values: Sequence[float]) -> int:
    return min(range(len(values)), key=lambda place: values[place])


def interval(places: Sequence[N]) -> tuple[N, N]:
    """Between which values nine of ten lie."""
    ordered = sorted(places)
    left = int(LEFT_OUT * len(ordered))
    return ordered[left], ordered[-1 - left]
