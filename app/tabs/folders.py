"""Folders: the images to learn from, and where the LoRA goes."""

import gradio as gr

from app.folder_view import Wanted
from app.i18n import t
from app.live import folders_html
from app.page import Ui

FOLDER = Wanted("folder")


def build(ui: Ui) -> None:
    form = ui.form
    with gr.Row(equal_height=False, elem_classes="kb-columns"):
        with gr.Column(scale=3, min_width=320, elem_classes="kb-section"):
            gr.Markdown(t("folders.images"), elem_classes="kb-title")
            ui.picker.field(form, "dataset.train_dir", FOLDER)
            form.field("dataset.trigger_words")
            ui.picker.field(form, "dataset.reg_dir", FOLDER)
        with gr.Column(scale=2, min_width=320, elem_classes="kb-section"):
            gr.Markdown(t("folders.found"), elem_classes="kb-title")
            ui.report(folders_html, "folder_report")
    with gr.Column(elem_classes="kb-section"):
        gr.Markdown(t("folders.output"), elem_classes="kb-title")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                ui.picker.field(form, "save.output_dir", FOLDER)
            with gr.Column(scale=1, min_width=220):
                form.field("save.output_name")
        form.field("save.overwrite")
    with ui.advanced("folders.saving"):
        with gr.Row():
            form.field("save.save_every_n_epochs")
            form.field("save.save_every_n_steps")
            form.field("save.keep_last_n")
            form.field("save.save_precision")
        with gr.Row():
            form.field("save.save_state")
            form.field("save.tensorboard")
        ui.picker.field(form, "save.resume", FOLDER)
    with ui.advanced("folders.metadata"):
        with gr.Row():
            form.field("save.title")
            form.field("save.author")
        with gr.Row():
            form.field("save.license")
            form.field("save.tags")
        form.field("save.description")
        form.field("save.comment")
