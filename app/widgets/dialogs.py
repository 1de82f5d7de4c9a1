"""Boxes over the page: a title, a line for what went wrong, and a button that closes."""

from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from app.i18n import t
from app.page import quiet

Inputs = dict[Component, Any]


@dataclass(frozen=True)
class Dialog:
    """A box over the page with a line for what went wrong."""

    box: gr.Column
    message: gr.HTML

    def close(self) -> dict[Component, Any]:
        return {self.box: gr.update(visible=False), self.message: ""}

    def say(self, words: str) -> dict[Component, Any]:
        return {
            self.message: f'<div class="kb-dialog-error" role="alert">{escape(words).replace(chr(10), "<br>")}</div>'
        }

    @property
    def outputs(self) -> set[Component]:
        return {self.box, self.message}


def dialog_box(key: str, elem_id: str) -> gr.Column:
    """The box, hidden until it is opened; to be filled in a ``with`` block."""
    column = gr.Column(visible=False, elem_classes="kb-modal", elem_id=elem_id)
    with column:
        gr.Markdown(t(key), elem_classes="kb-title")
    return column


def cancel(dialog: Dialog, key: str = "bar.cancel") -> None:
    """Place the button that closes; Escape presses it."""
    button = gr.Button(t(key), elem_classes="kb-cancel", size="sm")
    button.click(dialog.close, None, dialog.outputs, **quiet())
