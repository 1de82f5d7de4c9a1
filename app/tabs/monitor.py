"""The monitor: everything about a run while it trains and afterwards. All of it is read from the run's folder."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from app.i18n import language_of, say, t
from app.page import Ui, quiet
from app.run_view import RunView, Views
from app.widgets import gallery, loss_chart, overfitting, rate_range
from app.widgets.run_status import COPY_ON_CLICK, SEND_ON_CLICK, files_html, notes_html, status_html, summary_html
from app.words import part_name, run_label, state_word
from lora_core import jobs
from lora_core.events import Command, Pause, Resume, SampleNow, SaveNow, Stop
from lora_core.help_cards import last_error, plain_lines
from lora_core.i18n import Language
from lora_core.runs import RunFolder, list_runs, runs_root

CURRENT = ""
"""The choice that follows whatever trains now."""
LOG_LINES = 200
RUNS_SHOWN = 200

ACTIONS: dict[str, tuple[Command, frozenset[str]]] = {
    "stop_save": (Stop(save=True), frozenset({"training", "paused"})),
    "sample_now": (SampleNow(), frozenset({"training"})),
    "save_now": (SaveNow(), frozenset({"training"})),
    "pause": (Pause(), frozenset({"training"})),
    "resume": (Resume(), frozenset({"paused"})),
    "stop_now": (Stop(save=False), frozenset({"starting", "training", "paused", "stopping"})),
    "leave": (Stop(save=False), frozenset({"queued"})),
}
"""Button -> the command it sends and the phases in which it can be pressed."""
CLIPBOARD = "async (text) => { await window.kumakoboCopy(text); }"


@dataclass(frozen=True)
class Part:
    """One part of the page: what it depends on, and how to make it when that changed."""

    key: Any
    make: Any


def build(ui: Ui) -> None:
    """Place the monitor here; it polls while the page is open."""
    with gr.Row(elem_classes="mon-pick"):
        run = gr.Dropdown(
            [(t("monitor.current"), CURRENT)], value=CURRENT, label=t("monitor.run"), elem_id="monitor_run", scale=4
        )
        grid = gr.Button(
            t("monitor.grid"), elem_id="monitor_grid", interactive=False, size="sm", scale=0, min_width=220
        )  # app/model_test/events.py says what it does
    parts: dict[str, Any] = {"runs": run, "grid": grid}
    parts["status"] = gr.HTML("", elem_id="monitor_status")
    with gr.Row(elem_id="monitor_buttons"):
        buttons = {
            name: gr.Button(
                t(f"monitor.button.{name}"),
                elem_id=f"monitor_{name}",
                interactive=False,
                visible=name not in ("resume", "leave"),
                size="md",
                variant={"stop_save": "primary", "stop_now": "stop"}.get(name, "secondary"),
                min_width=120,
            )
            for name in ACTIONS
        }
    parts |= buttons
    with gr.Group(visible=False, elem_id="monitor_confirm") as confirm:
        gr.Markdown(t("monitor.confirm"), container=True)
        with gr.Row():
            yes = gr.Button(t("monitor.confirm.yes"), variant="stop", elem_id="monitor_confirm_yes")
            no = gr.Button(t("monitor.confirm.no"), elem_id="monitor_confirm_no")
    parts["notes"] = gr.HTML("", elem_id="monitor_notes")
    with gr.Row(equal_height=False, elem_id="monitor_pictures"):
        with gr.Column(scale=3, min_width=320):
            parts["chart"] = loss_chart.build()
            parts["validation"] = gr.HTML("", elem_id="monitor_validation")
            parts["summary"] = gr.HTML("", elem_id="monitor_summary")
        with gr.Column(scale=2, min_width=320):
            parts["samples"] = gallery.build()
    with gr.Accordion(t("monitor.files"), open=True, elem_id="monitor_files_box"):
        parts["files"] = gr.HTML("", elem_id="monitor_files", js_on_load=COPY_ON_CLICK + SEND_ON_CLICK)
    with gr.Accordion(t("monitor.log"), open=True, elem_id="monitor_log_box"):
        parts["log"] = gr.Textbox(
            "", lines=12, max_lines=12, show_label=False, autoscroll=True, interactive=False, elem_id="monitor_log"
        )
        parts["error"] = gr.Textbox("", visible="hidden", show_label=False, elem_id="monitor_error")
        parts["copy_error"] = gr.Button(
            t("monitor.copy_error"), elem_id="monitor_copy_error", interactive=False, size="sm", scale=0
        )
    memory = gr.State({})

    def poll(choice: str, seen: dict[str, Any], request: gr.Request) -> dict | list:
        fresh, now_seen = changed(page(ui.views, choice, language_of(request)), seen)
        if not fresh:
            return gr.skip()
        return {parts[name]: value for name, value in fresh.items()} | {memory: now_seen}

    timer = gr.Timer(1)
    for trigger in (ui.demo.load, timer.tick, run.input):
        trigger(poll, [run, memory], [*parts.values(), memory], **quiet())
    for name, button in buttons.items():
        if name != "stop_now":
            button.click(partial(press, name), run, None, **quiet()).then(
                poll, [run, memory], [*parts.values(), memory], **quiet()
            )
    buttons["stop_now"].click(lambda: gr.update(visible=True), None, confirm, **quiet())
    no.click(lambda: gr.update(visible=False), None, confirm, **quiet())
    yes.click(partial(press, "stop_now"), run, None, **quiet()).then(
        lambda: gr.update(visible=False), None, confirm, **quiet()
    ).then(poll, [run, memory], [*parts.values(), memory], **quiet())
    parts["files"].select(ui.handover.clicked, None, ui.handover.outputs, **quiet())
    parts["copy_error"].click(None, parts["error"], None, js=CLIPBOARD, **quiet())


def press(name: str, choice: str) -> None:
    """Send what a button stands for to the run that is shown."""
    run = chosen_run(choice, list_runs())
    if run is not None and jobs.state(run) not in jobs.ENDED:
        jobs.send(run, ACTIONS[name][0])


def chosen_run(choice: str, runs: Sequence[RunFolder], root: Path | None = None) -> RunFolder | None:
    """The run a choice stands for: the one named, else what trains now, waits or was last. Unknown: none."""
    if choice:
        return next((run for run in runs if run.path.name == choice), None)
    return jobs.current(root) or next(iter(jobs.queue(root)), None) or jobs.latest(runs)


def page(views: Views, choice: str, language: Language, root: Path | None = None) -> dict[str, Part]:
    """All parts of the monitor for one choice of run. Nothing is made before it is known to have changed."""
    jobs.advance(root)
    runs = list_runs(root)
    run = chosen_run(choice, runs, root)
    current = jobs.current(root)
    picker = Part(
        (len(runs), runs[0].path.name if runs else "", current and current.path.name, len(jobs.queue(root))),
        lambda: gr.update(choices=run_choices(runs, language)),
    )
    if run is None:
        return {"runs": picker, **empty_page(language)}
    view, state = views.view(run), jobs.state(run)
    now = phase(view, state)
    name = run.path.name
    log = views.log(run)
    html = status_html(view, state, language)
    return {
        "runs": picker,
        "grid": Part(bool(view.checkpoints), lambda: gr.update(interactive=bool(view.checkpoints))),
        "status": Part(html, lambda: html),
        **{button: Part(key, partial(gr.update, **key)) for button in ACTIONS if (key := button_look(button, now))},
        "notes": Part((name, state, len(view.warnings), view.ended is None), lambda: notes_html(view, state, language)),
        "summary": Part((name, view.started is None, view.tool is None), lambda: summary_html(view, language)),
        "chart": Part(
            (name, chart_version(view), len(view.epochs), view.started is None),
            lambda: loss_chart.points(view, chart_words(language, view.series.rates)),
        ),
        "validation": Part(
            (name, len(view.validations), view.rate_range is None),
            lambda: (
                rate_range.result_html(view.rate_range, language)
                if view.rate_range is not None
                else overfitting.html(view, language)
            ),
        ),
        "samples": Part((name, len(view.samples)), lambda: gallery.pictures(view, language)),
        "files": Part(
            (name, len(view.checkpoints), len(view.files), len(view.kept), view.ended is None),
            lambda: files_html(view, language),
        ),
        "log": Part((name, len(log), hash(log)), lambda: "\n".join(plain_lines(log)[-LOG_LINES:]).strip("\n")),
        "error": Part((name, hash(log), view.ended is None), lambda: error_report(view, log, language)),
        "copy_error": Part(
            (name, hash(log), view.ended is None),
            lambda: gr.update(interactive=bool(error_report(view, log, language))),
        ),
    }


def empty_page(language: Language) -> dict[str, Part]:
    """The monitor before the first run."""
    words = chart_words(language)
    hint = f'<div class="rs rs-idle" data-state="idle"><p>{say("monitor.none", language)}</p></div>'
    return {
        "grid": Part(False, lambda: gr.update(interactive=False)),
        "status": Part("none", lambda: hint),
        "chart": Part("none", lambda: {"words": words}),
        "validation": Part("none", str),
        "samples": Part("none", lambda: gallery.pictures(RunView(RunFolder(runs_root() / "none")), language)),
        "files": Part("none", lambda: files_html(RunView(RunFolder(runs_root() / "none")), language)),
    }


def changed(parts: dict[str, Part], seen: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of the parts that this page has not seen yet, and what it will have seen then."""
    keys = {name: repr(part.key) for name, part in parts.items()}
    fresh = {name: part.make() for name, part in parts.items() if seen.get(name) != keys[name]}
    return fresh, seen | keys


