"""The list of LoRA files of the Merge tab: a box, a ratio, a card and a layer-weight editor for each."""

from collections.abc import Mapping
from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

from app.folder_view import Wanted
from app.i18n import t
from app.merge.form import DEFAULTS, ROWS
from app.widgets import block_weights
from app.widgets.path_picker import PathPicker

LORA_FILES = Wanted("file", (".safetensors",))


@dataclass(frozen=True)
class LoraRow:
    """The components of one row; ``fields`` by their key in app/merge/form.py."""

    box: gr.Column
    fields: Mapping[str, Component]
    card: gr.HTML
    mix: gr.Accordion
    editor: gr.HTML
    remove: gr.Button


def build(picker: PathPicker) -> dict[int, LoraRow]:
    """Place all rows here; those that are not wanted are hidden."""
    return {row: _row(picker, row) for row in ROWS}


def _row(picker: PathPicker, row: int) -> LoraRow:
    with gr.Column(visible=row <= 2, elem_id=f"merge_row{row}", elem_classes="mg-row") as box:
        with gr.Row(elem_classes="mg-line", equal_height=False):
            with gr.Column(scale=1, min_width=240, elem_classes="mg-file"):
                path = picker.box(
                    f"merge-path{row}",
                    LORA_FILES,
                    label=t(f"merge_tab.lora{row}"),
                    elem_classes="kb-field",
                    max_lines=1,
                    placeholder=t("merge_tab.lora_placeholder"),
                )
            ratio = gr.Number(
                DEFAULTS[f"ratio{row}"],
                label=t("merge_tab.ratio"),
                elem_id=f"f-merge-ratio{row}",
                elem_classes=["kb-field", "mg-ratio"],
                step=0.05,
                scale=0,
                min_width=96,
            )
            remove = gr.Button(
                t("merge_tab.remove"),
                elem_id=f"merge_remove{row}",
                elem_classes="mg-remove",
                size="sm",
                scale=0,
                min_width=44,
                visible=False,
            )
        card = gr.HTML("", elem_id=f"merge_card{row}", elem_classes="kb-report", padding=False, apply_default_css=False)
        with gr.Accordion(t("merge_tab.weights"), open=False, elem_id=f"merge_mix{row}", elem_classes="mg-mix") as mix:
            editor = block_weights.build(f"merge_editor{row}")
            weights = gr.Textbox(
                "",
                label=t("merge_tab.weights_line"),
                info=t("merge_tab.weights_help"),
                placeholder="1,0,0,0,1,1,1,1,1,1,1,1,1,1,1,1,1",
                elem_id=f"f-merge-weights{row}",
                elem_classes="kb-field",
                max_lines=3,
            )
    fields = {f"path{row}": path, f"ratio{row}": ratio, f"weights{row}": weights}
    return LoraRow(box, fields, card, mix, editor, remove)
