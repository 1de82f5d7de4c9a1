"""Sweeps on the Parameters tab: what is started, what is refused, and the table."""

from types import SimpleNamespace

import pytest
from PIL import Image

from app import toast
from app.page import Context
from app.ui import build
from app.widgets.sweep import Comparison, table_html
from lora_core import jobs, sweeps
from lora_core.events import PictureLoss, RunFinished, ValidationDone, append
from lora_core.runs import create_run, read_job_settings, runs_root
from lora_core.settings import RunSettings
from lora_core.settings.overlay import with_values
from lora_core.sweep import Result

REQUEST = SimpleNamespace(cookies={}, headers={})


@pytest.fixture
def comparison(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(toast, "info", lambda words: None)
    made = []
    original = Comparison.__init__

    def keep(self, *arguments):
        original(self, *arguments)
        made.append(self)

    monkeypatch.setattr(Comparison, "__init__", keep)
    build(Context())
    return made[0]


@pytest.fixture
def started(monkeypatch):
    """Runs that were put in line; none of them is started."""
    runs = []

    def start(settings):
        runs.append(create_run(settings, runs_root()))
        jobs.put_in_line(runs[-1])
        return runs[-1]

    monkeypatch.setattr(jobs, "start", start)
    monkeypatch.setattr(jobs, "advance", lambda *_: None)
    return runs


def inputs(comparison, tmp_path, words, **changes):
    folder = tmp_path / "img" / "5_usu bear"
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (512, 512)).save(folder / "a.png")
    values = {"model.base": "built-in", "dataset.train_dir": str(tmp_path / "img"), "optimizer.name": "AdamW"}
    values |= {"save.output_dir": str(tmp_path / "out")} | changes
    settings = with_values(RunSettings(), values)
    shown = {component: update["value"] for component, update in comparison.ui.form.write(settings, {}).items()}
    return shown | {comparison.fields: words}


def test_every_combination_is_put_in_line_and_shown_until_all_are_done(comparison, started, tmp_path):
    words = "network.rank=8,16\n\ntrain.learning_rate=1e-4,2e-4\n"
    answer = comparison.start(inputs(comparison, tmp_path, words), REQUEST)
    assert len(started) == 4
    assert answer[comparison.panel].count("<tr>") == 5
    assert answer[comparison.timer].active
    assert comparison.find(REQUEST)[comparison.sweep] == answer[comparison.sweep]
    for run in started:
        append(run.events, RunFinished(reason="completed", step=1))
        jobs._close(run)
    assert not comparison.poll({comparison.sweep: answer[comparison.sweep]}, REQUEST)[comparison.timer].active


@pytest.mark.parametrize(
    ("words", "changes", "expected"),
    [
        ("", {}, "two"),
        ("network.rnk=8,16", {}, "network.rank"),
        ("network.rank=8,0", {}, "1 or more"),
        ("network.rank=8,16", {"save.output_dir": None}, "Output folder"),
    ],
    ids=["nothing", "unknown", "illegal", "no folder"],
)
def test_what_cannot_be_is_said_and_nothing_starts(comparison, started, tmp_path, words, changes, expected):
    answer = comparison.start(inputs(comparison, tmp_path, words, **changes), REQUEST)
    assert expected in answer[comparison.panel]
    assert not started


def test_a_sweep_whose_file_is_gone_ends_the_clock(comparison, started):
    assert not comparison.poll({comparison.sweep: "gone.json"}, REQUEST)[comparison.timer].active
    assert sweeps.newest() is None


def test_folds_are_put_in_line_and_their_epoch_is_adopted(comparison, started, tmp_path):
    folder = tmp_path / "img" / "5_usu bear"
    values = inputs(comparison, tmp_path, "", **{"train.max_train_steps": 90, "validation.every_n_epochs": 1})
    for number in range(4):
        Image.new("RGB", (512, 512), (number, 0, 0)).save(folder / f"{number}.png")
    answer = comparison.start_folds(values, REQUEST)
    assert [read_job_settings(run.settings).validation.fold for run in started] == ["1/4", "2/4", "3/4", "4/4"]
    assert not answer[comparison.buttons["adopt"]]["visible"]
    for run in started:
        for epoch in range(5):
            loss = 0.1 + abs(epoch - 2) / 100
            pictures = [PictureLoss(name="a", held_out=True, loss=loss)]
            append(run.events, ValidationDone(epoch=epoch, step=epoch, fit=1, generalisation=loss, pictures=pictures))
        append(run.events, RunFinished(reason="completed", step=1))
        jobs._close(run)
    name = {comparison.sweep: answer[comparison.sweep]}
    polled = comparison.poll(name, REQUEST)
    assert polled[comparison.buttons["adopt"]]["visible"]
    assert "for 2 epochs" in polled[comparison.panel]
    form = comparison.ui.form.components
    changed = {component: update["value"] for component, update in comparison.adopt(values | name).items()}
    assert changed[form["train.epochs"]] == 2
    assert changed[form["train.max_train_steps"]] is None
    assert changed[form["validation.every_n_epochs"]] is None


@pytest.mark.parametrize("pictures", [0, 1])
def test_pictures_that_cannot_be_parted_are_said(comparison, started, tmp_path, pictures):
    values = inputs(comparison, tmp_path, "", **({} if pictures else {"dataset.train_dir": None}))
    answer = comparison.start_folds(values, REQUEST)
    assert 'role="alert"' in answer[comparison.panel]
    assert not started


@pytest.mark.parametrize("language", ["en", "ja"])
def test_what_was_typed_is_escaped(language):
    assert "<b>" not in table_html([Result("prior_words <b>"), Result("x")], language)
