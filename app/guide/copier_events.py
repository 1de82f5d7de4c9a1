"""The events of the copier LoRA by difference. All it knows is in the project's file and the run folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from app import toast
from app.form import read_legal
from app.guide.copier import view_of
from app.guide.paths import number_of, path_of
from app.i18n import language_of, say
from app.merge.jobs import INSPECT_BOX
from app.page import Ui, quiet
from lora_core import jobs
from lora_core.errors import UserError
from lora_core.guides import copier_project
from lora_core.guides.copier_project import PROJECTS, Part, Project, chosen, remember, results
from lora_core.preflight import check
from lora_core.runs import JobSettings, home
from lora_core.settings import RunSettings

LATER = "network.network_weights"
"""B goes on from the file of A, which is not there yet while both wait."""
Inputs = dict[Any, Any]
Data = Mapping[str, Any]


class CopierProject:
    """A panel, and the two boxes with the pictures above it."""

    def __init__(self, ui: Ui, before: Any, after: Any, panel: Any):
        self.ui, self.before, self.after, self.panel = ui, before, after, panel

    def connect(self) -> None:
        form, boxes = self.ui.form.inputs, {self.before, self.after}
        inspect, handover = self.ui.picker.targets[INSPECT_BOX].box, self.ui.handover.outputs
        self.panel.select(self.look, boxes, {self.panel, *boxes}, **quiet(trigger_mode="multiple"))
        outputs = {self.panel, self.ui.tabs, inspect, *handover}
        self.panel.submit(self.do, {*boxes, *form}, outputs, **quiet(queue=True, trigger_mode="once"))

    # ---- looking -----------------------------------------------------------------------------------------------------

    def look(self, by_component: Inputs, event: gr.EventData, request: gr.Request) -> Inputs:
        """Show a project, begin one, or give one other pictures."""
        data, language = event._data or {}, language_of(request)
        name, action = str(data.get("project") or ""), data.get("action")
        jobs.advance()
        try:
            if action == "new":
                name = copier_project.begin(str(data.get("name") or ""), *self.pair(by_component)).name
            elif action == "pictures" and name:
                copier_project.other_pictures(PROJECTS.load(name), *self.pair(by_component))
        except UserError as error:
            return {self.panel: view_of(name, language) | {"said": error.message(language)}}
        view = view_of(name, language)
        opened = action == "open" or not (by_component[self.before] or by_component[self.after])
        return {self.panel: view} | (self.shown(view["project"]) if opened else {})

    def shown(self, name: str) -> Inputs:
        """The pictures of a project in their boxes."""
        try:
            project = PROJECTS.load(name)
        except UserError:
            return {}
        return {self.before: str(project.before or ""), self.after: str(project.after or "")}

    def pair(self, by_component: Inputs) -> tuple[Path | None, Path | None]:
        roots = self.ui.context.roots
        return path_of(by_component[self.before], roots), path_of(by_component[self.after], roots)

    # ---- doing -------------------------------------------------------------------------------------------------------

    def do(self, by_component: Inputs, event: gr.EventData, request: gr.Request) -> Inputs:
        """Start the jobs of a step, save the result or show it; or say why not."""
        data, language = event._data or {}, language_of(request)
        name, step = str(data.get("project") or ""), data.get("step")
        page = read_legal(self.ui.form.values(by_component))
        try:
            project = PROJECTS.load(name)
            if step in ("inspect", "send"):
                return self.shows(project, str(step), request)
            said = self.started(project, str(step), data, page)
        except UserError as error:
            toast.warn(error.message(language))
            return {self.panel: view_of(name, language) | {"said": error.message(language)}}
        toast.info(say(f"guide.copy.{said[0]}", language, **said[1]))
        return {self.panel: view_of(name, language)}

    def started(self, project: Project, step: str, data: Data, page: RunSettings) -> tuple[str, dict[str, Any]]:
        """Do a step; what to say of it. Raises UserError for what stands in the way."""
        if step == "train":
            return train(chosen(project, steps=number_of(data.get("steps"))), page, anew=bool(data.get("anew")))
        if step == "difference":
            layers = str(data.get("layers") or "").strip() or None
            project = chosen(project, rank=number_of(data.get("rank")), layers=layers)
            queue(project, "difference", copier_project.merge_settings(project, results(project)))
            return "difference_started", {}
        if step == "grid":
            project = chosen(project, prompts=str(data.get("prompts") or ""))
            queue(project, "grid", copier_project.grid_settings(project, results(project)))
            return "grid_started", {}
        if step != "save":
            raise UserError("guides.no_such_step", step=step[:80])
        folder = page.save.output_dir or home() / "output"
        name = str(data.get("name") or "")
        return "saved", {"path": copier_project.save_result(project, results(project), name, folder)[1]}

    def shows(self, project: Project, step: str, request: gr.Request) -> Inputs:
        """The saved file on Inspect, or in the dialog that sends it to a web UI."""
        path = copier_project.saved_file(project)
        if path is None:
            raise UserError("guides.copier_not_saved")
        if step == "send":
            return self.ui.handover.named(str(path), request)
        return {self.ui.picker.targets[INSPECT_BOX].box: str(path)} | self.ui.go_to("inspect")


def train(project: Project, page: RunSettings, *, anew: bool) -> tuple[str, dict[str, Any]]:
    """Put A and B in line, one after the other; what stands in the way of either is said before the first starts."""
    wanted = copier_project.trainings(project, results(project), page, anew=anew)
    for settings in wanted.values():
        errors = (problem for problem in check(settings) if problem.severity == "error")
        problem = next((problem for problem in errors if problem.path != LATER), None)
        if problem is not None:
            raise UserError(problem.key, **problem.values)
    for part, settings in wanted.items():
        project = queue(project, part, settings)
    return "train_started", {"names": " · ".join(settings.save.output_name for settings in wanted.values())}


def queue(project: Project, part: Part, settings: JobSettings) -> Project:
    return remember(project, part, jobs.start(settings))
