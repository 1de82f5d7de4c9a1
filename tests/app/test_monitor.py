"""What the monitor and the pill show, from run folders written by hand."""

import json
import math
import os

import numpy as np
import pytest
from PIL import Image

from app.i18n import LOCALES
from app.run_view import LogTail, RunView, Series, Views
from app.shared_files import download, shared_folder, thumbnail
from app.tabs import monitor
from app.widgets import gallery, job_pill, loss_chart, run_status
from app.words import duration, file_size, run_label
from lora_core import jobs
from lora_core.events import (
    CheckpointSaved,
    Event,
    Memory,
    Pause,
    RunFailed,
    RunFinished,
    RunStarted,
    SampleSaved,
    StageChanged,
    StepDone,
    Stop,
    Warned,
    append,
)
from lora_core.i18n import LANGUAGES, catalogue
from lora_core.runs import RunFolder, create_run, list_runs
from lora_core.settings import RunSettings


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "家 home"))
    return tmp_path / "家 home"


@pytest.fixture
def run(home) -> RunFolder:
    return create_run(RunSettings(save={"output_name": "bear"}))


def written(run: RunFolder, *events: Event) -> RunView:
    for event in events:
        append(run.events, event)
    return RunView(run).update()


def started(total: int = 100, epochs: int = 4) -> RunStarted:
    lines = {"en": ["192 modules <b>"], "ja": ["192 モジュール"]}
    return RunStarted(name="bear", total_steps=total, epochs=epochs, steps_per_epoch=total / epochs, summary=lines)


def step(number: int, loss: float = 0.1, seconds: float = 0.5, **rates: float) -> StepDone:
    return StepDone(step=number, epoch=1, loss=loss, learning_rate=rates or {"unet": 1e-4}, seconds=seconds)


def alive(run: RunFolder) -> None:
    """Make this process the run's process, so that it counts as running."""
    import psutil

    job = jobs.Job(os.getpid(), psutil.Process().create_time(), [], os.getpid())
    jobs.put_in_line(run)
    jobs._ticket(run).unlink()
    jobs.write_job(run.job, job)


def test_the_same_keys_in_every_language():
    keys = [catalogue(language, LOCALES).keys() for language in LANGUAGES]
    assert all(found == keys[0] for found in keys)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("stage", StageChanged.model_fields["stage"].annotation.__args__)
def test_every_stage_has_a_word(run, stage, language):
    view = written(run, StageChanged(stage=stage, done=2, total=5))
    assert run_status.status_html(view, "running", language)


def test_events_are_read_once(run):
    view = written(run, started(), step(1))
    assert view.read == 2
    append(run.events, step(2))
    assert view.update().read == 3
    assert list(view.series.steps) == [1, 2]


def test_time_left_ignores_a_slow_step(run):
    view = written(run, started(100), *(step(i, seconds=60 if i == 5 else 0.5) for i in range(1, 11)))
    assert view.seconds_left == pytest.approx(90 * 0.5)
    assert view.fraction == pytest.approx(0.1)


def test_no_time_is_left_when_it_is_over(run):
    view = written(run, started(), step(1), RunFinished(reason="completed", step=100))
    assert view.seconds_left is None
    assert view.fraction == 1


def test_a_resumed_run_begins_where_it_was(run):
    view = written(run, started().model_copy(update={"first_step": 40}))
    assert view.step == 40


def test_the_smooth_loss_is_an_average_and_survives_a_bad_value():
    series = Series(window=10)
    for number, loss in enumerate([1.0, 1.0, math.nan, math.inf, 1.0], 1):
        series.add(step(number, loss=1.0).model_copy(update={"loss": loss}))
    assert list(series.smooth) == pytest.approx([1.0] * 5)


def test_rates_that_appear_late_stay_aligned():
    series = Series()
    series.add(step(1, unet=1.0))
    series.add(step(2, unet=1.0, text_encoder=0.5))
    assert list(series.rates["text_encoder"]) == [0.0, 0.5]


@pytest.mark.parametrize("count", [0, 1, 10, 4000, 4001, 20_000, 123_457])
def test_thinning_keeps_every_peak(count):
    values = np.random.default_rng(0).normal(size=count)
    kept = loss_chart.extremes(values, 4000)
    assert len(kept) <= 4000
    assert kept == sorted(set(kept))
    if count:
        assert kept[-1] == count - 1
        assert values[kept].max() == values.max()
        assert values[kept].min() == values.min()


def test_thinning_keeps_what_is_not_a_number():
    values = np.ones(20_000)
    values[12_345] = np.nan
    assert 12_345 in loss_chart.extremes(values, 4000)


def test_the_chart_of_a_long_run_is_small(run):
    view = RunView(run)
    for number in range(1, 20_001):
        view.series.add(step(number, loss=0.1 + 0.01 * math.sin(number), unet=1e-4, text_encoder=1e-4))
    chart = loss_chart.points(view, {})
    assert len(chart["x"]) == len(chart["raw"]) == len(chart["smooth"]) <= 4000
    assert [line["names"] for line in chart["rates"]] == [["unet", "text_encoder"]]
    assert len(json.dumps(chart)) < 200_000


