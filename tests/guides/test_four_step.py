"""Four-step tuning: a project remembers names, finds its runs, and hands the epoch of step 2 to step 3."""

import json

import pytest

from lora_core.checks import combination_problems
from lora_core.errors import UserError
from lora_core.events import CheckpointSaved, EpochDone, RunFailed, RunFinished, RunStarted, append
from lora_core.guides import four_step
from lora_core.guides.four_step import PRESETS, STEPS, Found, Result
from lora_core.runs import create_run
from lora_core.settings import RunSettings
from lora_core.settings.fields import values_of
from lora_core.settings.overlay import with_values
from lora_core.settings.presets import find_preset, is_yours
from lora_core.verdict import Verdict
from tests.test_verdict import curves

MINE = with_values(
    RunSettings(), {"model.base": "built-in", "dataset.train_dir": "/pictures", "sample.prompts": "usu --d 3"}
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def project():
    return four_step.PROJECTS.new("うす bear")


def run_of(project, step, *events, name=None):
    """A run whose name was filled in for a step, with what happened in it."""
    settings = four_step.settings_for(project, step, MINE, Found(7, "chosen"))
    name = name or settings.save.output_name
    run = create_run(with_values(settings, {"save.output_name": name}))
    for event in events:
        append(run.events, event)
    return four_step.remember(project, step, name), run


DONE = RunFinished(reason="completed", step=100)


def test_a_project_is_kept_under_its_name(project):
    four_step.remember(project, "check", "a")
    kept = four_step.remember(four_step.PROJECTS.load("うす bear"), "check", "b")
    assert four_step.PROJECTS.load("うす bear") == kept
    assert kept.outputs == {"check": ["a", "b"]}
    four_step.PROJECTS.new("second")
    assert four_step.PROJECTS.names() == ["second", "うす bear"]


@pytest.mark.parametrize("name", ["", " ", "a/b", "..", "con", "x" * 81])
def test_a_name_that_is_no_file_name_is_refused_in_words(name):
    with pytest.raises(UserError) as refused:
        four_step.PROJECTS.new(name)
    assert refused.value.key == "guides.project_name"
    with pytest.raises(UserError) as refused:
        four_step.PROJECTS.load(name)
    assert refused.value.key == "guides.project_gone"


def test_a_project_is_never_written_over(project):
    with pytest.raises(UserError) as refused:
        four_step.PROJECTS.new(" うす bear ")
    assert refused.value.key == "guides.project_taken"


def test_a_broken_file_is_named(project, home):
    path = home / "guides" / "four_step" / "うす bear.json"
    path.write_text(json.dumps({"name": "x", "nonsense": 1}), encoding="utf-8")
    with pytest.raises(UserError, match=r"うす bear\.json"):
        four_step.PROJECTS.load("うす bear")


@pytest.mark.parametrize(
    ("family", "base"), [("sd1", "built-in"), ("sd1", ""), ("sd2", ""), ("sdxl", ""), ("flux", "")]
)
@pytest.mark.parametrize("step", PRESETS)
def test_a_step_is_its_preset_for_the_model_and_pictures_at_hand(project, step, family, base):
    before = with_values(MINE, {"model.family": family, "model.base": base})
    settings = four_step.settings_for(project, step, before, Found(12, "border"))
    assert combination_problems(settings) == []
    assert (settings.model.family, settings.model.base) == (family, base)
    assert str(settings.dataset.train_dir) == "/pictures"
    assert settings.sample.prompts == "usu --d 3"
    expected, values = find_preset(PRESETS[step]).values, values_of(settings)
    for path in ("network.rank", "network.alpha", "schedule.name", "optimizer.name", "train.learning_rate"):
        assert is_yours(path) or values[path] == expected[path]


def test_the_search_measures_and_the_final_run_has_the_epoch(project):
    search = four_step.settings_for(project, "border", MINE, None)
    assert search.validation.every_n_epochs == search.save.save_every_n_epochs == 2
    final = four_step.settings_for(project, "final", MINE, Found(13, "border"))
    assert final.train.epochs == 13
    assert 13 / final.save.save_every_n_epochs >= 4


@pytest.mark.parametrize(("step", "key"), [("final", "guides.no_border"), ("handover", "guides.no_such_step")])
def test_what_cannot_be_filled_in_yet_is_said(project, step, key):
    with pytest.raises(UserError) as refused:
        four_step.settings_for(project, step, MINE, None)
    assert refused.value.key == key


def test_runs_are_found_by_the_name_that_was_filled_in(project):
    project, run = run_of(project, "check", DONE)
    project, again = run_of(project, "check", name="うす bear-1-check-v2")
    create_run(with_values(MINE, {"save.output_name": "うす bear-1-check-other"}))
    found = four_step.results(project)
    assert {result.run for result in found["check"]} == {run.path.name, again.path.name}
    assert found["border"] == found["final"] == found["handover"] == []


def test_a_result_is_what_the_events_say(project, home):
    lora = home / "a.safetensors"
    started = RunStarted(name="x", total_steps=120, epochs=12, steps_per_epoch=10)
    ends = [EpochDone(epoch=e, step=e * 10, mean_loss=0.1 / e) for e in (1, 2)]
    saved = CheckpointSaved(path=lora, step=20, epoch=2)
    project, run = run_of(project, "border", started, *curves(7), *ends, saved)
    running = four_step.result_of(run)
    assert (running.outcome, running.epochs, running.planned, running.path) == ("running", 2, 12, lora)
    assert running.loss == pytest.approx(0.05)
    assert (running.verdict.kind, running.verdict.border) == ("border", 7)
    append(run.events, RunFailed(message={"en": "x", "ja": "x"}, detail=""))
    assert four_step.result_of(run).outcome == "failed"


def test_the_way_through_the_steps(project, home):
    def now():
        return four_step.next_step(project, four_step.results(project))

    assert now() == "check"
    project, _ = run_of(project, "check", DONE)
    assert now() == "border"
    project, search = run_of(project, "border", *curves(7))
    assert now() == "border"
    append(search.events, DONE)
    found = four_step.results(project)
    assert now() == "final"
    assert four_step.found_epoch(project, found) == Found(7, "border")
    lora = home / "final.safetensors"
    lora.write_bytes(b"x")
    project, _ = run_of(project, "final", RunFinished(reason="completed", step=9, path=lora))
    assert now() == "handover"
    assert four_step.final_file(four_step.results(project)) == lora
    lora.unlink()
    assert four_step.final_file(four_step.results(project)) is None


@pytest.mark.parametrize(
    ("verdict", "found"),
    [
        (Verdict("border", border=8, last=20), Found(8, "border")),
        (Verdict("still_learning", border=20, last=20), Found(20, "still_learning")),
        (Verdict("never_better", last=20), None),
        (Verdict("no_pictures", last=20), None),
        (None, None),
    ],
)
def test_only_a_verdict_that_names_an_epoch_gives_one(project, verdict, found):
    results = {step: [] for step in STEPS} | {"border": [Result("r", "finished", verdict=verdict)]}
    assert four_step.found_epoch(project, results) == found
    assert four_step.found_epoch(four_step.choose_epoch(project, 5), results) == Found(5, "chosen")
    assert four_step.found_epoch(four_step.choose_epoch(project, None), results) == found


def test_an_epoch_that_is_none_is_refused(project):
    with pytest.raises(UserError):
        four_step.choose_epoch(project, 0)
