"""Samples: pictures drawn while training, to see what the LoRA has learned."""

import gradio as gr

from app.i18n import t
from app.page import Ui


def build(ui: Ui) -> None:
    form = ui.form
    with gr.Column(elem_classes="kb-section"):
        form.field("sample.prompts", placeholder=t("samples.placeholder"))
    with gr.Row(equal_height=False, elem_classes="kb-columns"):
        with gr.Column(min_width=320, elem_classes="kb-section"):
            gr.Markdown(t("samples.when"), elem_classes="kb-title")
            with gr.Row():
                form.field("sample.every_n_epochs")
                form.field("sample.every_n_steps")
            form.field("sample.at_start")
        with gr.Column(min_width=320, elem_classes="kb-section"):
            gr.Markdown(t("samples.how"), elem_classes="kb-title")
            with gr.Row():
                form.field("sample.sampler")
                form.field("sample.steps")
            with gr.Row():
                form.field("sample.guidance")
                form.field("sample.seed")
