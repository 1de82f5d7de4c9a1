"""The panels of the Guide tab: each one HTML component, drawn by the script of its name beside this file."""

from pathlib import Path

import gradio as gr


def build(name: str) -> gr.HTML:
    """Place a panel, such as "guide_first". ``select`` events ask, ``submit`` events do."""
    return gr.HTML(
        None,
        html_template="",
        js_on_load=Path(__file__).with_name(f"{name}.js").read_text(encoding="utf-8"),
        elem_id=name,
        elem_classes=["kb-report"],
        padding=False,
        apply_default_css=False,
    )
