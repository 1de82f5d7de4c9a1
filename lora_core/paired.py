"""Which of two runs is better: the same held-out pictures, the same noise, one changed field. Torch-free.

Picture by picture the losses of both are subtracted, which takes away what differs most, the pictures. How sure their
mean is, a bootstrap over the pictures says (Efron 1979), as in ``verdict``. With few pictures its interval is too
narrow, so an exact sign-flip test has to agree (Fisher 1935, "The design of experiments", section 21): were there no
difference, each picture's could as well have the other sign. Below six pictures nothing can pass it.

Both are about the pictures, not about luck in training: another seed may end differently.
"""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lora_core.events import ValidationDone
from lora_core.i18n import Language, text
from lora_core.verdict import best_epoch, by_epoch, draws, interval, mean_curve

Kind = Literal["better", "worse", "same", "too_few", "not_measured"]

SURE = 0.05
"""Of runs that do not differ, at most this share is called different."""
FEWEST = 6
"""Pictures: 2 / 2^6 is the first chance below SURE of all of them having one sign."""
FLIPS = 4096
"""Sign patterns looked at; all there are of up to twelve pictures."""


@dataclass(frozen=True)
class Paired:
    """B against A. Losses at the best epoch of each; ``difference`` is B's less A's, so below 0 B is better."""

    kind: Kind
    pictures: int = 0
    difference: float = 0.0
    low: float = 0.0
    high: float = 0.0
    """The interval of the difference: it lies between these in nine of ten draws."""
    share: float = 0.0
    """The difference as a share of A's loss."""

    def words(self, language: Language, a: str, b: str) -> str:
        """For example "B is better than A: ..."; ``a`` and ``b`` are what the runs are called."""
        values = {"pictures": self.pictures, "share": abs(self.share), "low": self.low, "high": self.high}
        return text(f"paired.{self.kind}", language, a=a, b=b, fewest=FEWEST, **values)


def compare(a: Sequence[ValidationDone], b: Sequence[ValidationDone]) -> Paired:
    """The verdict on run B against run A, each at the epoch of its lowest loss on held-out pictures."""
    of_a, of_b = best_losses(a), best_losses(b)
    if not of_a or of_a.keys() != of_b.keys():
        return Paired("not_measured")
    differences = [of_b[name] - of_a[name] for name in of_a]
    mean = math.fsum(differences) / len(differences)
    means = sorted(mean_curve(draw)[0] for draw in draws([[value] for value in differences]))
    low, high = interval(means)
    share = mean * len(differences) / math.fsum(of_a.values())
    found = Paired("same", len(differences), mean, low, high, share)
    if len(differences) < FEWEST:
        return replace(found, kind="too_few")
    if low <= 0 <= high or flipped(differences) > SURE:
        return found
    return replace(found, kind="better" if mean < 0 else "worse")


def best_losses(history: Sequence[ValidationDone]) -> dict[tuple[str, int], float]:
    """(name, which of that name) of each held-out picture -> its loss at the best epoch; the source model's is none."""
    trained = [event for event in by_epoch(history) if event.epoch > 0]
    best = best_epoch(trained)
    found: dict[tuple[str, int], float] = {}
    for picture in next((event.pictures for event in trained if event.epoch == best), []):
        if picture.held_out:
            same = sum(name == picture.name for name, _ in found)
            found[picture.name, same] = picture.loss
    return found


def flipped(differences: Sequence[float]) -> float:
    """How often a mean at least as far from 0 comes about when every sign is left to chance."""
    size = abs(math.fsum(differences)) * (1 - 1e-12)  # sums of the same numbers differ in the last digit
    sums = [abs(math.fsum(s * d for s, d in zip(signs, differences, strict=True))) for signs in _signs(differences)]
    return sum(one >= size for one in sums) / len(sums)


def _signs(differences: Sequence[float]) -> Iterator[Sequence[int]]:
    if 2 ** len(differences) <= FLIPS:
        yield from itertools.product((1, -1), repeat=len(differences))
        return
    source = random.Random(0)
    yield [1] * len(differences)
    for _ in range(FLIPS - 1):
        yield source.choices((1, -1), k=len(differences))
