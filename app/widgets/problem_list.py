"""The list of problems above Train model, which also marks the fields they are about."""

from pathlib import Path

import gradio as gr


def build(elem_id: str = "kb_problems") -> gr.HTML:
    """Place the list. Its value is ``{"items": [...], "words": {...}}`` or None; ``select`` events carry a click."""
    return gr.HTML(
        None,
        html_template="",
        js_on_load=Path(__file__).with_suffix(".js").read_text(encoding="utf-8"),
        elem_id=elem_id,
        padding=False,
        apply_default_css=False,
    )
