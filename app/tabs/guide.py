"""Guide: flows that ask in a few words, fill in the ordinary form and start ordinary jobs."""

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from app import toast
from app.folder_view import Wanted
from app.form import read_legal
from app.guide import slider as slider_page
from app.guide.copier_events import CopierProject
from app.guide.first_lora import blank, missing, view_of, wish_of
from app.guide.first_lora import gigabytes as card_memory
from app.guide.four_step import view_of as project_of
from app.guide.paths import number_of, path_of
from app.i18n import language_of, say, t
from app.live import Look
from app.merge.jobs import INSPECT_BOX
from app.model_test.events import GUIDE
from app.page import Ui, quiet
from app.pair_view import pair_html
from app.widgets import guide_panel, guide_run
from lora_core.data.listing import IMAGE_ENDINGS
from lora_core.data.subsets import Scan
from lora_core.errors import UserError
from lora_core.guides import copier, four_step, slider
from lora_core.guides.first_lora import lay_out, propose
from lora_core.guides.first_runs import remember
from lora_core.plan import Preview
from lora_core.settings import DatasetSettings, RunSettings

LOOK = "() => { window.kumakobo.guideFirst?.(); }"
LOOK_AT_ALL = "() => { for (const name of ['guideFirst', 'guideFour', 'guideCopier']) window.kumakobo[name]?.(); }"
PICTURE = Wanted("file", tuple(sorted(IMAGE_ENDINGS)))
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
        panel = guide_panel.build("guide_first")
        guide_run.build(ui)
    with ui.advanced("guide.four.title"):
        gr.Markdown(t("guide.four.intro"), elem_classes="kb-hint")
        project = guide_panel.build("guide_four")
    with ui.advanced("guide.copier.title"):
        gr.Markdown(t("guide.copier.intro"), elem_classes="kb-hint")
        boxes = {
            name: ui.picker.box(f"guide-{name}", PICTURE, label=t(f"guide.copier.{name}"), elem_classes=["kb-field"])
            for name in ("before", "after")
        }
        said = gr.HTML("", elem_id="guide_pair", elem_classes="kb-report", padding=False, apply_default_css=False)
        gr.Markdown(t("guide.copier.fast"), elem_classes="kb-hint")
        with gr.Row():
            fill = gr.Button(
                t("guide.copier.fill"), variant="primary", elem_id="guide_copier_fill", scale=0, min_width=180
            )
        gr.Markdown(t("guide.copier.slow"), elem_classes="kb-hint")
        steps = guide_panel.build("guide_copier")
    pair = boxes["before"], boxes["after"]
    flows = (
        *(FirstLora(ui, folder, panel), FourStep(ui, project), _slider(ui)),
        *(Copier(ui, *pair, said, fill), CopierProject(ui, *pair, steps)),
    )
    ui.later += [flow.connect for flow in flows]


def _slider(ui: Ui) -> "Slider":
    """Prompts in a panel; folders in their place are folded away."""
    with ui.advanced("guide.slider.title"):
        gr.Markdown(t("guide.slider.intro"), elem_classes="kb-hint")
        with ui.advanced("guide.slider.folders"):
            gr.Markdown(t("guide.slider.folders_help"), elem_classes="kb-hint")
            boxes = [
                ui.picker.box(
                    f"guide-slider-{name}", Wanted("folder"), label=t(f"guide.slider.{name}"), elem_classes=["kb-field"]
                )
                for name in ("folder_less", "folder_more")
            ]
        panel = guide_panel.build("guide_slider")
        gr.Button(t("guide.slider.grid"), size="sm", elem_id=GUIDE, elem_classes="kb-small")
    return Slider(ui, boxes, panel)


class FirstLora:
    """The events of First LoRA. The panel asks at every change; the form changes only when somebody says so."""

    def __init__(self, ui: Ui, folder: Any, panel: Any):
        self.ui, self.folder, self.panel = ui, folder, panel

    def connect(self) -> None:
        everything = {self.folder, *self.ui.form.inputs}
        self.folder.change(None, js=LOOK, **quiet())
        self.ui.tabs.select(None, js=LOOK_AT_ALL, **quiet())
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
            remember(settings.save.output_name)
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


