"""The learning rate range test's answer: right where stable rates are known, and honest about the rest."""

import itertools
import math

import pytest

from lora_core.errors import UserError
from lora_core.events import RatePoint
from lora_core.rate_range import adopted, check_range, judge, lines, rate_at, runs_away, words
from lora_core.settings import RunSettings, TrainSettings
from lora_core.settings.fields import unions_of
from lora_core.settings.tools import RateRangeSettings

START = 0.12


def curve(*losses: float, first: float = 1e-5, times: float = 10.0) -> list[RatePoint]:
    return [RatePoint(step=i + 1, rate=first * times**i, loss=loss) for i, loss in enumerate(losses)]


def descent(settings: RateRangeSettings, curvatures: list[float]):
    """The test on 1/2 sum c x^2 from x = 1 by plain gradient descent, which is stable below 2 / max(c)."""
    x = [1.0] * len(curvatures)

    def loss() -> float:
        return 0.5 * sum(c * v * v for c, v in zip(curvatures, x, strict=True))

    start, points = loss(), []
    for step in range(settings.steps):
        rate = rate_at(settings, step)
        x = [v - rate * c * v for c, v in zip(curvatures, x, strict=True)]
        if runs_away(loss(), start):
            return judge(settings, start, points, rate)
        points.append(RatePoint(step=step + 1, rate=rate, loss=loss()))
    return judge(settings, start, points)


@pytest.mark.parametrize("curvatures", [[30.0], [300.0], [3000.0], [1000.0, 1.0], [500.0, 400.0, 3.0, 0.1]], ids=str)
def test_on_a_quadratic_the_rate_is_stable_and_not_needlessly_small(curvatures):
    found = descent(RateRangeSettings(highest=1.0), curvatures)
    limit = 2 / max(curvatures)
    assert found.kind == "found"
    assert limit / 30 < found.rate < limit
    assert found.blew_up_at > limit


def test_a_larger_step_makes_no_other_answer():
    """The rate is a property of the problem, not of how finely the range is gone through."""
    rates = [descent(RateRangeSettings(highest=1.0, steps=steps), [300.0]).rate for steps in (40, 80, 160)]
    assert max(rates) / min(rates) < 2


@pytest.mark.parametrize(
    ("losses", "blew_up_at", "kind", "rate"),
    [
        ((0.12, 0.11, 0.10, 0.115), 1.0, "found", 1e-4),
        ((0.12, 0.11, 0.10), 1e-2, "found", 1e-4),
        ((0.12, 0.12, 0.12), None, "no_fall", None),
        ((0.12, 0.1197, 0.13), None, "no_fall", None),
        ((), 1e-6, "no_fall", None),
        ((0.12, 0.11, 0.10), None, "still_falling", None),
        ((0.09, 0.11, 0.13), None, "starts_too_high", None),
    ],
)
def test_without_a_clear_answer_there_is_no_rate(losses, blew_up_at, kind, rate):
    settings = RateRangeSettings(lowest=1e-5, highest=1e-2)
    found = judge(settings, START, curve(*losses), blew_up_at)
    assert (found.kind, found.rate) == (kind, pytest.approx(rate))
    assert bool(found.adopt) == (rate is not None)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 2 * START])
def test_what_is_lost_is_seen(loss):
    assert runs_away(loss, START)
    assert not runs_away(START, START)


def test_rates_rise_from_the_lowest_to_the_highest_by_the_same_factor():
    settings = RateRangeSettings(lowest=1e-5, highest=1e-2, steps=31)
    rates = [rate_at(settings, step) for step in range(31)]
    assert (rates[0], rates[-1]) == (pytest.approx(1e-5), pytest.approx(1e-2))
    assert {round(b / a, 9) for a, b in itertools.pairwise(rates)} == {round(10**0.1, 9)}


@pytest.mark.parametrize(
    "train",
    [{}, {"unet_lr": 2e-4}, {"unet_lr": 2e-4, "text_encoder_lr": 1e-5, "text_encoder_2_lr": 5e-6}],
    ids=["one", "U-Net apart", "all apart"],
)
def test_adopting_keeps_the_parts_in_proportion(train):
    before = TrainSettings(learning_rate=1e-4, **train)
    new = adopted(before, 4e-4)
    unet = before.unet_lr or before.learning_rate
    assert new["train.unet_lr" if train else "train.learning_rate"] == pytest.approx(4e-4)
    for path, value in new.items():
        assert value / 4e-4 == pytest.approx(getattr(before, path.removeprefix("train.")) / unet, rel=0.05)
    assert set(new) == {"train.learning_rate", *(f"train.{name}" for name in train)}


@pytest.mark.parametrize("name", sorted(unions_of()["optimizer"]))
def test_optimizers_without_a_rate_of_their_own_are_answered_in_words(name):
    settings = RateRangeSettings(training=RunSettings.model_validate({"optimizer": {"name": name}}))
    own = any(word in name for word in ("Prodigy", "DAdapt", "ScheduleFree"))
    relative = name == "Adafactor" and settings.training.optimizer.relative_step
    if own or relative:
        with pytest.raises(UserError) as refused:
            check_range(settings)
        assert name.startswith("Adafactor") or name in refused.value.message("ja")
    else:
        check_range(settings)


def test_too_short_a_range_is_refused():
    with pytest.raises(UserError, match=r"0\.001"):
        check_range(RateRangeSettings(lowest=1e-3, highest=5e-3))


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_answer_names_the_rate_and_the_settings(language):
    settings = RateRangeSettings(lowest=1e-5, highest=1.0)
    found = judge(settings, START, curve(0.12, 0.11, 0.10, 0.11, 0.115), 1.0)
    assert "0.0001" in words(found, language)
    said = "\n".join(lines(found, language))
    assert "--set train.learning_rate=0.0001" in said
    assert "0.10000" in said
