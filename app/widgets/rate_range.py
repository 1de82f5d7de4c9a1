"""The learning rate range test on the Parameters tab: a button, the job's progress, its curve, the rate to adopt."""

import math
from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from app import toast
from app.form import read
from app.i18n import language_of, say, t
from app.merge import run as job_runs
from app.merge.view import progress_html
from app.page import Ui, quiet
from app.words import refusal_html
from lora_core import jobs
from lora_core.errors import UserError
from lora_core.events import RateRangeDone
from lora_core.i18n import Language
from lora_core.rate_range import check_ready, lowest_point, words
from lora_core.runs import RunFolder, read_job_settings
from lora_core.settings.tools import RateRangeSettings

WIDTH, HEIGHT = 600, 130
"""Of the drawing area, in units of the picture."""
LEFT, TOP, RIGHT, BOTTOM = 62, 12, 12, 22
"""Room for the words around it."""
Inputs = dict[Component, Any]


def build(ui: Ui) -> None:
    """Place the button and what it shows; its events need the whole form and come later."""
    with gr.Row():
        names = ("go", "stop", "adopt")
        go, stop, adopt = (
            gr.Button(t(f"parameters.range.{name}"), size="sm", visible=name == "go", elem_id=f"range_{name}")
            for name in names
        )
    panel = gr.HTML("", elem_id="range_panel", padding=False, apply_default_css=False)
    ui.later.append(Finder(ui, {"go": go, "stop": stop, "adopt": adopt}, panel).connect)


