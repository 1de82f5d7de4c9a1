"""The learning rate range test on the Parameters tab: what it starts, draws and puts into the form."""

import re
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from PIL import Image

from app import toast
from app.page import Context
from app.run_view import Views
from app.tabs import monitor
from app.ui import build
from app.widgets import rate_range
from app.widgets.rate_range import Finder, result_html
from lora_core.events import RatePoint, RunFinished, ToolStarted, append
from lora_core.rate_range import judge
from lora_core.runs import create_run
from lora_core.settings import RunSettings
from lora_core.settings.overlay import with_values
from lora_core.settings.tools import RateRangeSettings

REQUEST = SimpleNamespace(cookies={}, headers={})


@pytest.fixture
def finder(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(toast, "info", lambda words: None)
    made = []
    original = Finder.__init__

    def keep(self, *arguments):
        original(self, *arguments)
        made.append(self)

    monkeypatch.setattr(Finder, "__init__", keep)
    build(Context())
    return made[0]


@pytest.fixture
def training(tmp_path) -> RunSettings:
    folder = tmp_path / "img" / "5_usu bear"
    folder.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    values = {"model.base": "built-in", "dataset.train_dir": str(tmp_path / "img"), "optimizer.name": "AdamW"}
    return with_values(RunSettings(), values)


def inputs(finder, settings, run=""):
    shown = {component: update["value"] for component, update in finder.ui.form.write(settings, {}).items()}
    return shown | {finder.run: run}


def done(*losses: float, blew_up_at: float | None = None, training: RunSettings | None = None):
    settings = RateRangeSettings(training=training or RunSettings(), lowest=1e-5, highest=1.0)
    points = [RatePoint(step=i + 1, rate=1e-5 * 10**i, loss=loss) for i, loss in enumerate(losses)]
    return judge(settings, 0.12, points, blew_up_at)


def test_the_job_has_the_settings_of_the_page_but_needs_no_output_folder(finder, training, monkeypatch):
    started = []
    monkeypatch.setattr(rate_range.job_runs, "start", lambda settings: started.append(settings) or "name")
    answer = finder.start(inputs(finder, training), REQUEST)
    assert answer[finder.run] == "name"
    assert started[0].training == training
    assert training.save.output_dir is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"optimizer.name": "Prodigy"}, "Prodigy"),
        ({"dataset.train_dir": None}, "image folder"),
        ({"model.base": ""}, "model"),
    ],
    ids=["its own rate", "no pictures", "no model"],
)
def test_what_stands_in_the_way_is_said_and_nothing_starts(finder, training, changes, expected, monkeypatch):
    monkeypatch.setattr(rate_range.job_runs, "start", lambda _: pytest.fail("started"))
    answer = finder.start(inputs(finder, with_values(training, changes)), REQUEST)
    assert expected in answer[finder.panel]
    assert finder.run not in answer


def test_the_rate_found_is_drawn_and_adopted_in_proportion(finder, training, tmp_path):
    apart = with_values(training, {"train.learning_rate": 1e-3, "train.text_encoder_lr": 5e-4})
    run = create_run(RateRangeSettings(training=apart), tmp_path / "home" / "runs")
    append(run.events, ToolStarted(job="lr_range", name="lr_range"))
    append(run.events, done(0.12, 0.11, 0.10, 0.115, training=apart))
    name = run.path.name
    polled = finder.poll({finder.run: name}, REQUEST)
    assert "<svg" in polled[finder.panel]
    form = finder.ui.form.components
    changed = finder.adopt(inputs(finder, apart, name))
    assert {component: update["value"] for component, update in changed.items()} == {
        form["train.learning_rate"]: 1e-4,
        form["train.text_encoder_lr"]: 5e-5,
    }


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize(
    "losses", [(0.12, 0.11, 0.10, 0.115), (0.12, 0.12, 0.12), (0.12, 0.1, 9.0)], ids=["found", "flat", "wild"]
)
def test_the_curve_stays_inside_its_picture_and_speaks(losses, language):
    shown = result_html(done(*losses), language)
    svg = ElementTree.fromstring(re.search(r"<svg.*</svg>", shown)[0])
    box = [float(number) for number in svg.get("viewBox").split()]
    points = [tuple(map(float, point.split(","))) for point in svg.find("polyline").get("points").split()]
    assert len(points) == len(losses)
    assert all(0 <= x <= box[2] and 0 <= y <= box[3] for x, y in points)
    assert svg.get("aria-label")
    assert ("path" in [e.tag for e in svg if e.get("class") == "ov-border"]) == ("0.0001" in svg.get("aria-label"))


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_monitor_shows_what_an_old_test_found(tmp_path, monkeypatch, language):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))
    run = create_run(RateRangeSettings(), tmp_path / "home" / "runs")
    append(run.events, ToolStarted(job="lr_range", name="lr_range"))
    found = done(0.12, 0.11, 0.10, 0.115)
    append(run.events, found)
    append(run.events, RunFinished(reason="completed", step=0))
    shown = monitor.page(Views(), run.path.name, language)
    assert shown["validation"].make() == result_html(found, language)


def test_a_test_without_points_has_words_only():
    assert "<svg" not in result_html(done(blew_up_at=1e-5), "en")
