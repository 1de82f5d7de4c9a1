"""The switch between Beginner, Standard and Expert, which also hides settings and marks the changed ones."""

from pathlib import Path

import gradio as gr

from app.calm import COOKIE


def build() -> gr.HTML:
    """Place the switch here. Its value is ``calm.look``; ``select`` events ask for a new look or undo a change."""
    script = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    return gr.HTML(
        None,
        html_template="",
        js_on_load=script.replace("COOKIE", COOKIE),
        elem_id="kb_levels",
        padding=False,
        apply_default_css=False,
    )
