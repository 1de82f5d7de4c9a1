"""The box that finds a setting and goes there. Ctrl+K puts the cursor into it."""

from pathlib import Path

import gradio as gr


def build() -> gr.HTML:
    """Place the box here. Its value is ``{"query", "hits", "words"}``; a ``select`` event carries what is typed."""
    return gr.HTML(
        None,
        html_template="",
        js_on_load=Path(__file__).with_suffix(".js").read_text(encoding="utf-8"),
        elem_id="kb_search",
        padding=False,
        apply_default_css=False,
    )
