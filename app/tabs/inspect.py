"""Inspect: what a LoRA is, how it was trained, what is wrong with it, and small tools to put it right."""

from typing import Any

import gradio as gr

from app import toast
from app.folder_view import Wanted
from app.i18n import language_of, t
from app.inspect.job import Action, after, is_over, job_html
from app.inspect.load import loaded_html, settings_in
from app.inspect.page import Shown, compared, comparing_html, look, reading_html, weigh
from app.inspect.reports import Reports
from app.inspect.tools import TOOLS, Source, Tool, checked_output, settings_of
from app.merge import run as merge_run
from app.merge.values import FormError
from app.page import Ui, quiet
from app.widgets import inspect_report
from app.widgets.inspect_panel import ToolPanel, entries_of
from lora_core.errors import UserError

FILES = Wanted("either", (".safetensors", ".ckpt", ".pt"))
LORAS = Wanted("file", (".safetensors",))
POLL_SECONDS = 0.7
MERGE_FIELDS = ("merge_what", "f-merge-path1", "f-merge-size_resize", "f-merge-rank")
"""Fields of the Merge tab that a resize fills in, by their place on the page."""
Updates = dict[Any, Any]


def build(ui: Ui) -> None:
    page = InspectTab(ui)
    page.connect()
    ui.later.append(page.connect_form)


