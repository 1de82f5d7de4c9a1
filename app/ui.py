"""The page: header, settings bar, tabs, and the footer with Train model."""

from importlib import import_module
from typing import Any

import gradio as gr
from gradio.components import Component

from app import toast
from app.calm_events import Calm
from app.drafts import save_draft
from app.form import DRAFT, Form, choose_variant, load_draft, union_sections, values_shown
from app.i18n import language_of, say, t
from app.live import Findings, Look, Previews, findings, problem_items
from app.page import FIRST_SHOWN, TABS, Context, Ui, quiet
from app.run_view import Views
from app.settled import Settled
from app.summary import summary_html
from app.theme import HEAD, theme
from app.widgets import header, job_pill, levels, problem_list, search_box, settings_bar
from app.widgets.handover_dialog import HandoverDialog
from app.widgets.path_picker import PathPicker
from app.widgets.preset_dialog import preset_choices
from lora_core import jobs
from lora_core.errors import UserError
from lora_core.i18n import Language
from lora_core.runs import home
from lora_core.settings import RunSettings
from lora_core.settings.applies import governor
from lora_core.settings.fields import chooser_of, fields_of
from lora_core.settings.files import load_settings, remember

__all__ = ["HEAD", "build", "theme"]

Inputs = dict[Component, Any]
_TO_TOP = "() => { if (document.querySelector('#tab_monitor-button[aria-selected=true]')) window.scrollTo(0, 0); }"


def build(context: Context) -> gr.Blocks:
    """The whole page with its events."""
    with gr.Blocks(title="くま工房 Kumakobo", analytics_enabled=False, fill_width=True) as demo:
        ui = Ui(demo, Form(), Views(), context, PathPicker(context.roots))
        ui.handover = HandoverDialog(ui)
        with gr.Row(elem_id="kb_header", equal_height=True):
            header.build()
            pill = job_pill.build(demo, ui.views)
        preset = settings_bar.build(ui)
        with gr.Row(elem_id="kb_find_row", equal_height=True):
            search = search_box.build()
            level_switch = levels.build()
        with gr.Tabs(selected=FIRST_SHOWN, elem_id="kb_tabs", overflow_behavior="wrap") as ui.tabs:
            for name in TABS:
                with gr.Tab(t(f"tab.{name}"), id=name, elem_id=f"tab_{name}"):
                    ui.form.placing = name
                    import_module(f"app.tabs.{name}").build(ui)
        with gr.Column(elem_id="kb_footer"):
            problems = problem_list.build()
            with gr.Row(equal_height=True, elem_id="kb_train_row"):
                ui.report(summary_html, "kb_steps")
                train = gr.Button(t("bar.train"), variant="primary", elem_id="train_button", scale=0, min_width=200)
        ui.handover.connect()
        ui.picker.connect()
        for register in ui.later:
            register()
        calm = Calm(ui, level_switch, search)
        calm.connect(demo)
        Live(ui, problems, preset, train, calm).connect()
        pill.click(lambda: ui.go_to("monitor"), None, ui.tabs, **quiet())
    return demo