def test_a_chart_has_no_value_that_json_lacks(run):
    view = written(run, started())
    view.series.add(step(1).model_copy(update={"loss": math.nan}))
    json.dumps(loss_chart.points(view, {}), allow_nan=False)


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_a_run_says_is_shown_as_text(run, language):
    evil = "<script>alert(1)</script>"
    view = written(
        run,
        started(),
        Warned(message={"en": evil, "ja": evil}),
        CheckpointSaved(path=run.path / "a<b>.safetensors", step=1, epoch=1),
        RunFailed(message={"en": evil, "ja": evil}, detail=evil),
    )
    html = run_status.notes_html(view, "failed", language) + run_status.summary_html(view, language)
    html += run_status.files_html(view, language)
    html += run_status.status_html(view, "failed", language)
    assert "<script" not in html
    assert "<b>" not in html
    assert "alert(1)" in html


def test_the_line_above_the_bar_says_what_happens(run):
    view = written(run, StageChanged(stage="caching_latents", done=12, total=40))
    assert "Encoding the images (12 of 40)" in run_status.status_html(view, "running", "en")
    assert run_status.bar_fraction(view, "running") == pytest.approx(0.3)


def test_memory_of_card_and_machine(run):
    view = written(run, started(), step(1), Memory(process_gb=3.21, device_gb=7.5, device_peak_gb=8.25))
    assert dict(run_status.numbers(view, "running", "en"))["memory"] == "GPU 7.5 GB (peak 8.2) · RAM 3.2 GB"


@pytest.mark.parametrize(
    ("now", "can"),
    [
        ("queued", {"leave"}),
        ("starting", {"stop_now"}),
        ("training", {"stop_save", "stop_now", "save_now", "sample_now", "pause"}),
        ("paused", {"stop_save", "stop_now", "resume"}),
        ("stopping", {"stop_now"}),
        ("ended", set()),
    ],
)
def test_what_can_be_pressed_when(now, can):
    assert {name for name in monitor.ACTIONS if monitor.button_look(name, now)["interactive"]} == can


def test_phases(run):
    alive(run)
    view = RunView(run)
    assert monitor.phase(view, jobs.state(run)) == "starting"
    append(run.events, started())
    assert monitor.phase(view.update(), jobs.state(run)) == "training"
    append(run.events, StageChanged(stage="paused"))
    assert monitor.phase(view.update(), jobs.state(run)) == "paused"
    run.send(Stop())
    assert monitor.phase(view.update(), jobs.state(run)) == "stopping"
    append(run.events, RunFinished(reason="stopped", step=3))
    assert monitor.phase(view.update(), jobs.state(run)) == "ended"


def test_a_button_sends_its_command(run):
    alive(run)
    monitor.press("pause", run.path.name)
    monitor.press("stop_save", "")
    assert list(run.command_reader().read()) == [Pause(), Stop(save=True)]


@pytest.mark.parametrize("choice", ["../../etc", "/etc", "no such run", "..", "a/../b"])
def test_names_from_the_page_are_only_runs(run, choice):
    assert monitor.chosen_run(choice, list_runs()) is None
    monitor.press("stop_save", choice)
    assert not run.commands.exists()


