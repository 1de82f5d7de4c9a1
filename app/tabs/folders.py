"""Folders: the images to learn from, and where the LoRA goes."""

from functools import partial
from typing import Any

import gradio as gr

from app.dataset_table import EMPTY_ROW, read_rows, save_rows
from app.folder_view import Wanted
from app.i18n import language_of, say, t
from app.live import folders_html
from app.page import Ui, quiet
from app.pair_view import pair_html
from app.toast import info, warn
from app.widgets import make_regularisation
from lora_core.data.dataset_table import COLUMNS
from lora_core.data.listing import IMAGE_ENDINGS
from lora_core.errors import UserError
from lora_core.i18n import Language

FOLDER = Wanted("folder")
PICTURES = Wanted("either", tuple(sorted(IMAGE_ENDINGS)))
DATASET_FILE = Wanted("file", (".toml", ".json"))
CAPTION_LIST = Wanted("file", (".json",))


def build(ui: Ui) -> None:
    form = ui.form
    with gr.Row(equal_height=False, elem_classes="kb-columns"):
        with gr.Column(scale=3, min_width=320, elem_classes="kb-section"):
            gr.Markdown(t("folders.images"), elem_classes="kb-title")
            ui.picker.field(form, "dataset.train_dir", FOLDER)
            form.field("dataset.trigger_words")
            ui.picker.field(form, "dataset.reg_dir", FOLDER)
            make_regularisation.build(ui)
        with gr.Column(scale=2, min_width=320, elem_classes="kb-section"):
            gr.Markdown(t("folders.found"), elem_classes="kb-title")
            ui.report(folders_html, "folder_report")
    with ui.advanced("folders.several"):
        _several(ui)
    with ui.advanced("folders.pair"):
        _pair(ui)
    with ui.advanced("folders.slider"):
        _slider(ui)
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


def _pair(ui: Ui) -> None:
    """Two pictures in place of folders: a copier LoRA from their difference."""
    gr.Markdown(t("folders.pair_help"), elem_classes="kb-hint")
    ui.picker.field(ui.form, "dataset.pair_before", PICTURES)
    ui.picker.field(ui.form, "dataset.pair_after", PICTURES)
    ui.report(partial(pair_html, roots=ui.context.roots), "pair_report")


def _slider(ui: Ui) -> None:
    """Prompts in place of pictures: a concept slider."""
    form = ui.form
    gr.Markdown(t("folders.slider_help"), elem_classes="kb-hint")
    form.field("slider.target")
    with gr.Row():
        form.field("slider.less")
        form.field("slider.more")
    with gr.Row():
        form.field("slider.keep", lines=2)
        form.field("slider.guidance")


def _several(ui: Ui) -> None:
    """The dataset file, and its subsets as a table."""
    form = ui.form
    file = ui.picker.field(form, "dataset.config", DATASET_FILE, placeholder="dataset.toml")
    gr.Markdown(t("folders.table_help"), elem_classes="kb-hint")
    table = gr.Dataframe(
        [EMPTY_ROW],
        headers=headers("en"),
        datatype=["str", "str", "str", "str", "bool", "str", "str", "str"],
        type="array",
        column_count=len(COLUMNS),
        static_columns=[0],
        interactive=True,
        show_label=False,
        elem_id="dataset_table",
    )
    with gr.Row():
        read = gr.Button(t("folders.table_read"), size="sm", elem_id="dataset_table_read")
        save = gr.Button(t("folders.table_save"), size="sm", elem_id="dataset_table_save")
    ui.picker.field(form, "dataset.metadata_file", CAPTION_LIST)
    handlers = Table(ui)
    gr.on([ui.demo.load, file.change], handlers.follow, file, table, **quiet())
    read.click(handlers.read, file, table, **quiet(queue=True))
    save.click(handlers.save, [file, table], table, **quiet(queue=True))


def headers(language: Language) -> list[str]:
    return [say(f"folders.column.{name}", language) for name in COLUMNS]


class Table:
    """The events of the table of subsets."""

    def __init__(self, ui: Ui):
        self.roots = ui.context.roots

    def follow(self, typed: str, request: gr.Request) -> Any:
        """Show what the named file holds; one that is not there yet leaves the table as it is being filled in.

        What is wrong with a file is said at its field.
        """
        try:
            rows = read_rows(typed, self.roots)
        except UserError:
            return gr.skip()
        return gr.update(headers=headers(language_of(request))) if rows is None else self._shown(rows, request)

    def read(self, typed: str, request: gr.Request) -> Any:
        """Show what the named file holds, or say why it can't be read."""
        try:
            return self._shown(read_rows(typed, self.roots) or [EMPTY_ROW], request)
        except UserError as error:
            warn(error.message(language_of(request)))
            return gr.skip()

    def save(self, typed: str, rows: list[list[Any]], request: gr.Request) -> Any:
        """Write the table, or say why not."""
        language = language_of(request)
        try:
            saved = save_rows(typed, rows, self.roots, language)
            key = "folders.table_saved_before" if saved.before else "folders.table_saved"
            info(say(key, language, path=saved.path, before=saved.before or ""))
            return self._shown(read_rows(typed, self.roots) or [EMPTY_ROW], request)
        except UserError as error:
            warn(error.message(language))
            return gr.skip()

    def _shown(self, rows: list[list[Any]], request: gr.Request) -> Any:
        return gr.update(value=rows, headers=headers(language_of(request)))
