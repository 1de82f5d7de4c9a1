"""The section that makes regularisation images: what it starts, what it shows, and that a bad one is put aside."""

from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image

from app.page import Context
from app.ui import build
from app.widgets import make_regularisation
from app.widgets.make_regularisation import Maker
from lora_core.settings import RunSettings
from lora_core.settings.overlay import with_values

REQUEST = SimpleNamespace(cookies={}, headers={})


@pytest.fixture
def maker(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))
    made = []
    original = Maker.__init__

    def keep(self, *arguments):
        original(self, *arguments)
        made.append(self)

    monkeypatch.setattr(Maker, "__init__", keep)
    build(Context(roots=(tmp_path,)))
    return made[0]


def inputs(maker, settings, **fields):
    typed = {"prompt": "bear", "count": None, "seed": 1, "negative": "", "captions": False} | fields
    own = {field: typed[name] for name, field in maker.fields.items()}
    shown = {component: update["value"] for component, update in maker.ui.form.write(settings, {}).items()}
    return shown | own | {maker.run: "", maker.shown: [], maker.chosen: None}


@pytest.fixture
def training(tmp_path):
    folder = tmp_path / "img" / "5_usu bear"
    folder.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    return with_values(RunSettings(), {"model.base": "built-in", "dataset.train_dir": str(tmp_path / "img")})


def test_the_job_has_the_model_and_pictures_of_the_page(maker, training, tmp_path):
    job = maker.settings(inputs(maker, training, count=3, captions=True))
    assert (job.prompt, job.count, job.captions, job.model.base) == ("bear", 3, True, "built-in")
    assert job.folder == tmp_path / "reg"
    assert job.dataset.train_dir == tmp_path / "img"


def test_the_chosen_folder_is_taken(maker, training, tmp_path):
    chosen = with_values(training, {"dataset.reg_dir": str(tmp_path / "mine")})
    assert maker.settings(inputs(maker, chosen)).folder == tmp_path / "mine"


@pytest.mark.parametrize(
    ("changes", "fields"),
    [({}, {"prompt": " "}), ({"model.base": ""}, {}), ({"dataset.reg_dir": "/elsewhere"}, {}), ({}, {"count": -2})],
    ids=["no class", "no model", "outside the roots", "no number"],
)
def test_what_is_missing_is_said_and_nothing_starts(maker, training, said, changes, fields, monkeypatch):
    monkeypatch.setattr(make_regularisation.job_runs, "start", lambda _: pytest.fail("started"))
    answer = maker.make(inputs(maker, with_values(training, changes), **fields), REQUEST)
    assert set(answer) == {maker.run}
    assert len(said) == 1


def test_a_click_puts_the_picture_aside_at_once(maker, training, said, tmp_path):
    folder = tmp_path / "reg" / "1_bear"
    folder.mkdir(parents=True)
    for seed in range(3):
        Image.new("RGB", (64, 64), (80 * seed, 0, 0)).save(folder / f"{seed:010d}.png")
    looked = maker.look(inputs(maker, training), REQUEST)
    assert [Path(path).name for path in looked[maker.shown]] == [f"{seed:010d}.png" for seed in range(3)]
    assert all(Path(copy).is_file() for copy in looked[maker.gallery]["value"])
    state = inputs(maker, training) | {maker.shown: looked[maker.shown], maker.chosen: 1}
    after = maker.discard(state, REQUEST)
    assert [Path(path).name for path in after[maker.shown]] == ["0000000000.png", "0000000002.png"]
    assert (tmp_path / "reg" / "discarded" / "1_bear" / "0000000001.png").is_file()
    assert maker.discard(state | {maker.chosen: None}, REQUEST).keys() == {maker.gallery}


def test_when_it_is_done_the_folder_is_filled_in(maker, training, monkeypatch, tmp_path):
    job = maker.settings(inputs(maker, training))
    run = make_regularisation_run(job, tmp_path)
    found = SimpleNamespace(run=run, ended=True, state="finished")
    monkeypatch.setattr(make_regularisation.job_runs, "progress", lambda *_: found)
    monkeypatch.setattr(make_regularisation, "progress_html", lambda *_: "")
    answer = maker.poll(inputs(maker, training), REQUEST)
    assert answer[maker.ui.form.components["dataset.reg_dir"]] == str(tmp_path / "reg")
    assert isinstance(answer[maker.timer], gr.Timer)


def make_regularisation_run(job, folder):
    from lora_core.runs import create_run

    return create_run(job, folder / "runs")
