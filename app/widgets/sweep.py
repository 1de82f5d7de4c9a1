"""Sweeps on the Parameters tab: which fields with which values, and the table of what became of the runs."""

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from app import toast
from app.form import for_component, read
from app.i18n import language_of, say, t
from app.page import Ui, quiet
from app.words import refusal_html
from lora_core import kfold, sweeps
from lora_core.errors import UserError
from lora_core.i18n import Language
from lora_core.settings import RunSettings
from lora_core.settings.fields import fields_of
from lora_core.sweep import NUMBERS, Planned, Result, plan, read_fields, rows, verdict

LOOKS = 2.0
"""Seconds between two looks at runs that wait or train."""
Inputs = dict[Component, Any]
Planner = Callable[[RunSettings], list[Planned]]


def build(ui: Ui) -> None:
    """Place the section; its events need the whole form and come later."""
    with ui.advanced("parameters.sweep"):
        gr.Markdown(t("parameters.sweep.help"), elem_classes="kb-hint")
        fields = gr.Textbox(
            label=t("parameters.sweep.fields"), placeholder="network.rank=8,16", lines=2, elem_id="sweep_fields"
        )
        with gr.Row():
            go, folds = (
                gr.Button(t(f"parameters.sweep.{name}"), size="sm", elem_id=f"sweep_{name}") for name in ("go", "folds")
            )
        gr.Markdown(t("parameters.sweep.folds_help"), elem_classes="kb-hint")
        panel = gr.HTML("", elem_id="sweep_panel", padding=False, apply_default_css=False)
        adopt = gr.Button(t("parameters.sweep.adopt"), size="sm", visible=False, elem_id="sweep_adopt")
    ui.later.append(Comparison(ui, fields, {"go": go, "folds": folds, "adopt": adopt}, panel).connect)


class Comparison:
    """The events of the section."""

    def __init__(self, ui: Ui, fields: gr.Textbox, buttons: dict[str, gr.Button], panel: gr.HTML):
        self.ui, self.fields, self.buttons, self.panel = ui, fields, buttons, panel
        self.sweep = gr.State("")
        """File name of the sweep that is shown."""
        self.timer = gr.Timer(LOOKS, active=False)

    def connect(self) -> None:
        shown = {self.panel, self.sweep, self.timer, self.buttons["adopt"]}
        form, pressed = self.ui.form.inputs, quiet(queue=True, trigger_mode="once")
        self.buttons["go"].click(self.start, {*form, self.fields}, shown, **pressed)
        self.buttons["folds"].click(self.start_folds, form, shown, **pressed)
        self.buttons["adopt"].click(self.adopt, {*form, self.sweep}, form, **quiet(trigger_mode="once"))
        self.timer.tick(self.poll, {self.sweep}, shown, **quiet())
        self.ui.demo.load(self.find, None, shown, **quiet())

    def start(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """Put a run for every combination in line."""
        words = [line for line in by_component[self.fields].splitlines() if line.strip()]
        return self.put_in_line(by_component, request, lambda settings: plan(settings, read_fields(words)))

    def start_folds(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """Put a run for each part of the pictures in line."""
        return self.put_in_line(by_component, request, kfold.plan_folds)

    def put_in_line(self, by_component: Inputs, request: gr.Request, planner: Planner) -> Inputs:
        """Put all runs in line, or say why none of them starts."""
        language = language_of(request)
        try:
            planned = planner(read(self.ui.form.values(by_component)))
            path, _ = sweeps.start(planned)
        except UserError as error:
            return {self.panel: refusal_html(error, language)}
        toast.info(say("parameters.sweep.started", language, count=len(planned)))
        return self.shown(path, language)

    def find(self, request: gr.Request) -> Inputs:
        """After a reload: the last sweep."""
        path = sweeps.newest()
        return {self.panel: gr.skip()} if path is None else self.shown(path, language_of(request))

    def poll(self, by_component: Inputs, request: gr.Request) -> Inputs:
        name = Path(by_component[self.sweep]).name
        return (
            self.shown(sweeps.folder() / name, language_of(request)) if name else {self.timer: gr.Timer(active=False)}
        )

    def shown(self, path: Path, language: Language) -> Inputs:
        try:
            found = sweeps.results(path)
        except UserError:  # its file is gone
            return {self.timer: gr.Timer(active=False)}
        active = sweeps.under_way(found)
        told = {self.panel: table_html(found, language), self.buttons["adopt"]: gr.update(visible=bool(adopted(found)))}
        return told | {self.sweep: path.name, self.timer: gr.Timer(active=active)}

    def adopt(self, by_component: Inputs) -> Inputs:
        """Put the epoch that the folds found into the form, on all pictures."""
        values, name = self.ui.form.values(by_component), Path(by_component[self.sweep]).name
        try:
            found = adopted(sweeps.results(sweeps.folder() / name)) if name else {}
        except UserError:  # its file is gone
            found = {}
        fields = fields_of()
        changed = {path: for_component(fields[path], value) for path, value in found.items() if path in values}
        return self.ui.form.show_changes(values, values | changed)


def adopted(found: Sequence[Result]) -> dict[str, Any]:
    """What the final run changes, of folds that are done and found a border."""
    verdict = kfold.judged(found) if kfold.are_folds(found) else None
    return {} if verdict is None else kfold.final_values(verdict)


def table_html(found: Sequence[Result], language: Language) -> str:
    """The table, and for two runs the verdict."""
    head, *body = rows(found, language)
    lines = [_row("th", head), *(_row("td", cells) for cells in body)]
    said = verdict(found, language)
    words = f'<p class="ov-verdict">{escape(said)}</p>' if said else ""
    return f'<div class="ov ov-table"><table>{"".join(lines)}</table>{words}</div>'


def _row(tag: str, cells: Sequence[str]) -> str:
    aligned = (' style="text-align: right"' if number in NUMBERS else "" for number in range(len(cells)))
    return "<tr>" + "".join(f"<{tag}{how}>{escape(c)}</{tag}>" for c, how in zip(cells, aligned, strict=True)) + "</tr>"
