"""Model test: pictures with LoRAs on any base model, and grids of a run's saved epochs by strength."""

from typing import Any

import gradio as gr

from app.folder_view import Wanted
from app.i18n import t
from app.model_test.events import Events, Parts
from app.model_test.form import COLUMNS, DEFAULTS, MODES, ROWS, SAMPLERS
from app.page import Ui
from app.widgets import gallery
from app.widgets.run_status import COPY_ON_CLICK
from lora_core.generate.prompts import SAMPLER_NAMES

FILES = Wanted("either", (".safetensors",))
KEYS = """
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  if (!document.querySelector("#tab_model_test-button[aria-selected=true]")) return;
  event.preventDefault();
  event.stopPropagation();
  document.getElementById("mt_go").click();
}, true);
"""
"""Ctrl+Enter draws here; everywhere else on the page it trains."""
FREE = """
element.addEventListener("click", (event) => {
  if (event.target.closest("button.mt-free:not([disabled])")) trigger("select", {});
});
"""


def build(ui: Ui) -> None:
    parts = Parts()
    parts.fields["run"] = gr.State(DEFAULTS["run"])
    with gr.Row(equal_height=False, elem_classes="kb-columns"):
        with gr.Column(min_width=320, elem_classes="kb-section"):
            _model(ui, parts)
        with gr.Column(min_width=320, elem_classes="kb-section"):
            _drawing(parts)
    _start(ui, parts)
    Events(ui, parts).connect()


def _model(ui: Ui, parts: Parts) -> None:
    _file(ui, parts, "base", placeholder=t("model_test.base_placeholder"))
    _text(parts, "prompts", lines=4, max_lines=12, placeholder=t("model_test.prompts.placeholder"))
    _text(parts, "negative", lines=1, max_lines=4)
    _file(ui, parts, "lora")
    _number(parts, "strength", step=0.05)
    with ui.advanced("model_test.more"):
        for key in ("vae", "clip_l", "t5"):
            _file(ui, parts, key)
        _number(parts, "clip_skip", step=1)


def _drawing(parts: Parts) -> None:
    for keys in (("width", "height"), ("steps", "guidance"), ("seed", "count")):
        with gr.Row():
            for key in keys:
                _number(parts, key, step={"width": 64, "height": 64, "guidance": 0.5}.get(key, 1), min_width=110)
    _choice(parts, "sampler", [(SAMPLER_NAMES[name], name) for name in SAMPLERS])


def _start(ui: Ui, parts: Parts) -> None:
    with gr.Column(elem_classes="kb-section", elem_id="mt_start"):
        with gr.Row(equal_height=True):
            parts.fields["mode"] = gr.Radio(
                [(t(f"model_test.mode.{mode}"), mode) for mode in MODES],
                value=DEFAULTS["mode"],
                label=t("model_test.mode"),
                elem_id="f-mt-mode",
                elem_classes="kb-field",
            )
            parts.buttons["latest"] = gr.Button(
                t("model_test.latest"), size="sm", elem_id="mt_latest", elem_classes="kb-small", scale=0, min_width=220
            )
        with gr.Column(visible=False) as parts.boxes["grid_part"]:
            _grid(ui, parts)
        parts.places["problems"] = gr.HTML(
            "", elem_id="mt_problems", elem_classes="kb-report", padding=False, js_on_load=KEYS
        )
        with gr.Row(elem_classes="mg-go"):
            parts.buttons["go"] = gr.Button(
                t("model_test.go"), variant="primary", elem_id="mt_go", scale=0, min_width=220
            )
            parts.buttons["proof"] = gr.Button(t("model_test.proof"), elem_id="mt_proof", scale=0, min_width=200)
            parts.buttons["cancel"] = gr.Button(
                t("merge_tab.cancel"), elem_id="mt_cancel", scale=0, min_width=120, visible=False
            )
            parts.places["earlier"] = gr.Dropdown(
                [],
                value=None,
                label=t("model_test.earlier"),
                elem_id="mt_earlier",
                elem_classes=["kb-field", "kb-choice"],
                filterable=False,
                scale=1,
                min_width=220,
                visible=False,
            )
        parts.places["loaded"] = gr.HTML(
            "", elem_id="mt_loaded", elem_classes="kb-report", padding=False, js_on_load=FREE
        )
        parts.places["progress"] = gr.HTML("", elem_id="mt_progress", elem_classes="kb-report", padding=False)
        parts.places["results"] = gr.HTML(
            "", elem_id="mt_results", elem_classes="kb-report", padding=False, js_on_load=COPY_ON_CLICK
        )
        parts.places["pictures"] = gallery.build("mt_pictures")


def _grid(ui: Ui, parts: Parts) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            _choice(parts, "rows", [(t(f"model_test.axis.{kind}"), kind) for kind in ROWS])
            with gr.Column() as parts.boxes["run_folder"]:
                parts.fields["run_folder"] = ui.picker.box("mt-run_folder", Wanted("folder"), **_labels("run_folder"))
                _text(parts, "run_name", max_lines=1)
            with gr.Column(visible=False) as parts.boxes["rows_values"]:
                _text(parts, "rows_values", lines=2, max_lines=8)
        with gr.Column(min_width=320):
            _choice(parts, "columns", [(t(f"model_test.axis.{kind}"), kind) for kind in COLUMNS])
            _text(parts, "columns_values", lines=2, max_lines=8)


# ---- single fields ---------------------------------------------------------------------------------------------------


def _labels(key: str) -> dict[str, Any]:
    return {"label": t(f"model_test.{key}"), "info": t(f"model_test.{key}_help"), "elem_classes": "kb-field"}


def _file(ui: Ui, parts: Parts, key: str, **options: Any) -> None:
    parts.fields[key] = ui.picker.box(f"mt-{key}", FILES, max_lines=1, **_labels(key), **options)


def _text(parts: Parts, key: str, **options: Any) -> None:
    parts.fields[key] = gr.Textbox(DEFAULTS[key], elem_id=f"f-mt-{key}", **_labels(key), **options)


def _number(parts: Parts, key: str, *, step: float, **options: Any) -> None:
    parts.fields[key] = gr.Number(DEFAULTS[key], step=step, elem_id=f"f-mt-{key}", **_labels(key), **options)


def _choice(parts: Parts, key: str, choices: list[tuple[Any, str]]) -> None:
    parts.fields[key] = gr.Dropdown(
        choices,
        value=DEFAULTS[key],
        label=t(f"model_test.{key}"),
        elem_id=f"f-mt-{key}",
        elem_classes=["kb-field", "kb-choice"],
        filterable=False,
    )
