"""The curves, the verdict and the pictures on the monitor."""

import re
from pathlib import Path

import pytest

from app.run_view import RunView
from app.tabs import monitor
from app.widgets import overfitting
from lora_core.events import BandLoss, CheckpointSaved, PictureLoss, ValidationDone, append
from lora_core.i18n import LANGUAGES
from lora_core.runs import RunFolder, create_run
from lora_core.settings import RunSettings


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunFolder:
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))
    return create_run(RunSettings(save={"output_name": "bear"}))


def measured(epoch: int, border: int = 3, held_out: int = 4, following: float | None = None) -> ValidationDone:
    pictures = [PictureLoss(name=f"<b>{i}.png", held_out=False, loss=0.3 - 0.02 * epoch) for i in range(3)]
    pictures.append(PictureLoss(name="odd.png", held_out=False, loss=0.4))
    apart = [0.3 + 0.01 * (epoch - border) ** 2 + 0.01 * i for i in range(held_out)]
    pictures += [PictureLoss(name=f"apart{i}.png", held_out=True, loss=loss) for i, loss in enumerate(apart)]
    return ValidationDone(
        epoch=epoch,
        step=epoch * 10,
        fit=0.325 - 0.015 * epoch,
        generalisation=sum(apart) / held_out if held_out else None,
        drift_class=0.01 * epoch,
        drift_unrelated=0.02 * epoch,
        following=following,
        bands=[BandLoss(low=0, high=250, fit=0.1, generalisation=None)],
        pictures=pictures,
    )


def written(run: RunFolder, *events) -> RunView:
    for event in events:
        append(run.events, event)
    return RunView(run).update()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_curves_and_the_verdict(run, language):
    page = overfitting.html(written(run, *(measured(epoch) for epoch in range(8))), language)
    assert page.count("<polyline") == 3
    assert "ov-border" in page
    assert {"en": "Epoch 3 is the border; from 4 on", "ja": "過学習の境目はエポック 3 です。4 からは"}[language] in page
    assert "<b>" not in page  # names of pictures are text
    assert re.search(r'class="ov-fights"><td>odd\.png', page)


def test_points_stay_inside_the_picture(run):
    page = overfitting.html(written(run, *(measured(epoch) for epoch in range(8))), "en")
    for x, y in re.findall(r'cx="([\d.-]+)" cy="([\d.-]+)"', page):
        assert overfitting.LEFT <= float(x) <= overfitting.LEFT + overfitting.WIDTH
        assert overfitting.TOP <= float(y) <= overfitting.TOP + overfitting.HEIGHT


@pytest.mark.parametrize("count", [1, 2])
def test_it_says_so_while_there_is_little_to_go_by(run, count: int):
    page = overfitting.html(written(run, *(measured(epoch) for epoch in range(count))), "en")
    assert "Too few measurements" in page


@pytest.mark.parametrize("values", [(1.0, 0.8, 0.4), (1.0, 1.3, -0.2)])
def test_prompt_following_is_a_curve_of_its_own_where_it_was_measured(run, values):
    """On its own scale, which holds none (0) and as before (1) whatever was measured."""
    history = [measured(epoch, following=value) for epoch, value in enumerate(values)]
    curve = next(curve for curve in overfitting.curves(history) if curve.name == "following")
    assert [value for _, value in curve.points] == list(values)
    assert curve.bottom == min(0, *values)
    assert curve.top == max(1, *values)
    page = overfitting.html(written(run, *history), "en")
    assert page.count("<polyline") == 4
    assert f"Following of prompts {100 * values[-1]:.0f}%" in page


def test_without_held_out_pictures_two_curves_are_left(run):
    page = overfitting.html(written(run, *(measured(epoch, held_out=0) for epoch in range(4))), "en")
    assert page.count("<polyline") == 2
    assert "No picture is held out" in page


def test_a_loss_that_blew_up_is_passed_over(run):
    broken = measured(2).model_copy(update={"fit": float("nan"), "drift_unrelated": float("inf")})
    page = overfitting.html(written(run, measured(0), measured(1), broken), "en")
    assert "nan" not in page
    assert "inf" not in page.replace("information", "")


def test_a_run_that_does_not_validate_shows_nothing(run):
    view = written(run)
    assert overfitting.html(view, "en") == ""
    assert "validation" in monitor.empty_page("en")


def test_a_file_written_over_stands_once(run):
    best = [CheckpointSaved(path=Path("/x/bear-best.safetensors"), step=step, epoch=step) for step in (1, 2, 3)]
    view = written(run, *best)
    assert [saved.step for saved in view.checkpoints] == [3]
