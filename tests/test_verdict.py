"""The verdict on curves whose border is known."""

import random

import pytest

from lora_core import verdict
from lora_core.events import PictureLoss, ValidationDone
from lora_core.i18n import LANGUAGES


def epoch_of(number: int, trained: list[float], apart: list[float]) -> ValidationDone:
    pictures = [PictureLoss(name=f"t{i}.png", held_out=False, loss=loss) for i, loss in enumerate(trained)]
    pictures += [PictureLoss(name=f"h{i}.png", held_out=True, loss=loss) for i, loss in enumerate(apart)]
    return ValidationDone(
        epoch=number,
        step=number * 10,
        fit=sum(trained) / len(trained),
        generalisation=sum(apart) / len(apart) if apart else None,
        pictures=pictures,
    )


def curves(border: int, epochs: int = 12, pictures: int = 8, spread: float = 0.0, seed: int = 0):
    """Parabolas with their lowest point at ``border``, each picture's own moved by up to ``spread`` epochs."""
    rng = random.Random(seed)
    tops = [(0.1 + 0.05 * rng.random(), border + spread * rng.uniform(-1, 1)) for _ in range(pictures)]
    return [
        epoch_of(e, [0.1 - 0.005 * e] * 4, [base + 0.001 * (e - low) ** 2 for base, low in tops])
        for e in range(epochs + 1)
    ]


@pytest.mark.parametrize("border", [2, 5, 7, 10])
def test_the_border_is_found_when_all_pictures_agree(border: int):
    found = verdict.judge(curves(border))
    assert (found.kind, found.border, found.low, found.high) == ("border", border, border, border)
    assert found.copies_from == border + 1


@pytest.mark.parametrize("seed", range(10))
def test_the_interval_holds_the_border_and_grows_with_disagreement(seed: int):
    calm, wild = (verdict.judge(curves(6, spread=spread, seed=seed)) for spread in (0.5, 4.0))
    assert abs(calm.border - 6) <= 1
    assert calm.low <= calm.border <= calm.high
    assert wild.low <= wild.border <= wild.high
    assert wild.high - wild.low >= calm.high - calm.low


def test_more_pictures_make_it_surer():
    few, many = (verdict.judge(curves(6, pictures=n, spread=4.0)) for n in (3, 60))
    assert many.high - many.low < few.high - few.low


def test_it_is_the_same_every_time():
    assert verdict.judge(curves(6, spread=3)) == verdict.judge(curves(6, spread=3))


@pytest.mark.parametrize(
    ("history", "kind"),
    [
        ([], "nothing"),
        (curves(5)[:2], "nothing"),
        (curves(20), "still_learning"),
        (curves(-3), "never_better"),
        ([epoch_of(e, [0.1], []) for e in range(5)], "no_pictures"),
    ],
)
def test_what_else_can_be_said(history, kind: str):
    assert verdict.judge(history).kind == kind


def test_copying_needs_a_fit_that_gets_better():
    """Where both curves rise, something else is wrong, such as a rate that is too high."""
    history = [epoch_of(e, [0.1 + 0.01 * e] * 3, [0.2 + 0.01 * abs(e - 3)] * 4) for e in range(8)]
    found = verdict.judge(history)
    assert (found.border, found.copies_from) == (3, None)


def test_the_words():
    history = curves(7, spread=3.0, seed=1)
    found = verdict.judge(history)
    assert found.low < found.high
    english = found.words("en")
    assert english.startswith(f"Epoch {found.border} ({found.low} to {found.high}) is the border")
    assert verdict.judge(curves(7)).words("en") == "Epoch 7 is the border; from 8 on it copies the pictures."
    for history in ([], curves(5), curves(20), curves(-3), curves(6, spread=3)):
        assert len({verdict.judge(history).words(language) for language in LANGUAGES}) == len(LANGUAGES)


@pytest.mark.parametrize(
    ("scores", "patience", "over"),
    [
        ([3, 2, 1], 1, False),
        ([3, 2, 2], 1, True),
        ([3, 1, 2], 2, False),
        ([3, 1, 2, 2], 2, True),
        ([3, 1, 2, 0.5], 2, False),
        ([1, 2, 3, 4], None, False),
        ([], 1, False),
    ],
)
def test_patience(scores, patience, over: bool):
    history = [epoch_of(e, [1.0], [float(score)]) for e, score in enumerate(scores)]
    assert verdict.is_over(history, patience) is over


def test_without_held_out_pictures_it_never_ends_early():
    assert not verdict.is_over([epoch_of(e, [1.0], []) for e in range(9)], 1)


def test_the_picture_that_fights_the_model_stands_first():
    first, now = [0.2, 0.2, 0.2, 0.2], [0.1, 0.11, 0.199, 0.12]
    rows = verdict.picture_table([epoch_of(0, first, [0.2]), epoch_of(5, now, [0.3])])
    assert [row.name for row in rows if row.fights] == ["t2.png"]
    assert rows[0].name == "h0.png"  # got worse, but was never trained on
    assert rows[0].change == pytest.approx(0.5)
    assert [row.change for row in rows] == sorted((row.change for row in rows), reverse=True)
    assert verdict.picture_table([]) == []


def test_an_epoch_measured_twice_counts_once():
    history = curves(4)
    assert verdict.judge([*history, *history]) == verdict.judge(history)
