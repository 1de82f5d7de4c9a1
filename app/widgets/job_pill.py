"""The pill in the header: what trains now, how far it is, and how many wait. On every tab."""

from html import escape
from pathlib import Path

import gradio as gr

from app.i18n import language_of, say
from app.page import quiet
from app.run_view import RunView, Views
from app.words import duration, run_label, stage_word
from lora_core import jobs
from lora_core.i18n import Language
from lora_core.runs import RunFolder, list_runs


def build(demo: gr.Blocks, views: Views) -> gr.HTML:
    """Place the pill here; it keeps itself up to date. A click on it is the returned component's ``click`` event."""
    pill = gr.HTML("", elem_id="job_pill", padding=False)
    shown = gr.State("")
    timer = gr.Timer(2)

    def poll(shown: str, request: gr.Request) -> tuple:
        html = pill_html(views, language_of(request))
        return (html, html) if html != shown else (gr.skip(), gr.skip())

    for trigger in (demo.load, timer.tick):
        trigger(poll, shown, [pill, shown], **quiet())
    return pill


def pill_html(views: Views, language: Language, root: Path | None = None) -> str:
    """The pill as HTML, after bringing the line of jobs up to date."""
    jobs.advance(root)
    words, state, fraction = pill_state(views, language, root)
    bar = "" if fraction is None else f'<span class="jp-bar" style="width:{100 * fraction:.1f}%"></span>'
    tip = escape(say("jobs.pill.tip", language), quote=True)
    return (
        f'<button type="button" class="jp jp-{state}" title="{tip}" data-state="{state}">'
        f'<span class="jp-dot"></span><span class="jp-text">{escape(words)}</span>{bar}</button>'
    )


def pill_state(views: Views, language: Language, root: Path | None = None) -> tuple[str, str, float | None]:
    """(words, state, fraction done) of the pill."""
    waiting = len(jobs.queue(root))
    queued = [say("jobs.pill.queued", language, count=waiting)] if waiting else []
    if run := jobs.current(root):
        view = views.view(run)
        state = "stopping" if view.stopping else jobs.state(run)
        return " · ".join([_running_words(view, state, language), *queued]), state, view.fraction
    last = jobs.latest(list_runs(root))
    if queued:
        return queued[0], "queued", None
    if last is None or (state := jobs.state(last)) not in jobs.ENDED:
        return say("jobs.pill.idle", language), "idle", None
    return say(f"jobs.pill.{state}", language, name=_name(last)), state, None


def _running_words(view: RunView, state: str, language: Language) -> str:
    if (view.last_step is None and state == "running") or view.tool is not None:
        return stage_word(view.stage, language)
    percent = int(100 * view.fraction)
    if state in ("paused", "stopping"):
        return say(f"jobs.pill.{state}", language, percent=percent)
    left = view.seconds_left
    if left is None:
        return say("jobs.pill.training", language, percent=percent)
    return say("jobs.pill.training_left", language, percent=percent, left=duration(left, language))


def _name(run: RunFolder) -> str:
    return run_label(run.path.name)[0]
