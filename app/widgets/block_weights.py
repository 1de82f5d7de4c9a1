"""The layer-weight editor (階層マージ): a bar for every block, to drag, tap or move by keys, and presets."""

from pathlib import Path

import gradio as gr


def build(elem_id: str) -> gr.HTML:
    """Place an editor. Its value comes from app/merge/blocks.py; ``select`` events carry what somebody changed."""
    return gr.HTML(
        None,
        html_template="",
        js_on_load=Path(__file__).with_suffix(".js").read_text(encoding="utf-8"),
        elem_id=elem_id,
        elem_classes=["bw", "kb-report"],
        padding=False,
        apply_default_css=False,
    )