def test_nothing_is_sent_to_a_run_that_is_over(run):
    written(run, RunFinished(reason="completed", step=1))
    monitor.press("stop_save", run.path.name)
    assert not run.commands.exists()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_says_what_changed_and_only_that(run, language):
    alive(run)
    written(run, started(), step(1))
    views, seen = Views(), {}
    fresh, seen = monitor.changed(monitor.page(views, "", language), seen)
    assert {"runs", "status", "chart", "samples", "files", "log", "pause"} <= fresh.keys()
    fresh, seen = monitor.changed(monitor.page(views, "", language), seen)
    assert fresh.keys() <= {"status"}
    append(run.events, step(2))
    fresh, seen = monitor.changed(monitor.page(views, "", language), seen)
    assert fresh.keys() == {"status", "chart"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_page_without_runs(language):
    fresh, _ = monitor.changed(monitor.page(Views(), "", language), {})
    assert catalogue(language, LOCALES)["monitor.none"] in fresh["status"]


def test_the_chart_is_not_sent_with_every_step_of_a_long_run(run):
    view = RunView(run)
    versions = set()
    for number in range(1, 5001):
        view.series.add(step(number))
        versions.add(monitor.chart_version(view))
    assert len(versions) < 2500


def test_samples_are_grouped_newest_first(run, tmp_path):
    events = []
    for at in (0, 10, 20):
        for index, prompt in enumerate(["a bear", "a cat"]):
            path = tmp_path / f"{at}_{index}.png"
            Image.new("RGB", (512, 640), (at, 10, 10)).save(path)
            events.append(SampleSaved(path=path, prompt=prompt, index=index, step=at, epoch=1))
    shown = gallery.pictures(written(run, *events), "en")
    assert [group["title"] for group in shown["groups"]] == [
        "Step 20 · epoch 1",
        "Step 10 · epoch 1",
        "Before training",
    ]
    assert [item["prompt"] for item in shown["groups"][0]["items"]] == ["a bear", "a cat"]
    assert shown["prompts"] == [(0, "a bear"), (1, "a cat")]


def test_a_picture_is_shown_from_our_own_folder(tmp_path):
    path = tmp_path / "big.png"
    Image.new("RGB", (2000, 1000)).save(path)
    small, large = thumbnail(path)
    for address in (small, large):
        assert address.startswith("gradio_api/file=")
    files = sorted(shared_folder().rglob("*.webp"))
    assert sorted(Image.open(file).size for file in files) == [(256, 128), (1536, 768)]


@pytest.mark.parametrize("data", [b"", b"not a picture"])
def test_a_picture_that_cannot_be_read_is_left_out(tmp_path, data):
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    assert thumbnail(path) is None
    assert thumbnail(tmp_path / "none.png") is None


def test_a_download_is_the_file_itself(tmp_path):
    path = tmp_path / "熊 bear.safetensors"
    path.write_bytes(b"lora")
    assert download(path).startswith("gradio_api/file=")
    (shared,) = shared_folder().rglob("*.safetensors")
    assert shared.samefile(path)
    assert download(tmp_path / "gone.safetensors") is None


def test_the_log_is_read_a_little_at_a_time(tmp_path):
    path = tmp_path / "train.log"
    tail = LogTail(path, keep=100)
    assert tail.update() == ""
    path.write_text("x" * 500 + "\n学習")
    assert tail.update().endswith("学習")
    assert len(tail.tail) <= 100
    with path.open("a") as file:
        file.write("\nmore")
    assert tail.update().endswith("学習\nmore")
    path.write_text("new")
    assert tail.update() == "new"


def test_the_last_error_can_be_copied(run):
    view = written(run, RunFailed(message={"en": "Too little memory.", "ja": "メモリ不足です。"}, detail="d"))
    log = "Traceback (most recent call last):\n  x\nRuntimeError: no\n"
    assert (
        monitor.error_report(view, log, "ja")
        == "メモリ不足です。\n\nTraceback (most recent call last):\n  x\nRuntimeError: no"
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_pill(run, language):
    views = Views()
    alive(run)
    assert job_pill.pill_state(views, language)[1] == "running"
    written(run, started(100), *(step(i, seconds=60) for i in range(1, 43)))
    words, state, fraction = job_pill.pill_state(views, language)
    assert "42%" in words
    assert "58" in words
    assert (state, fraction) == ("running", 0.42)
    second = create_run(RunSettings(save={"output_name": "second"}))
    jobs.put_in_line(second)
    assert "1" in job_pill.pill_state(views, language)[0].split("·")[-1].split("・")[-1]
    append(run.events, StageChanged(stage="paused"))
    assert job_pill.pill_state(views, language)[1] == "paused"


@pytest.mark.parametrize(
    ("event", "state"),
    [
        (RunFailed(message={"en": "x", "ja": "x"}), "failed"),
        (RunFinished(reason="completed", step=1), "finished"),
        (RunFinished(reason="stopped", step=1), "stopped"),
    ],
)
def test_the_pill_afterwards(run, event, state):
    written(run, event)
    assert job_pill.pill_state(Views(), "en")[1] == state
    assert "bear" in job_pill.pill_html(Views(), "ja")


def test_the_pill_before_anything():
    assert job_pill.pill_state(Views(), "en") == ("No training", "idle", None)


@pytest.mark.parametrize(
    ("seconds", "en", "ja"),
    [
        (0, "0 s", "0 秒"),
        (59.4, "59 s", "59 秒"),
        (59.6, "1 min", "1 分"),
        (3570, "1 h 00 min", "1 時間 00 分"),
        (3900, "1 h 05 min", "1 時間 05 分"),
        (3600 * 50, "2 d 2 h", "2 日 2 時間"),
    ],
)
def test_durations(seconds, en, ja):
    assert (duration(seconds, "en"), duration(seconds, "ja")) == (en, ja)


def test_labels_of_runs():
    assert run_label("20261121-043301-my-lora") == ("my-lora", "2026-11-21 04:33")
    assert run_label("something else") == ("something else", "")


def test_file_sizes(tmp_path):
    path = tmp_path / "x"
    for size, shown in ((10, "10 B"), (2048, "2 KB"), (5 * 2**20 + 2**19, "5.5 MB")):
        path.write_bytes(b"\0" * size)
        assert file_size(path) == shown
    assert file_size(tmp_path / "gone") == ""
