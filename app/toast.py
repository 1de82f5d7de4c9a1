"""Short messages in the corner of the page. Handlers that use them go through the queue: others can't show any."""

from html import escape

import gradio as gr

from app.i18n import say
from lora_core.i18n import Language

_SECONDS = 6.0


def info(words: str, language: Language) -> None:
    gr.Info(escape(words), duration=_SECONDS, title=say("toast.info", language))


def warn(words: str, language: Language) -> None:
    gr.Warning(escape(words), duration=2 * _SECONDS, title=say("toast.warning", language))