class Live:
    """Ties the form to what the page says about it, and to Train model."""

    def __init__(self, ui: Ui, problems: gr.HTML, preset: gr.Dropdown, train: gr.Button, calm: Calm):
        self.ui, self.form, self.calm, self.layout = ui, ui.form, calm, calm.layout
        self.problems, self.preset, self.train_button = problems, preset, train
        self.previews = Previews()
        self.ready = gr.State(False)
        """True when the kept draft is on the page: before that, defaults must not overwrite it."""
        self.attempted = gr.State(False)
        """True after Train model was refused: then empty required fields count as problems."""
        self.draft = home() / "form.json"

    def connect(self) -> None:
        everything = {*self.form.inputs, self.ready, self.attempted}
        reports = {self.problems, self.calm.levels, *self.ui.reports}
        changes = [self.ui.tabs.change, *(component.change for component in self.form.components.values())]
        changed = Settled(changes, "kb_form_changed")
        changed.then(self.refresh, everything, reports, **quiet(trigger_mode="always_last"))
        restored = self.ui.demo.load(self.restore, None, {*self.form.inputs, self.preset, self.ready}, **quiet())
        for event in (restored, *self.ui.written):
            changed.after(event)
        for section in union_sections():
            self.form.components[chooser_of(section)].input(
                self.chooser(section), self.form.inputs, self.section_outputs(section), **quiet()
            )
        self.problems.select(self.follow, self.form.inputs, self.form.inputs, **quiet())
        self.train_button.click(
            self.train,
            everything,
            {*reports, self.ui.tabs, self.attempted},
            **quiet(trigger_mode="once", queue=True),
        ).then(None, js=_TO_TOP, **quiet())

    def restore(self, request: gr.Request) -> Inputs:
        """Put what was on the page last time back, and fill in what depends on the language."""
        presets = gr.update(choices=preset_choices(language_of(request)), value="")
        kept = load_draft(self.draft)
        # What is as it began is left alone: setting it would cost the browser time. But an empty number that was never
        # set would be shown as 0.
        other = {path: value for path, value in kept.items() if value is None or value != DRAFT[path]}
        return self.form.show(other) | {self.preset: presets, self.ready: True}

    def refresh(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """Say what there is to say about the form as it is now, and keep it for the next visit."""
        values = self.form.values(by_component)
        if by_component[self.ready]:
            save_draft(values, self.draft)
        said = self.say(values, language_of(request), attempted=by_component[self.attempted])
        return said | {self.calm.levels: self.calm.looks(values, request)}

    def say(self, values: dict[str, Any], language: Language, *, attempted: bool) -> Inputs:
        return self.report(findings(values, all_required=attempted), language, insist=False)

    def report(self, found: Findings, language: Language, *, insist: bool) -> Inputs:
        look = Look(found.settings, self.previews.get(found.settings))
        said = {place: make(look, language) for place, make in self.ui.reports.items()}
        return said | {self.problems: self.listed(found, language, insist)}

    def listed(self, found: Findings, language: Language, insist: bool) -> dict[str, Any] | None:
        """The value of the list of problems; ``insist`` unfolds it."""
        problems = found.problems
        if not problems:
            return None
        errors = sum(problem.severity == "error" for problem in problems)
        warnings = len(problems) - errors
        key = "problems.warnings" if not errors else "problems.errors" if warnings else "problems.errors_only"
        head = say(key, language, errors=errors, warnings=warnings)
        items = problem_items(problems, self.form.tab_of, language)
        return {
            "items": [item | {"place": self.place(item["path"], found)} for item in items],
            "words": {"head": head},
            "open": insist,
        }

    def place(self, path: str, found: Findings) -> dict[str, Any]:
        """The way to a field, or to the one that has to change before it is shown."""
        return self.layout.place(governor(path, values_shown(found.settings)) if path in fields_of() else path)

    def train(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """Start the run, or say at the fields why not."""
        values, language = self.form.values(by_component), language_of(request)
        found = findings(values, starting=True)
        said = self.report(found, language, insist=True) | {self.attempted: True}
        if found.errors:
            return said
        if name := same_place(found.settings):
            toast.warn(say("train.same_name", language, name=name))
            return said | self.ui.go_to("monitor")
        try:
            busy = jobs.current() is not None
            run = jobs.start(found.settings)
        except UserError as error:
            toast.warn(error.message(language))
            return said
        remember(run.settings)
        save_draft(values, self.draft)
        words = say("train.queued" if busy else "train.started", language, name=found.settings.save.output_name)
        toast.info(words)
        return said | {self.attempted: False} | self.ui.go_to("monitor")

    def follow(self, by_component: Inputs, event: gr.EventData) -> Inputs:
        """A click in the list of problems that puts a fix into the form."""
        data = event._data or {}
        if data.get("action") == "fix" and isinstance(data.get("fix"), dict):
            return self.fixed(self.form.values(by_component), data["fix"])
        return {next(iter(self.form.inputs)): gr.skip()}

    def fixed(self, values: dict[str, Any], fix: dict[str, Any]) -> Inputs:
        changed = values | {path: value for path, value in fix.items() if path in values}
        for section in union_sections():
            if chooser_of(section) in fix:
                changed |= {p: v for p, v in choose_variant(changed, section).items() if p not in fix}
        return self.form.show_changes(values, changed)

    def chooser(self, section: str) -> Any:
        def choose(by_component: Inputs) -> Inputs:
            values = self.form.values(by_component)
            return self.form.show_changes(values, choose_variant(values, section))

        return choose

    def section_outputs(self, section: str) -> set[Component]:
        name = chooser_of(section)
        return {c for path, c in self.form.components.items() if path.startswith(f"{section}.") and path != name}


def same_place(settings: RunSettings) -> str | None:
    """The output name, if a run that trains or waits will already write these very files: two clicks on Train model."""
    current = jobs.current()
    for run in [*([current] if current else []), *jobs.queue()]:
        try:
            other = load_settings(run.settings).save
        except UserError:
            continue
        if (other.output_dir, other.output_name) == (settings.save.output_dir, settings.save.output_name):
            return other.output_name
    return None
