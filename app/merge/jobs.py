"""The buttons of the Merge tab: start a job, ask before a file is replaced, draw a preview, use the result."""

from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from app import toast
from app.i18n import language_of, say
from app.merge import run as merge_run
from app.merge.files import Looks
from app.merge.output import free_name, output
from app.merge.page import already_there, quick_check, suggested_prompt
from app.merge.parts import Inputs, Parts, fresh
from app.merge.settings import preview_settings, settings_of
from app.merge.values import FormError, error_words
from app.merge.view import problems_html, progress_html, result_html
from app.page import Ui, quiet
from lora_core.errors import UserError

INSPECT_BOX = "inspect-path"
"""Name of the path box of the Inspect tab in the page's picker."""
_TO_PREVIEW = "() => { document.getElementById('merge_preview')?.scrollIntoView({ behavior: 'smooth' }); }"


class JobEvents:
    """What the buttons do. The names of the runs are fields of the tab, so that a reload finds them again."""

    def __init__(self, ui: Ui, parts: Parts, looks: Looks):
        self.ui, self.parts, self.looks, self.roots = ui, parts, looks, ui.context.roots
        self.attempted = gr.State(False)
        """True after the button was pressed in vain: then what is missing counts as a problem."""
        self.polled = gr.State({})
        """What this page shows already of the jobs."""
        self.timer = gr.Timer(1)

    def connect(self, follow: Callable[[Any], None]) -> None:
        """Register everything; ``follow`` has the tab look at its fields anew after an event."""
        parts, buttons, places = self.parts, self.parts.buttons, self.parts.places
        fields, run, drawing = set(parts.fields.values()), parts.fields["run"], parts.fields["preview_run"]
        started = {run, parts.fields["name"], places["ask"], places["question"], self.timer, self.attempted}
        pressed: dict[str, Callable] = {"go": self.go, "yes": self.replace, "other": self.other_name}
        for name, answer in pressed.items():
            event = buttons[name].click(answer, fields, started, **quiet(queue=True, trigger_mode="once"))
            follow(event.then(self.poll, *self._polls(), **quiet()))
        buttons["no"].click(lambda: gr.update(visible=False), None, places["ask"], **quiet())
        drawn = {drawing, places["preview_progress"], self.timer}
        event = buttons["draw"].click(self.draw, fields, drawn, **quiet(trigger_mode="once"))
        follow(event.then(self.poll, *self._polls(), **quiet()))
        for name, job in (("cancel", run), ("stop_drawing", drawing)):
            buttons[name].click(merge_run.stop, job, None, **quiet())
        subject = parts.fields["subject"]
        tested = buttons["test"].click(self.test, run, {subject, places["preview"]}, **quiet())
        tested.then(None, js=_TO_PREVIEW, **quiet())
        follow(tested)
        follow(buttons["back"].click(lambda: "", None, subject, **quiet()))
        self.ui.demo.load(lambda: gr.Timer(active=True), None, self.timer, **quiet())
        # A file that was made is in the way of the next name.
        follow(self.timer.tick(self.poll, *self._polls(), **quiet()))
        self.ui.later.append(self.connect_inspect)
        self.ui.later.append(self.connect_form)

    def _polls(self) -> tuple[set[Component], set[Any]]:
        parts = self.parts
        names = ("progress", "result", "after", "preview_progress", "pictures")
        outputs = {*(parts.places[name] for name in names), self.timer, self.polled}
        outputs |= {parts.buttons[name] for name in ("cancel", "stop_drawing", "draw")}
        return {parts.fields["run"], parts.fields["preview_run"], self.polled}, outputs

    def connect_inspect(self) -> None:
        """The Inspect tab is laid out later, and its box is known by name only."""
        target = self.ui.picker.targets.get(INSPECT_BOX)
        if target is not None:
            answer, outputs = partial(self.inspect, target.box), {self.ui.tabs, target.box}
            self.parts.buttons["inspect"].click(answer, self.parts.fields["run"], outputs, **quiet())

    def connect_form(self) -> None:
        """The fields of the training that take the result as its start."""
        fields = self.ui.form.components
        start = {fields["network.network_weights"], fields["network.dim_from_weights"]}
        outputs = {self.ui.tabs, *start}
        self.parts.buttons["train_on"].click(self.train_on, self.parts.fields["run"], outputs, **quiet())

    # ---- the result --------------------------------------------------------------------------------------------------

    def go(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """Start the job, ask before a file is replaced, or say what stands in the way."""
        values, language = self.parts.values(by_component), language_of(request)
        checked = quick_check(values, self.looks.of(values, self.roots), self.roots, language)
        if not checked.ready:
            return {self.attempted: True}
        if already_there(values, self.roots):
            question = say("merge_tab.replace", language, path=output(values, self.roots))
            words = f"<p>{escape(question)}</p>"
            return {self.parts.places["ask"]: gr.update(visible=True), self.parts.places["question"]: words}
        return self.start(values, request)

    def replace(self, by_component: Inputs, request: gr.Request) -> Inputs:
        return self.start(self.parts.values(by_component), request, overwrite=True)

    def other_name(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """Start with the next free name, and show it."""
        values = self.parts.values(by_component)
        try:
            path = output(values, self.roots)
        except (FormError, UserError):
            return {self.attempted: True}
        name = free_name(path.parent, path.stem, path.suffix)
        return self.start(values | {"name": name}, request) | {self.parts.fields["name"]: name}

    def start(self, values: dict[str, Any], request: gr.Request, *, overwrite: bool = False) -> Inputs:
        language, hidden = language_of(request), {self.parts.places["ask"]: gr.update(visible=False)}
        running = merge_run.progress(self.ui.views, values["run"])
        if running is not None and not running.ended:
            toast.warn(say("merge_tab.busy", language))
            return hidden
        try:
            name = merge_run.start(settings_of(values, self.roots, overwrite=overwrite))
        except (FormError, UserError) as error:
            toast.warn(error_words(error, language))
            return hidden | {self.attempted: True}
        return hidden | {self.parts.fields["run"]: name, self.timer: gr.Timer(active=True), self.attempted: False}

    def inspect(self, box: Component, run: str) -> Inputs:
        """Show the finished file in the Inspect tab."""
        path = merge_run.result(merge_run.progress(self.ui.views, run))
        return {box: gr.skip()} if path is None else {box: str(path), **self.ui.go_to("inspect")}

    def train_on(self, run: str, request: gr.Request) -> Inputs:
        """Let the training begin with the finished file, in its rank and alpha."""
        path = merge_run.result(merge_run.progress(self.ui.views, run))
        if path is None:
            return {self.ui.tabs: gr.skip()}
        toast.info(say("merge_tab.train_on_done", language_of(request), name=path.name))
        fields = self.ui.form.components
        taken = {fields["network.network_weights"]: str(path), fields["network.dim_from_weights"]: True}
        return taken | self.ui.go_to("parameters")

    # ---- pictures ----------------------------------------------------------------------------------------------------

    def test(self, run: str) -> Inputs:
        """Let the preview draw with the finished file."""
        path = merge_run.result(merge_run.progress(self.ui.views, run))
        if path is None:
            return {self.parts.fields["subject"]: gr.skip()}
        return {self.parts.fields["subject"]: str(path), self.parts.places["preview"]: gr.update(open=True)}

    def draw(self, by_component: Inputs, request: gr.Request) -> Inputs:
        values = self.parts.values(by_component)
        subject = Path(values["subject"]) if values["subject"] else None
        if not values["preview_prompts"].strip():
            values |= {"preview_prompts": suggested_prompt(self.looks.of(values, self.roots))}
        try:
            name = merge_run.start(preview_settings(values, self.roots, subject))
        except (FormError, UserError) as error:
            return {self.parts.places["preview_progress"]: problems_html([error_words(error, language_of(request))])}
        return {self.parts.fields["preview_run"]: name, self.timer: gr.Timer(active=True)}

    # ---- both --------------------------------------------------------------------------------------------------------

    def poll(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """Look at both jobs; the clock stops when neither runs."""
        parts, views, language = self.parts, self.ui.views, language_of(request)
        job, drawing = (merge_run.progress(views, by_component[parts.fields[key]]) for key in ("run", "preview_run"))
        busy, draws = (found is not None and not found.ended for found in (job, drawing))
        is_lora = merge_run.result(job) is not None and job is not None and job.files[-1].kind == "lora"
        updates: dict[str, tuple[Any, Any]] = {
            "progress": (parts.places["progress"], progress_html(job, language)),
            "result": (parts.places["result"], result_html(job, language)),
            "after": (parts.places["after"], gr.update(visible=is_lora)),
            "cancel": (parts.buttons["cancel"], gr.update(visible=busy)),
            "stop_drawing": (parts.buttons["stop_drawing"], gr.update(visible=draws)),
            "draw": (parts.buttons["draw"], gr.update(interactive=not draws)),
            "pictures": (parts.places["pictures"], merge_run.gallery(drawing, language)),
        }
        if drawing is not None:
            updates["drawing"] = (parts.places["preview_progress"], progress_html(drawing, language))
        answer = fresh(updates, by_component[self.polled], self.polled)
        return answer if busy or draws else answer | {self.timer: gr.Timer(active=False)}
