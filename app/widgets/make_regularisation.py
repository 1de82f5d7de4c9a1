"""Regularisation pictures from the Folders tab: a small form, the job's progress, and a look through what it drew."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from app import toast
from app.folder_view import is_allowed
from app.form import read_legal
from app.i18n import language_of, say, t
from app.merge import run as job_runs
from app.merge.view import progress_html
from app.page import Ui, quiet
from app.shared_files import shared_folder, thumbnail
from lora_core import jobs
from lora_core.data.regularisation import class_folder, discard, pictures_there
from lora_core.errors import UserError
from lora_core.runs import home, read_job_settings
from lora_core.settings import RunSettings
from lora_core.settings.tools import RegularisationSettings, checked

MOST_SHOWN = 300
Inputs = dict[Component, Any]


def build(ui: Ui) -> None:
    """Place the section; its events need the whole form and come later."""
    with ui.advanced("folders.make_reg"):
        gr.Markdown(t("folders.make_reg.help"), elem_classes="kb-hint")
        with gr.Row():
            prompt = gr.Textbox(label=t("folders.make_reg.prompt"), placeholder="bear", elem_id="reg_prompt")
            count = gr.Number(None, label=t("folders.make_reg.count"), precision=0, minimum=1, elem_id="reg_count")
            seed = gr.Number(1, label=t("folders.make_reg.seed"), precision=0, minimum=0, elem_id="reg_seed")
        with gr.Row():
            negative = gr.Textbox(label=t("folders.make_reg.negative"), elem_id="reg_negative")
            captions = gr.Checkbox(label=t("folders.make_reg.captions"), elem_id="reg_captions")
        with gr.Row():
            make = gr.Button(t("folders.make_reg.go"), variant="primary", size="sm", elem_id="reg_make")
            stop = gr.Button(t("folders.make_reg.stop"), size="sm", visible=False, elem_id="reg_stop")
            look = gr.Button(t("folders.make_reg.look"), size="sm", elem_id="reg_look")
        progress = gr.HTML("", elem_id="reg_progress", padding=False)
        gallery = gr.Gallery(
            label=t("folders.make_reg.pictures"), columns=8, height=320, visible=False, elem_id="reg_gallery"
        )
        aside = gr.Button(t("folders.make_reg.discard"), size="sm", visible=False, elem_id="reg_discard")
    fields = {"prompt": prompt, "count": count, "seed": seed, "negative": negative, "captions": captions}
    buttons = {"make": make, "stop": stop, "look": look, "discard": aside}
    events = Maker(ui, fields, buttons, progress, gallery)
    ui.later.append(events.connect)


class Maker:
    """The events of the section."""

    def __init__(
        self,
        ui: Ui,
        fields: dict[str, Component],
        buttons: dict[str, gr.Button],
        progress: gr.HTML,
        gallery: gr.Gallery,
    ):
        self.ui, self.fields, self.buttons = ui, fields, buttons
        self.progress, self.gallery = progress, gallery
        self.run = gr.State("")
        """Name of the run folder of the job."""
        self.shown = gr.State([])
        """Paths of the pictures in the gallery, in its order."""
        self.chosen = gr.State(None)
        """Number of the picture that was clicked."""
        self.timer = gr.Timer(1, active=False)

    def connect(self) -> None:
        form, buttons = self.ui.form, self.buttons
        everything = {*form.inputs, *self.fields.values(), self.run, self.shown, self.chosen}
        reg_dir = form.components["dataset.reg_dir"]
        pictures = {self.gallery, self.shown, self.chosen, buttons["discard"]}
        polled = {self.progress, buttons["stop"], self.timer, reg_dir, *pictures}
        started = {self.run, self.timer, buttons["stop"]}
        buttons["make"].click(self.make, everything, started, **quiet(queue=True, trigger_mode="once"))
        buttons["stop"].click(job_runs.stop, self.run, None, **quiet())
        buttons["look"].click(self.look, everything, pictures, **quiet())
        self.timer.tick(self.poll, everything, polled, **quiet())
        self.gallery.select(self.choose, None, self.chosen, **quiet())
        buttons["discard"].click(self.discard, everything, pictures, **quiet(trigger_mode="once"))
        self.ui.demo.load(self.find, None, {self.run, self.timer}, **quiet())

    # ---- the job -----------------------------------------------------------------------------------------------------

    def settings(self, by_component: Inputs) -> RegularisationSettings:
        """The job. Raises UserError (SettingsError for single values) for what can't be used."""
        training = read_legal(self.ui.form.values(by_component))
        given = {name: by_component[field] for name, field in self.fields.items()}
        folder = training.dataset.reg_dir or free_folder(training)
        if not is_allowed(folder, self.ui.context.roots):
            raise UserError("regularisation.no_folder")
        return checked(
            RegularisationSettings,
            {
                "model": training.model.model_dump(),
                "dataset": training.dataset.model_dump(),
                "folder": folder,
                "device": training.train.device,
                **{name: value for name, value in given.items() if value is not None},
            },
        )

    def make(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """Put the job in line, or say what stands in the way."""
        language = language_of(request)
        try:
            settings = self.settings(by_component)
            class_folder(settings)
            if not settings.model.base.strip():
                raise UserError("preflight.no_model")
            name = job_runs.start(settings)
        except UserError as error:
            toast.warn(error.message(language))
            return {self.run: gr.skip()}
        return {self.run: name, self.timer: gr.Timer(active=True), self.buttons["stop"]: gr.update(visible=True)}

    def find(self) -> Inputs:
        """After a reload: the job that is still under way."""
        current = jobs.current()
        for run in [*([current] if current else []), *jobs.queue()]:
            if is_regularisation(run):
                return {self.run: run.path.name, self.timer: gr.Timer(active=True)}
        return {self.run: gr.skip()}

    def poll(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """Show how far the job is and what it drew; fill in the folder when it is done."""
        found = job_runs.progress(self.ui.views, by_component[self.run])
        if found is None:
            return {self.timer: gr.Timer(active=False)}
        answer: Inputs = {self.progress: progress_html(found, language_of(request))}
        answer[self.buttons["stop"]] = gr.update(visible=not found.ended)
        folder = folder_of(found.run)
        paths = [] if folder is None else pictures_there(folder)[:MOST_SHOWN]
        if [str(path) for path in paths] != by_component[self.shown]:
            answer |= self.pictures(paths)
        if found.ended:
            answer[self.timer] = gr.Timer(active=False)
        if found.state == "finished" and folder is not None:
            answer[self.ui.form.components["dataset.reg_dir"]] = str(folder.parent)
        return answer

    # ---- looking through ---------------------------------------------------------------------------------------------

    def look(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """Show the pictures of the class that are there."""
        try:
            paths = pictures_there(class_folder(self.settings(by_component)))[:MOST_SHOWN]
        except UserError as error:
            toast.warn(error.message(language_of(request)))
            return {self.gallery: gr.skip()}
        if not paths:
            toast.info(say("folders.make_reg.none", language_of(request)))
        return self.pictures(paths)

    def pictures(self, paths: list[Path]) -> Inputs:
        small = [(path, page_copy(path)) for path in paths]
        there = [(path, copy) for path, copy in small if copy is not None]
        return {
            self.gallery: gr.update(value=[copy for _, copy in there], visible=bool(there), selected_index=None),
            self.shown: [str(path) for path, _ in there],
            self.chosen: None,
            self.buttons["discard"]: gr.update(visible=bool(there)),
        }

    def choose(self, event: gr.SelectData) -> int | None:
        return event.index if isinstance(event.index, int) else None

    def discard(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """Put the chosen picture aside, without asking: it can be put back by hand."""
        shown, chosen, language = by_component[self.shown], by_component[self.chosen], language_of(request)
        if chosen is None or not 0 <= chosen < len(shown):
            toast.info(say("folders.make_reg.choose", language))
            return {self.gallery: gr.skip()}
        try:
            aside = discard(Path(shown[chosen]))
        except UserError as error:
            toast.warn(error.message(language))
            return {self.gallery: gr.skip()}
        toast.info(say("folders.make_reg.discarded", language, path=aside))
        return self.pictures([Path(path) for number, path in enumerate(shown) if number != chosen])


def free_folder(training: RunSettings) -> Path:
    """Where the pictures go while no folder is chosen: "reg" beside the image folder, as Kohya's layout has it."""
    train_dir = training.dataset.train_dir
    return train_dir.absolute().parent / "reg" if train_dir else home() / "reg"


def is_regularisation(run: Any) -> bool:
    return folder_of(run) is not None


def folder_of(run: Any) -> Path | None:
    """The folder that a run draws into; None for other jobs."""
    try:
        settings = read_job_settings(run.settings)
        return class_folder(settings) if isinstance(settings, RegularisationSettings) else None
    except (OSError, ValueError, UserError):
        return None


def page_copy(picture: Path) -> str | None:
    """The small copy of a picture that the page may read."""
    addresses = thumbnail(picture)
    return None if addresses is None else str(shared_folder() / "pictures" / addresses[0].rpartition("/")[2])
