"""The verdict on an A/B pair: finds a planted difference, invents none, and says when it can't know."""

import itertools
import random

import pytest

from lora_core.events import PictureLoss, ValidationDone
from lora_core.paired import FEWEST, SURE, compare, flipped


def history(*epochs: list[float]) -> list[ValidationDone]:
    """One list of held-out losses an epoch, from epoch 0 on."""
    return [
        ValidationDone(
            epoch=epoch,
            step=10 * epoch,
            fit=0.1,
            generalisation=sum(losses) / len(losses) if losses else None,
            pictures=[PictureLoss(name=f"{i}.png", held_out=True, loss=loss) for i, loss in enumerate(losses)],
        )
        for epoch, losses in enumerate(epochs)
    ]


def losses(source: random.Random, count: int, shift: float = 0.0, scatter: float = 0.002) -> tuple[list, list]:
    """Pictures that differ widely, and the same with a shift and a little scatter."""
    a = [source.uniform(0.05, 0.2) for _ in range(count)]
    return a, [value + shift + source.gauss(0, scatter) for value in a]


@pytest.mark.parametrize("count", [6, 12, 40])
@pytest.mark.parametrize(("shift", "kind"), [(-0.01, "better"), (0.01, "worse")])
def test_a_planted_difference_is_found_though_pictures_differ_far_more(count, shift, kind):
    for seed in range(10):
        a, b = losses(random.Random(seed), count, shift)
        found = compare(history([9.0] * count, a), history([9.0] * count, b))
        assert found.kind == kind
        assert found.low < found.difference < found.high
        assert (found.low < 0) == (shift < 0)


@pytest.mark.parametrize("count", [6, 10])
def test_of_runs_that_do_not_differ_few_are_called_different(count):
    """At most SURE of them; of 200, three standard deviations more."""
    found = [compare(*(history([], x) for x in losses(random.Random(seed), count))).kind for seed in range(200)]
    assert sum(kind != "same" for kind in found) <= 200 * SURE + 3 * (200 * SURE * (1 - SURE)) ** 0.5


def test_swapping_the_runs_turns_the_verdict_round():
    a, b = losses(random.Random(1), 8, -0.01)
    forth, back = (compare(history([], x), history([], y)) for x, y in ((a, b), (b, a)))
    assert (forth.kind, back.kind) == ("better", "worse")
    assert forth.difference == pytest.approx(-back.difference)


def test_each_run_counts_at_its_best_epoch_and_never_untrained():
    a = history([0.01] * 8, [0.2] * 8, [0.10] * 8, [0.3] * 8)
    b = history([0.01] * 8, [0.08] * 8, [0.9] * 8)
    assert compare(a, b).difference == pytest.approx(-0.02)


def test_a_run_against_itself_is_the_same():
    a = history([], [0.1, 0.2, 0.3, 0.1, 0.2, 0.3])
    assert compare(a, a).kind == "same"


def test_too_few_pictures_are_no_proof_however_clear():
    assert compare(history([], [0.2] * (FEWEST - 1)), history([], [0.1] * (FEWEST - 1))).kind == "too_few"
    assert compare(history([], [0.2] * FEWEST), history([], [0.1] * FEWEST)).kind == "better"


@pytest.mark.parametrize(
    "b", [[], history([], []), history([0.1] * 6), history([], [0.1] * 5)], ids=["off", "none", "untrained", "others"]
)
def test_without_the_same_pictures_nothing_is_said(b):
    assert compare(history([], [0.1] * 6), b).kind == "not_measured"


def test_the_chance_of_the_signs_is_exact():
    """Counted anew by going through all patterns as bits."""
    values = [0.3, -0.1, 0.25, 0.4, -0.05, 0.2, 0.15]
    size = abs(sum(values))
    sums = [
        abs(sum(v if bits >> i & 1 else -v for i, v in enumerate(values))) >= size - 1e-12
        for bits in range(2 ** len(values))
    ]
    assert flipped(values) == sum(sums) / len(sums)


@pytest.mark.parametrize("language", ["en", "ja"])
def test_every_verdict_has_its_own_words_and_names_both(language):
    a, b = losses(random.Random(2), 8, -0.01)
    pairs = [(a, b), (b, a), (a, a), (a[:3], b[:3]), (a, b[:3])]
    said = [compare(history([], x), history([], y)).words(language, "rank 8", "rank 16") for x, y in pairs]
    assert len(set(said)) == len(pairs)
    assert all("rank 8" in words and "rank 16" in words for words in said)
    assert not any("{" in words for words in itertools.chain(said))