class FourStep:
    """The events of four-step tuning. All it knows is in the project's file and the run folders."""

    def __init__(self, ui: Ui, panel: Any):
        self.ui, self.panel = ui, panel

    def connect(self) -> None:
        form = self.ui.form.inputs
        box = self.ui.picker.targets[INSPECT_BOX].box
        self.panel.select(self.look, None, self.panel, **quiet())
        done = self.panel.submit(self.do, form, {self.panel, self.ui.tabs, box, *form}, **quiet(queue=True))
        self.ui.written.append(done)

    def look(self, event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        """Show a project, begin one, or take an epoch."""
        data, language = event._data or {}, language_of(request)
        name, action = str(data.get("project") or ""), data.get("action")
        try:
            if action == "new":
                name = four_step.PROJECTS.new(str(data.get("name") or "")).name
            elif action == "epoch" and name:
                four_step.choose_epoch(four_step.PROJECTS.load(name), number_of(data.get("epoch")))
        except UserError as error:
            return project_of(name, language) | {"said": error.message(language)}
        return project_of(name, language)

    def do(self, by_component: Inputs, event: gr.EventData, request: gr.Request) -> Inputs:
        """Fill in the form for a step, or open the final file on Inspect; or say why not."""
        data, language = event._data or {}, language_of(request)
        name, wanted = str(data.get("project") or ""), str(data.get("step") or "")
        values = self.ui.form.values(by_component)
        try:
            project = four_step.PROJECTS.load(name)
            step: four_step.Step = next((known for known in four_step.STEPS if known == wanted), "handover")
            found = four_step.results(project)
            if step == "handover":
                return self.inspect(four_step.final_file(found))
            epoch = four_step.found_epoch(project, found)
            settings = four_step.settings_for(project, step, read_legal(values), epoch)
            four_step.remember(project, step, settings.save.output_name)
        except UserError as error:
            toast.warn(error.message(language))
            return {self.panel: project_of(name, language) | {"said": error.message(language)}}
        toast.info(say("guide.four.filled", language, number=four_step.STEPS.index(step) + 1, name=name))
        return {self.panel: project_of(name, language)} | self.ui.form.write(settings, values)

    def inspect(self, path: Path | None) -> Inputs:
        if path is None:
            return {self.panel: gr.skip()}
        return {self.ui.picker.targets[INSPECT_BOX].box: str(path)} | self.ui.go_to("inspect")


class Copier:
    """The events of the copier LoRA of two pictures."""

    def __init__(self, ui: Ui, before: Any, after: Any, said: Any, fill: Any):
        self.ui, self.before, self.after, self.said, self.button = ui, before, after, said, fill

    def connect(self) -> None:
        boxes, form = [self.before, self.after], self.ui.form.inputs
        gr.on([box.change for box in boxes], self.look, boxes, self.said, **quiet(trigger_mode="always_last"))
        filled = self.button.click(self.fill, {*boxes, *form}, {self.said, *form}, **quiet(queue=True))
        self.ui.written.append(filled)

    def look(self, before: str, after: str, request: gr.Request) -> str:
        """What differs, or why the two are no pair; nothing while one is missing."""
        language, roots = language_of(request), self.ui.context.roots
        try:
            pair = path_of(before, roots), path_of(after, roots)
        except UserError as error:
            return problem_html(error.message(language), "error")
        if None in pair:
            return ""
        problems = [problem_html(found.message(language), found.severity) for found in copier.problems_of(*pair)]
        dataset = DatasetSettings(pair_before=pair[0], pair_after=pair[1])
        shown = Look(RunSettings(dataset=dataset), Preview(Scan(), None))
        return "".join(problems) + pair_html(shown, language, roots)

    def fill(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """Put the preset and the pictures into the form, or say why not."""
        language, roots = language_of(request), self.ui.context.roots
        values = self.ui.form.values(by_component)
        try:
            pair = path_of(by_component[self.before], roots), path_of(by_component[self.after], roots)
            settings = copier.settings_for(*pair, read_legal(values))
        except UserError as error:
            toast.warn(error.message(language))
            return {self.said: problem_html(error.message(language), "error")}
        toast.info(say("guide.copier.filled", language, name=settings.save.output_name))
        return self.ui.form.write(settings, values)


class Slider:
    """The events of the concept slider. The grid button belongs to the Model test tab."""

    def __init__(self, ui: Ui, boxes: list[Any], panel: Any):
        self.ui, self.boxes, self.panel = ui, boxes, panel

    def connect(self) -> None:
        boxes, form = set(self.boxes), self.ui.form.inputs
        gr.on([box.change for box in self.boxes], None, js="() => { window.kumakobo.guideSlider?.(); }", **quiet())
        self.panel.select(self.look, boxes, self.panel, **quiet(trigger_mode="always_last"))
        filled = self.panel.submit(self.fill, {*boxes, *form}, {self.panel, *form}, **quiet(queue=True))
        self.ui.written.append(filled)

    def look(self, by_component: Inputs, event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        """Say what is missing, and what two folders make."""
        return self.view(by_component, event, request)

    def fill(self, by_component: Inputs, event: gr.EventData, request: gr.Request) -> Inputs:
        """Put the preset and the prompts, or folders, into the form; or say why not."""
        language, roots = language_of(request), self.ui.context.roots
        values = self.ui.form.values(by_component)
        try:
            wish = slider_page.wish_of(event._data or {}, self.typed(by_component), roots)
            settings = slider.settings_for(wish, read_legal(values))
        except UserError as error:
            words = error.message(language)
            toast.warn(words)
            return {self.panel: self.view(by_component, event, request) | {"lines": [["error", words]]}}
        done = say("guide.slider.filled", language, name=settings.save.output_name)
        toast.info(done)
        view = self.view(by_component, event, request) | {"filled": done}
        return {self.panel: view} | self.ui.form.write(settings, values)

    def view(self, by_component: Inputs, event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        typed, roots = self.typed(by_component), self.ui.context.roots
        return slider_page.view_of(event._data or {}, typed, roots, language_of(request))

    def typed(self, by_component: Inputs) -> list[str]:
        return [by_component[box] for box in self.boxes]


def problem_html(words: str, severity: str) -> str:
    return f'<div class="kb-problem-line kb-{escape(severity)}">{escape(words)}</div>'