def phase(view: RunView, state: str) -> str:
    """What can be done with a run now: queued, starting, training, paused, stopping or ended."""
    if state in jobs.ENDED:
        return "ended"
    if state == "queued":
        return state
    if view.stopping:
        return "stopping"
    if state == "paused":
        return state
    return "training" if view.started else "starting"


def button_look(name: str, now: str) -> dict[str, bool]:
    look = {"interactive": now in ACTIONS[name][1]}
    if name == "pause":
        look["visible"] = now != "paused"
    elif name == "resume":
        look["visible"] = now == "paused"
    elif name == "leave":
        look["visible"] = now == "queued"
    return look


def chart_version(view: RunView) -> int:
    """Changes when the chart is worth sending again: with every step at first, later with every 500th part."""
    count = len(view.series.steps)
    return count if view.ended or count < 1000 else count - count % (count // 500)


def chart_words(language: Language, parts: Iterable[str] = ()) -> dict[str, Any]:
    names = ("raw", "smooth", "rate", "step", "log", "empty", "title")
    words: dict[str, Any] = {name: say(f"monitor.chart.{name}", language) for name in names}
    words["parts"] = {part: part_name(part, language) for part in parts}
    return words


def run_choices(runs: Sequence[RunFolder], language: Language) -> list[tuple[str, str]]:
    """(label, folder name) of the runs, newest first."""
    choices = [(say("monitor.current", language), CURRENT)]
    for run in runs[:RUNS_SHOWN]:
        name, when = run_label(run.path.name)
        choices.append((f"{name} · {when} · {state_word(jobs.state(run), language)}", run.path.name))
    return choices


def error_report(view: RunView, log: str, language: Language) -> str:
    """What to paste when asking for help: the sentence and the last error of the log. Empty when all is well."""
    detail = last_error(log)
    message = getattr(view.ended, "message", {}).get(language, "")
    detail = detail or getattr(view.ended, "detail", "")
    return "\n\n".join(part for part in (message, detail) if part)
