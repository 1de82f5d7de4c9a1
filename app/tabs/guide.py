"""Guide: flows that ask in a few words, fill in the ordinary form and start ordinary jobs."""

from typing import Any

import gradio as gr

from app import toast
from app.folder_view import Wanted
from app.form import read_legal
from app.guide.first_lora import blank, missing, view_of, wish_of
from app.guide.first_lora import gigabytes as card_memory
from app.i18n import language_of, say, t
from app.page import Ui, quiet
from app.widgets import guide_first
from lora_core.errors import UserError
from lora_core.guides.first_lora import lay_out, propose

LOOK = "() => window.kumakobo.guideFirst?.()"
Inputs = dict[Any, Any]


def build(ui: Ui) -> None:
    with gr.Column(elem_classes="kb-section gd"):
        gr.Markdown(t("guide.first.title"), elem_classes="kb-title")
        gr.Markdown(t("guide.first.intro"), elem_classes="kb-hint")
        folder = ui.picker.box(
            "guide-folder",
            Wanted("folder"),
            label=t("guide.first.folder"),
            info=t("guide.first.folder_help"),
            elem_classes=["kb-field"],
        )
        panel = guide_first.build()
    ui.later.append(FirstLora(ui, folder, panel).connect)


class FirstLora:
    """The events of First LoRA. The panel asks at every change; the form changes only when somebody says so."""

    def __init__(self, ui: Ui, folder: Any, panel: gr.HTML):
        self.ui, self.folder, self.panel = ui, folder, panel

    def connect(self) -> None:
        everything = {self.folder, *self.ui.form.inputs}
        gr.on([self.folder.change, self.ui.tabs.select], None, js=LOOK, **quiet())
        self.panel.select(self.look, everything, {self.panel}, **quiet(trigger_mode="always_last"))
        filled = self.panel.submit(self.fill, everything, {self.panel, *self.ui.form.inputs}, **quiet(queue=True))
        self.ui.written.append(filled)

    def look(self, by_component: Inputs, event: gr.EventData, request: gr.Request) -> Inputs:
        """Say what would come of what is typed."""
        return {self.panel: self.view(by_component, event, request)}

    def fill(self, by_component: Inputs, event: gr.EventData, request: gr.Request) -> Inputs:
        """Put the proposal into the form, or say what stands in the way."""
        language, roots = language_of(request), self.ui.context.roots
        values = self.ui.form.values(by_component)
        before = read_legal(values)
        try:
            wish = wish_of(by_component[self.folder], event._data or {}, roots)
            settings = lay_out(propose(wish, before, card_memory()), before)
        except (UserError, OSError) as error:
            words = error.message(language) if isinstance(error, UserError) else str(error)
            toast.warn(words)
            view = missing(error, language) if isinstance(error, UserError) else {"error": words}
            return {self.panel: blank(language) | view}
        done = say("guide.first.filled", language, name=settings.save.output_name)
        toast.info(done)
        view = self.view(by_component, event, request) | {"filled": done}
        return {self.panel: view} | self.ui.form.write(settings, values)

    def view(self, by_component: Inputs, event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        settings = read_legal(self.ui.form.values(by_component))
        typed, roots = by_component[self.folder], self.ui.context.roots
        return view_of(typed, event._data or {}, settings, roots, language_of(request))
