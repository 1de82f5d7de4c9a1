"""The end of First LoRA on the Guide tab: its run, the grid of epochs, the epoch to keep, and the way to a web UI."""

from typing import Any

import gradio as gr

from app import toast
from app.folder_view import is_allowed
from app.guide.own_run import files_of, view_of
from app.i18n import language_of, say
from app.page import Ui, quiet
from app.widgets import guide_panel
from lora_core.errors import UserError
from lora_core.generate.keep import keep, proposed_name
from lora_core.guides.first_runs import newest_run

NAME = "guide_run"


def build(ui: Ui) -> None:
    """Place the panel here. Its ``submit`` events, with {run}, ask for the grid: app/model_test/events.py answers."""
    ui.later.append(OwnRun(ui, guide_panel.build(NAME)).connect)


class OwnRun:
    """The events of the panel. All it knows is in the folder of the run."""

    def __init__(self, ui: Ui, panel: gr.HTML):
        self.ui, self.panel = ui, panel

    def connect(self) -> None:
        self.ui.tabs.select(None, js="() => { window.kumakobo.guideRun?.(); }", **quiet())
        self.panel.select(self.look, None, self.panel, **quiet(trigger_mode="always_last"))
        self.panel.apply(self.keep, None, self.panel, **quiet(queue=True, trigger_mode="once"))
        self.panel.expand(self.ui.handover.clicked, None, self.ui.handover.outputs, **quiet())

    def look(self, request: gr.Request) -> dict[str, Any]:
        return view_of(self.ui.views, language_of(request))

    def keep(self, event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        """Copy the chosen file under a name that is free, or say why not."""
        language, run = language_of(request), newest_run()
        files = [] if run is None else files_of(self.ui.views.view(run), language)
        number = (event._data or {}).get("file")
        file = files[number] if isinstance(number, int) and 0 <= number < len(files) else None
        if file is None or not is_allowed(file.path, self.ui.context.roots):
            toast.warn(say("guide.own.no_file", language))
            return view_of(self.ui.views, language)
        try:
            path = keep(file.path, proposed_name(file.path))
        except UserError as error:
            toast.warn(error.message(language))
            return view_of(self.ui.views, language)
        toast.info(say("model_test.keep.done", language, source=file.path.name, path=path))
        return view_of(self.ui.views, language)
