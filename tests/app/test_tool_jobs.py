"""Jobs on LoRA files in the same line as trainings: started, watched, stopped, shown by the monitor."""

import time

import pytest

from app.run_view import RunView
from app.widgets.run_status import files_html, summary_html
from lora_core import jobs, tools
from lora_core.events import FileSaved, RunFailed, RunFinished, StageChanged, ToolStarted
from lora_core.merge.lora import load_lora
from lora_core.runs import create_run, job_name, read_job_settings
from lora_core.settings import RunSettings
from lora_core.settings.tools import JOBS, CleanSettings, MergeSettings, PreviewSettings
from tests.merge import makers


@pytest.fixture
def merge(tmp_path):
    for seed, name in enumerate("ab"):
        makers.write_lora(tmp_path / f"{name}.safetensors", seed=seed)
    loras = [{"path": tmp_path / "a.safetensors"}, {"path": tmp_path / "b.safetensors", "ratio": -1}]
    return MergeSettings.model_validate({"loras": loras, "rank": 4, "output": tmp_path / "熊 merged.safetensors"})


def wait_for_the_end(run, seconds=60):
    until = time.monotonic() + seconds
    while jobs.state(run) not in jobs.ENDED:
        assert time.monotonic() < until, jobs.log_tail(run)
        jobs.advance(run.path.parent)
        time.sleep(0.1)
    return jobs.state(run)


def test_a_merge_runs_as_a_job(merge, tmp_path):
    run = jobs.start(merge, tmp_path / "runs")
    assert wait_for_the_end(run) == "finished", jobs.log_tail(run)
    assert load_lora(merge.output).names()
    events = run.read_events()
    assert isinstance(events[0], ToolStarted)
    assert events[0].job == "merge"
    saved = next(event for event in events if isinstance(event, FileSaved))
    assert (saved.path, saved.facts["rank_max"]) == (merge.output, 4)
    assert events[-1].path == merge.output
    view = RunView(run).update()
    assert view.tool is not None
    assert "熊 merged.safetensors" in files_html(view, "ja")
    assert "a.safetensors" in summary_html(view, "en")


def test_a_failure_is_a_sentence_in_both_languages(merge, tmp_path):
    merge.loras[1].path = tmp_path / "gone.safetensors"
    run = jobs.start(merge, tmp_path / "runs")
    assert wait_for_the_end(run) == "failed"
    failed = next(event for event in run.read_events() if isinstance(event, RunFailed))
    assert "gone.safetensors" in failed.message["ja"] != failed.message["en"]
    assert not merge.output.exists()


def test_settings_of_every_job_are_read_back(tmp_path):
    for job, cls in JOBS.items():
        settings = cls()
        run = create_run(settings, tmp_path)
        again = read_job_settings(run.settings)
        assert type(again) is cls
        assert again == settings
        assert job in run.path.name
    assert type(read_job_settings(create_run(RunSettings(), tmp_path).settings)) is RunSettings


def test_every_job_has_a_tool():
    assert tools.TOOLS.keys() == JOBS.keys()
    assert all(callable(tools.tool(job)) for job in tools.TOOLS if job != "preview")


def test_names_of_jobs(merge):
    assert job_name(merge) == "merge-熊 merged"
    assert job_name(PreviewSettings()) == "preview"


def test_a_stop_leaves_nothing_half_done(merge, tmp_path):
    """Obeyed between two layers."""
    run = create_run(merge, tmp_path / "runs")
    asked = iter([False, False, True])
    events = list(tools.events_of(merge, run, lambda: next(asked, True)))
    assert isinstance(events[-1], RunFinished)
    assert events[-1].reason == "stopped"
    assert any(isinstance(event, StageChanged) for event in events)
    assert not list(tmp_path.glob("*merged*"))


def test_a_surprise_is_reported_not_swallowed(merge, tmp_path, monkeypatch, capsys):
    def broken(settings):
        yield StageChanged(stage="reading")
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(tools, "tool", lambda job: broken)
    events = list(tools.events_of(CleanSettings(lora=merge.loras[0].path), None, lambda: False))
    assert isinstance(events[-1], RunFailed)
    assert "RuntimeError" in events[-1].detail
