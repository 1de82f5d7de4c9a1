"""Short messages in the corner of the page. Handlers that use them go through the queue: others can't show any."""

from html import escape

import gradio as gr

_SECONDS = 6.0


def info(words: str) -> None:
    gr.Info(escape(words), duration=_SECONDS)


def warn(words: str) -> None:
    gr.Warning(escape(words), duration=2 * _SECONDS)