class Finder:
    """The events of the test."""

    def __init__(self, ui: Ui, buttons: dict[str, gr.Button], panel: gr.HTML):
        self.ui, self.buttons, self.panel = ui, buttons, panel
        self.run = gr.State("")
        """Name of the run folder of the test."""
        self.timer = gr.Timer(1, active=False)

    def connect(self) -> None:
        form, buttons = self.ui.form.inputs, self.buttons
        shown = {self.panel, self.timer, buttons["stop"], buttons["adopt"]}
        pressed = quiet(queue=True, trigger_mode="once")
        buttons["go"].click(self.start, {*form, self.run}, {self.run, *shown}, **pressed)
        buttons["stop"].click(job_runs.stop, self.run, None, **quiet())
        buttons["adopt"].click(self.adopt, {*form, self.run}, form, **quiet(trigger_mode="once"))
        self.timer.tick(self.poll, {self.run}, shown, **quiet())
        self.ui.demo.load(self.find, None, {self.run, self.timer}, **quiet())

    def start(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """Put the test in line, or say what stands in the way."""
        language = language_of(request)
        running = job_runs.progress(self.ui.views, by_component[self.run])
        if running is not None and not running.ended:
            return {self.run: gr.skip()}
        try:
            settings = RateRangeSettings(training=read(self.ui.form.values(by_component)))
            check_ready(settings)
            name = job_runs.start(settings)
        except UserError as error:
            return {self.panel: refusal_html(error, language), self.buttons["adopt"]: gr.update(visible=False)}
        toast.info(say("parameters.range.started", language))
        hidden = {self.buttons["adopt"]: gr.update(visible=False), self.buttons["stop"]: gr.update(visible=True)}
        return hidden | {self.run: name, self.timer: gr.Timer(active=True), self.panel: ""}

    def find(self) -> Inputs:
        """After a reload: the test that is still under way."""
        current = jobs.current()
        for run in [*([current] if current else []), *jobs.queue()]:
            if is_test(run):
                return {self.run: run.path.name, self.timer: gr.Timer(active=True)}
        return {self.run: gr.skip()}

    def poll(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """Show how far the test is, or what it found."""
        found, language = job_runs.progress(self.ui.views, by_component[self.run]), language_of(request)
        if found is None:
            return {self.timer: gr.Timer(active=False)}
        answer: Inputs = {self.buttons["stop"]: gr.update(visible=not found.ended)}
        result = found.view.rate_range
        answer[self.panel] = progress_html(found, language) if result is None else result_html(result, language)
        if found.ended:
            answer[self.timer] = gr.Timer(active=False)
            answer[self.buttons["adopt"]] = gr.update(visible=result is not None and bool(result.adopt))
        return answer

    def adopt(self, by_component: Inputs) -> Inputs:
        """Put the rate that was found into the form, with those of the other parts in their proportion to it."""
        found = job_runs.progress(self.ui.views, by_component[self.run])
        values = self.ui.form.values(by_component)
        result = None if found is None else found.view.rate_range
        adopted = {} if result is None else {path: value for path, value in result.adopt.items() if path in values}
        return self.ui.form.show_changes(values, values | adopted)


def is_test(run: RunFolder) -> bool:
    try:
        return isinstance(read_job_settings(run.settings), RateRangeSettings)
    except (OSError, ValueError):
        return False


# ---- what was found --------------------------------------------------------------------------------------------------


def result_html(found: RateRangeDone, language: Language) -> str:
    """The curve with the rate in it, and the answer in words."""
    said = [words(found, language), say("parameters.range.tested_with", language, optimizer=found.optimizer)]
    notes = "".join(f"<div>{escape(sentence)}</div>" for sentence in said)
    drawn = svg(found, language) if len(found.points) > 1 else ""
    return f'<div class="kb-curve" data-kind="{found.kind}">{drawn}{notes}</div>'


def svg(found: RateRangeDone, language: Language) -> str:
    """Loss over the logarithm of the rate. Colours come from the page's styles, so that they suit light and dark."""
    low, high = bounds(found)
    first, last = found.points[0].rate, found.points[-1].rate
    bottom, right = TOP + HEIGHT, LEFT + WIDTH

    def across(rate: float) -> float:
        return LEFT + WIDTH * math.log(min(max(rate, first), last) / first) / math.log(last / first)

    def up(loss: float) -> float:
        return bottom - HEIGHT * (min(max(loss, low), high) - low) / (high - low)

    line = " ".join(f"{across(point.rate):.1f},{up(point.loss):.1f}" for point in found.points)
    told = escape(words(found, language), quote=True)
    return (
        f'<svg viewBox="0 0 {right + RIGHT} {bottom + BOTTOM}" role="img" aria-label="{told}"><title>{told}</title>'
        f'<path class="kb-curve-axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>'
        f'<polyline class="kb-curve-0" points="{line}"/>{marks(found, across, up)}'
        f"{scales(found, across, low, high)}</svg>"
    )


def bounds(found: RateRangeDone) -> tuple[float, float]:
    """The losses at the foot and the head of the picture. Where the loss runs away it is cut off: the fall matters."""
    losses = [point.loss for point in found.points]
    low = min(found.start, *losses)
    high = min(max(found.start, *losses), found.start + max(found.start - low, 0.01 * abs(found.start)))
    room = 0.05 * (high - low) or 1e-6
    return low - room, high + room


def marks(found: RateRangeDone, across: Callable[[float], float], up: Callable[[float], float]) -> str:
    """A dot at the lowest loss, a line at the proposed rate with its number."""
    lowest = lowest_point(found.points)
    if found.rate is None or lowest is None:
        return ""
    x = across(found.rate)
    anchor = "end" if x > LEFT + WIDTH / 2 else "start"
    at = x - 6 if anchor == "end" else x + 6
    return (
        f'<circle class="kb-range" cx="{across(lowest.rate):.1f}" cy="{up(lowest.loss):.1f}" r="4"/>'
        f'<path class="ov-border" d="M{x:.1f} {TOP}v{HEIGHT}"/>'
        f'<text x="{at:.1f}" y="{TOP + HEIGHT - 8}" text-anchor="{anchor}">{found.rate:g}</text>'
    )


def scales(found: RateRangeDone, across: Callable[[float], float], low: float, high: float) -> str:
    """Powers of ten below, the ends of the losses on the left."""
    bottom = TOP + HEIGHT
    first, last = found.points[0].rate, found.points[-1].rate
    powers = range(math.ceil(math.log10(first)), math.floor(math.log10(last)) + 1)
    below = "".join(
        f'<text x="{across(10.0**power):.1f}" y="{bottom + 17}" text-anchor="middle">1e{power}</text>'
        for power in powers
    )
    ends = ((TOP + 8, high), (bottom, low))
    return below + "".join(f'<text x="{LEFT - 6}" y="{y}" text-anchor="end">{loss:.3g}</text>' for y, loss in ends)
