"""Source model: what the LoRA is trained on."""

import gradio as gr

from app.folder_view import Wanted
from app.i18n import t
from app.live import model_html
from app.page import Ui, quiet
from lora_core.families.source import BUILT_IN

MODEL_FILES = Wanted("either", (".safetensors", ".ckpt"))


def build(ui: Ui) -> None:
    form = ui.form
    with gr.Column(elem_classes="kb-section"):
        base = ui.picker.field(form, "model.base", MODEL_FILES, placeholder=t("model.placeholder"))
        ui.report(model_html, "model_card")
        ui.picker.field(form, "model.clip_l", MODEL_FILES)
        ui.picker.field(form, "model.t5", MODEL_FILES)
        built_in = gr.Button(t("model.use_built_in"), size="sm", elem_id="use_built_in", elem_classes="kb-small")
    with ui.advanced("model.more"):
        ui.picker.field(form, "model.vae", MODEL_FILES)
        with gr.Row():
            form.field("model.clip_skip")
            form.field("model.max_token_length")
            form.field("model.prediction_type")
            form.field("model.t5_max_token_length")
            form.field("model.guidance")
            form.field("model.apply_t5_attn_mask")
        with gr.Row():
            form.field("model.family")
            form.field("model.allow_download")
    built_in.click(lambda: BUILT_IN, None, base, **quiet())