class InspectTab:
    """The components of the tab and what happens in them. All it knows comes out of the boxes and the reports."""

    def __init__(self, ui: Ui):
        self.ui = ui
        self.reports = Reports(ui.context.roots)
        with gr.Column(elem_classes="kb-section"), gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=300):
                self.path = ui.picker.box(
                    "inspect-path",
                    FILES,
                    label=t("inspector.path"),
                    info=t("inspector.path_help"),
                    elem_classes=["kb-field"],
                )
            with gr.Column(scale=2, min_width=300):
                self.other = ui.picker.box(
                    "inspect-other",
                    LORAS,
                    label=t("inspector.other_path"),
                    info=t("inspector.other_path_help"),
                    elem_classes=["kb-field"],
                )
        self.head = inspect_report.build("inspect_head")
        with gr.Row(visible=False, elem_id="inspect_tools") as self.bar:
            self.load = gr.Button(t("inspector.load_settings"), size="sm", elem_id="inspect_load", min_width=140)
            self.buttons: dict[Tool, gr.Button] = {
                tool: gr.Button(t(f"inspector.tool.{tool}"), size="sm", elem_id=f"inspect_{tool}", min_width=110)
                for tool in TOOLS
            }
            self.send = gr.Button(t("send.this"), size="sm", elem_id="inspect_send", min_width=140)
        self.loaded = inspect_report.build("inspect_loaded")
        self.panel = ToolPanel(ui)
        self.job = inspect_report.build("inspect_job")
        self.overview = inspect_report.build("inspect_overview")
        self.compared = inspect_report.build("inspect_compared")
        self.weights = inspect_report.build("inspect_weights")
        self.details = inspect_report.build("inspect_details")
        self.reads = gr.State(False)
        """Whether the weights are to be read after the header."""
        self.run = gr.State("")
        """Name of the run that was started here last."""
        self.seen = gr.State(())
        self.renewed = gr.State(0)
        """Changes when the file that is shown was replaced, so that its report is made anew."""
        self.timer = gr.Timer(POLL_SECONDS, active=False)

    # ---- events ------------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        both, looking = [self.path, self.other], [self.path, self.other, self.run]
        queued = quiet(queue=True, concurrency_limit=1, concurrency_id="inspect")
        looked = self.path.change(self.show, looking, self.header_parts, **quiet(trigger_mode="always_last"))
        weighed = looked.then(self.weigh, {self.path, self.reads}, {self.overview, self.weights, self.reads}, **queued)
        compared = weighed.then(self.compare, both, self.compared, **queued)
        started = self.other.change(self.comparing, both, self.compared, **quiet(trigger_mode="always_last"))
        again = started.then(self.compare, both, self.compared, **queued)
        self.path.change(None, None, None, cancels=[weighed, compared], **quiet())
        self.other.change(None, None, None, cancels=[again], **quiet())
        self.connect_tools(queued)

    def connect_tools(self, queued: dict[str, Any]) -> None:
        panel, handover = self.panel, self.ui.handover
        self.send.click(handover.named, self.path, handover.outputs, **quiet())
        for tool, button in self.buttons.items():
            button.click(self.opener(tool), self.path, panel.outputs, **quiet(queue=True))
        panel.close_button.click(panel.close, None, panel.outputs, **quiet())
        panel.start_button.click(
            self.start,
            {self.path, *panel.inputs},
            {*panel.outputs, *self.job_parts},
            **quiet(trigger_mode="once", queue=True),
        )
        self.timer.tick(self.poll, [self.run, self.seen], self.job_parts, **quiet())
        acting = [self.run, self.renewed]
        self.job.select(self.act, acting, {self.job, self.path, self.renewed}, **quiet(queue=True))
        shown = self.renewed.change(self.show, [self.path, self.other, self.run], self.header_parts, **quiet())
        shown.then(self.weigh, {self.path, self.reads}, {self.overview, self.weights, self.reads}, **queued)
        for part in (self.overview, self.weights):
            asked = part.select(self.asked, self.path, {*panel.outputs, self.weights, self.reads}, **quiet())
            asked.then(self.weigh, {self.path, self.reads}, {self.overview, self.weights, self.reads}, **queued)

    def connect_form(self) -> None:
        """What needs the fields of the other tabs."""
        form = self.ui.form.inputs
        self.load.click(self.load_settings, {self.path, *form}, {self.loaded, *form}, **quiet(queue=True))
        self.loaded.select(lambda: self.ui.go_to("parameters"), None, {self.ui.tabs}, **quiet())
        found = {block.elem_id: block for block in self.ui.demo.blocks.values() if block.elem_id in MERGE_FIELDS}
        merge = [found[elem_id] for elem_id in MERGE_FIELDS]
        self.panel.merge_button.click(
            self.to_merge, [self.path, self.panel.fields["rank"]], [self.ui.tabs, *merge], **quiet()
        )

    # ---- the report --------------------------------------------------------------------------------------------------

    @property
    def header_parts(self) -> set[Any]:
        parts = {self.head, self.bar, self.load, self.overview, self.weights, self.details, self.compared, self.reads}
        return parts | {self.loaded, self.job, self.run, *self.panel.outputs}

    def show(self, typed: str, other: str, run: str, request: gr.Request) -> Updates:
        """What the header says, and room for what the weights will say."""
        language = language_of(request)
        shown = look(self.reports, typed, language)
        comparing = comparing_html(self.reports, typed, other, language) if shown.is_lora else ""
        stale = {self.job: "", self.run: ""} if is_over(merge_run.progress(self.ui.views, run), typed) else {}
        return self.updates(shown) | {self.compared: comparing, self.loaded: ""} | self.panel.close() | stale

    def updates(self, shown: Shown) -> Updates:
        return {
            self.head: shown.head,
            self.bar: gr.update(visible=shown.is_lora or shown.has_settings),
            self.load: gr.update(interactive=shown.has_settings),
            self.overview: shown.overview,
            self.weights: shown.weights,
            self.details: shown.details,
            self.reads: shown.reads,
        }

    def weigh(self, by_component: Updates, request: gr.Request) -> Updates:
        if not by_component[self.reads]:
            return gr.skip()
        found = weigh(self.reports, by_component[self.path], language_of(request))
        if found is None:
            return {self.weights: "", self.reads: False}
        overview = {self.overview: found.overview} if found.overview else {}
        return {self.weights: found.weights, self.reads: False, **overview}

    def comparing(self, typed: str, other: str, request: gr.Request) -> str:
        return comparing_html(self.reports, typed, other, language_of(request))

    def compare(self, typed: str, other: str, request: gr.Request) -> str:
        return compared(self.reports, typed, other, language_of(request))

    # ---- tools -------------------------------------------------------------------------------------------------------

    def opener(self, tool: Tool) -> Any:
        def open_tool(typed: str, request: gr.Request) -> Updates:
            return self.opened(tool, typed, {}, request)

        return open_tool

    def opened(self, tool: Tool, typed: str, given: dict[str, Any], request: gr.Request) -> Updates:
        """The panel of a tool, filled in from the file."""
        language = language_of(request)
        try:
            path = self.reports.file(typed)
            if path is None:
                return self.panel.close()
            if tool == "edit":
                given = entries_of(self.reports.metadata(path))
            if tool == "resize" and "rank" not in given:
                given = {"rank": self.reports.header(path).rank}
        except (UserError, FormError) as error:
            toast.warn(error.message(language))
            return self.panel.close()
        return self.panel.open(tool, path, given, language)

    def asked(self, typed: str, event: gr.EventData, request: gr.Request) -> Updates:
        """A button inside the report: a tool that cures a finding, or reading the weights of a large file."""
        action, values = inspect_report.asked(event)
        if action == "weights":
            return {self.weights: reading_html(self.reports, typed, language_of(request)), self.reads: True}
        if action in TOOLS:
            rank = inspect_report.wanted_rank(values)
            return self.opened(action, typed, {"rank": rank} if rank else {}, request)
        return gr.skip()

    def start(self, by_component: Updates, request: gr.Request) -> Updates:
        """Start the job of the tool that is shown, or say what is missing."""
        language, panel = language_of(request), self.panel
        tool = by_component[panel.tool]
        try:
            path, output = self.reports.file(by_component[self.path]), self.reports.file(by_component[panel.output])
            if tool not in TOOLS or path is None:
                return panel.close()
            overwrite = by_component[panel.overwrite] is True
            target = checked_output(output, path, overwrite)
            source = Source(path, self.reports.metadata(path), self.reports.header(path).precision)
            name = merge_run.start(settings_of(tool, panel.values(by_component), source, target, overwrite))
        except (UserError, FormError) as error:
            return panel.say(error.message(language))
        return {**panel.close(), **self.job_updates(name, (), request)}

    @property
    def job_parts(self) -> set[Any]:
        return {self.job, self.run, self.seen, self.timer}

    def poll(self, name: str, seen: Any, request: gr.Request) -> Updates:
        return self.job_updates(name, seen, request)

    def job_updates(self, name: str, seen: Any, request: gr.Request) -> Updates:
        found = merge_run.progress(self.ui.views, name)
        if found is None:
            return {self.job: "", self.run: "", self.seen: (), self.timer: gr.Timer(active=False)}
        if found.version == seen:
            return gr.skip()
        timer = gr.Timer(active=not found.ended)
        return {
            self.job: job_html(found, language_of(request)),
            self.run: name,
            self.seen: found.version,
            self.timer: timer,
        }

    def act(self, name: str, renewed: int, event: gr.EventData, request: gr.Request) -> Updates:
        """A button of the card of what was made: look at it, or put it in the place of the file it was made from."""
        action, _ = inspect_report.asked(event)
        found = merge_run.progress(self.ui.views, name)
        if found is None or not found.ended:
            return gr.skip()
        try:
            done: Action = after(action, found, self.reports, language_of(request))
        except (UserError, FormError) as error:
            toast.warn(error.message(language_of(request)))
            return gr.skip()
        shown = {self.path: str(done.show)} if done.show else {}
        return {self.job: done.html, self.renewed: renewed + (action == "replace_yes"), **shown}

    def to_merge(self, typed: str, rank: float | None) -> list[Any]:
        """Go on in the Merge tab, with the file and the rank filled in. In the order of MERGE_FIELDS."""
        legal = isinstance(rank, int | float) and 1 <= rank <= 4096
        path = typed if isinstance(typed, str) else ""
        return [gr.Tabs(selected="merge"), "resize", path, "rank", int(rank) if legal else gr.skip()]

    # ---- training settings -------------------------------------------------------------------------------------------

    def load_settings(self, by_component: Updates, request: gr.Request) -> Updates:
        """Put what the file was trained with into the form, and say what was taken."""
        language, form = language_of(request), self.ui.form
        values = form.values(by_component)
        try:
            path = self.reports.file(by_component[self.path])
            if path is None:
                return gr.skip()
            found = settings_in(path, self.reports.metadata(path), values)
        except (UserError, FormError) as error:
            toast.warn(error.message(language))
            return gr.skip()
        return {self.loaded: loaded_html(found, path.name, language), **form.write(found.settings, values)}
