"""The panel of First LoRA on the Guide tab: the steps after the folder, drawn by the browser."""

from pathlib import Path

import gradio as gr


def build() -> gr.HTML:
    """Place the panel. ``select`` events carry what is typed, ``submit`` that it is to be put into the form."""
    return gr.HTML(
        None,
        html_template="",
        js_on_load=Path(__file__).with_suffix(".js").read_text(encoding="utf-8"),
        elem_id="guide_first",
        elem_classes=["kb-report"],
        padding=False,
        apply_default_css=False,
    )
