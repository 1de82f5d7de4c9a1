"""Merge: LoRAs into one, minus one another, into a checkpoint, out of two checkpoints, or into a smaller rank."""

import gradio as gr

from app.folder_view import Wanted
from app.i18n import t
from app.merge.events import Events
from app.merge.form import DEFAULTS, SIZES, WHATS
from app.merge.parts import Parts
from app.page import Ui
from app.widgets import gallery, lora_rows
from app.widgets.run_status import COPY_ON_CLICK

FOLDER = Wanted("folder")
KEYS = """
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  if (!document.querySelector("#tab_merge-button[aria-selected=true], #tab_inspect-button[aria-selected=true]")) return;
  event.preventDefault();
  event.stopPropagation();
  if (element.getClientRects().length) document.getElementById("merge_go").click();
}, true);
"""
"""Ctrl+Enter merges here; everywhere else on the page it trains."""
CHECKPOINT_FILES = Wanted("either", (".safetensors",))


def build(ui: Ui) -> None:
    parts = Parts()
    _what(parts)
    with gr.Column(elem_classes="kb-section"):
        _checkpoint(ui, parts)
        _loras(ui, parts)
        _two_checkpoints(ui, parts)
    _how(ui, parts)
    _preview(ui, parts)
    _save(ui, parts)
    Events(ui, parts).connect()


def _what(parts: Parts) -> None:
    parts.fields["what"] = gr.Radio(
        [(t(f"merge_tab.what.{what}"), what) for what in WHATS],
        value=DEFAULTS["what"],
        show_label=False,
        label=t("merge_tab.what"),
        elem_id="merge_what",
        elem_classes="mg-what",
        container=False,
    )
    parts.fields |= {key: gr.State(DEFAULTS[key]) for key in ("shown", "run", "preview_run", "subject")}


def _loras(ui: Ui, parts: Parts) -> None:
    with gr.Column(elem_id="merge_loras", elem_classes="mg-list") as parts.boxes["loras"]:
        parts.rows = lora_rows.build(ui.picker)
        parts.boxes["add_row"] = parts.buttons["add"] = gr.Button(
            t("merge_tab.add_row"), size="sm", elem_id="merge_add", elem_classes="kb-small"
        )
    for row, built in parts.rows.items():
        parts.fields |= built.fields
        parts.boxes |= {f"row{row}": built.box, f"mix{row}": built.mix, f"remove{row}": built.remove}
        parts.boxes[f"ratio{row}"] = built.fields[f"ratio{row}"]
        parts.said |= {f"card_path{row}": built.card, f"editor{row}": built.editor}


def _checkpoint(ui: Ui, parts: Parts) -> None:
    with gr.Column(visible=False, elem_classes=["mg-part", "mg-before"]) as parts.boxes["bake_part"]:
        _model(ui, parts, "checkpoint")
        _switch(parts, "reverse")


def _two_checkpoints(ui: Ui, parts: Parts) -> None:
    with gr.Column(visible=False, elem_classes="mg-part") as parts.boxes["extract_part"]:
        with gr.Row(equal_height=False):
            for key in ("extract_base", "extract_tuned"):
                with gr.Column(min_width=320):
                    _model(ui, parts, key)
        with gr.Row():
            _switch(parts, "conv")
            _switch(parts, "text_encoder")
            _number(parts, "min_diff", step=0.001)


def _how(ui: Ui, parts: Parts) -> None:
    with gr.Row(equal_height=False, elem_classes="kb-columns") as parts.boxes["how_part"]:
        with gr.Column(min_width=320, elem_classes="kb-section"):
            gr.Markdown(t("merge_tab.how"), elem_classes="kb-title")
            # Titles of the methods come from the engine's words, so they are filled in when the language is known.
            parts.boxes["method"] = parts.fields["method"] = gr.Dropdown(
                [(DEFAULTS["method"], DEFAULTS["method"])],
                value=DEFAULTS["method"],
                label=t("merge_tab.method"),
                elem_id="f-merge-method",
                elem_classes=["kb-field", "kb-choice"],
                filterable=False,
            )
            parts.boxes["method_note"] = parts.said["method_note"] = _html("merge_method_note")
            with gr.Row():
                _number(parts, "density", step=0.05, hides=True)
                _number(parts, "dare_seed", step=1, hides=True)
            for key, ways in SIZES.items():
                parts.boxes[f"size_{key}"] = parts.fields[f"size_{key}"] = gr.Radio(
                    [(t(f"merge_tab.size.{way}"), way) for way in ways],
                    value=DEFAULTS[f"size_{key}"],
                    label=t("merge_tab.size"),
                    elem_id=f"f-merge-size_{key}",
                    elem_classes=["kb-field", "mg-size"],
                )
            _sliders(parts)
        with gr.Column(min_width=320, elem_classes=["kb-section", "mg-measured"]):
            gr.Markdown(t("merge_tab.energy.heading"), elem_classes="kb-title")
            parts.places["energy"] = _html("merge_energy")
    with gr.Accordion(
        t("merge_tab.base_part"), open=False, elem_classes="kb-advanced", elem_id="merge_base_part"
    ) as parts.boxes["base_part"]:
        _model(ui, parts, "base")


def _sliders(parts: Parts) -> None:
    parts.boxes["rank"] = parts.fields["rank"] = gr.Slider(
        1, 128, DEFAULTS["rank"], step=1, label=t("merge_tab.rank"), elem_id="f-merge-rank", elem_classes="kb-field"
    )
    parts.boxes["energy"] = parts.fields["energy"] = gr.Slider(
        50,
        100,
        DEFAULTS["energy"],
        step=0.1,
        label=t("merge_tab.energy"),
        info=t("merge_tab.energy_help"),
        elem_id="f-merge-energy",
        elem_classes="kb-field",
    )
    with gr.Row():
        _number(parts, "dynamic_param", step=0.05, hides=True)
        _number(parts, "cap", step=1, hides=True)
        _number(parts, "conv_rank", step=1, hides=True)
    _switch(parts, "same_rank", hides=True)


def _preview(ui: Ui, parts: Parts) -> None:
    with gr.Accordion(
        t("merge_tab.preview"), open=False, elem_classes="kb-advanced", elem_id="merge_preview"
    ) as parts.places["preview"]:
        parts.boxes["preview_part"] = parts.places["preview"]
        parts.said["subject"] = _html("merge_subject")
        _model(ui, parts, "preview_base", with_card=False, placeholder=t("merge_tab.preview_base_placeholder"))
        _text(parts, "preview_prompts", lines=4, max_lines=6, placeholder=t("merge_tab.preview_prompts.placeholder"))
        with gr.Row(elem_classes="mg-numbers-row"):
            for key, step in (("width", 64), ("height", 64), ("steps", 1), ("guidance", 0.5), ("seed", 1)):
                _number(parts, f"preview_{key}", step=step, min_width=110)
        with gr.Row():
            parts.buttons["draw"] = gr.Button(
                t("merge_tab.preview_draw"), size="sm", elem_id="merge_draw", scale=0, min_width=180
            )
            parts.buttons["stop_drawing"] = gr.Button(
                t("merge_tab.cancel"), size="sm", elem_id="merge_stop_drawing", scale=0, min_width=120, visible=False
            )
            parts.boxes["back"] = parts.buttons["back"] = gr.Button(
                t("merge_tab.preview_back"), size="sm", elem_id="merge_back", scale=0, min_width=180, visible=False
            )
        parts.places["preview_progress"] = _html("merge_preview_progress")
        parts.places["pictures"] = gallery.build("merge_pictures")


def _save(ui: Ui, parts: Parts) -> None:
    with gr.Column(elem_classes="kb-section", elem_id="merge_save"):
        gr.Markdown(t("merge_tab.save"), elem_classes="kb-title")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                parts.fields["folder"] = ui.picker.box(
                    "merge-folder", FOLDER, label=t("merge_tab.folder"), elem_classes="kb-field", max_lines=1
                )
            with gr.Column(scale=1, min_width=200):
                _text(parts, "name", max_lines=1)
            with gr.Column(scale=1, min_width=160):
                for key, values in (
                    ("precision", ("fp16", "bf16", "float")),
                    ("checkpoint_precision", ("same", "fp16", "bf16", "float")),
                ):
                    parts.boxes[key] = parts.fields[key] = gr.Dropdown(
                        [(t(f"merge_tab.precision.{value}"), value) for value in values],
                        value=DEFAULTS[key],
                        label=t("merge_tab.precision"),
                        elem_id=f"f-merge-{key}",
                        elem_classes=["kb-field", "kb-choice"],
                        filterable=False,
                        visible=key == "precision",
                    )
        _switch(parts, "no_metadata")
        parts.places["summary"] = gr.HTML(
            "", elem_id="merge_summary", elem_classes="kb-report", padding=False, js_on_load=COPY_ON_CLICK + KEYS
        )
        with gr.Row(elem_classes="mg-go"):
            parts.said["go"] = parts.buttons["go"] = gr.Button(
                t("merge_tab.go.add"), variant="primary", elem_id="merge_go", scale=0, min_width=220
            )
            parts.buttons["cancel"] = gr.Button(
                t("merge_tab.cancel"), elem_id="merge_cancel", scale=0, min_width=120, visible=False
            )
        _replace(parts)
        parts.places["progress"] = _html("merge_progress")
        parts.places["result"] = gr.HTML(
            "", elem_id="merge_result", elem_classes="kb-report", padding=False, js_on_load=COPY_ON_CLICK
        )
        with gr.Row(visible=False, elem_id="merge_after") as parts.places["after"]:
            parts.buttons["inspect"] = gr.Button(
                t("merge_tab.inspect"), size="sm", elem_id="merge_inspect", scale=0, min_width=150
            )
            parts.buttons["test"] = gr.Button(
                t("merge_tab.test"), size="sm", elem_id="merge_test", scale=0, min_width=150
            )
            parts.buttons["train_on"] = gr.Button(
                t("merge_tab.train_on"), size="sm", elem_id="merge_train_on", scale=0, min_width=150
            )


def _replace(parts: Parts) -> None:
    """The question before a file that is there is lost."""
    with gr.Column(visible=False, elem_id="merge_replace", elem_classes="mg-ask") as parts.places["ask"]:
        parts.places["question"] = _html("merge_question")
        with gr.Row():
            parts.buttons["yes"] = gr.Button(
                t("merge_tab.replace.yes"), variant="stop", size="sm", elem_id="merge_replace_yes"
            )
            parts.buttons["other"] = gr.Button(t("merge_tab.replace.other"), size="sm", elem_id="merge_replace_other")
            parts.buttons["no"] = gr.Button(t("merge_tab.replace.no"), size="sm", elem_id="merge_replace_no")


# ---- single fields ---------------------------------------------------------------------------------------------------


def _model(ui: Ui, parts: Parts, key: str, *, with_card: bool = True, **options: object) -> None:
    parts.fields[key] = ui.picker.box(
        f"merge-{key}",
        CHECKPOINT_FILES,
        label=t(f"merge_tab.{key}"),
        info=t(f"merge_tab.{key}_help"),
        elem_classes="kb-field",
        max_lines=1,
        **options,
    )
    if with_card:
        parts.said[f"card_{key}"] = _html(f"merge_card_{key}")


def _text(parts: Parts, key: str, **options: object) -> None:
    label, info = t(f"merge_tab.{key}"), t(f"merge_tab.{key}_help")
    parts.fields[key] = gr.Textbox(
        "", label=label, info=info, elem_id=f"f-merge-{key}", elem_classes="kb-field", **options
    )


def _number(parts: Parts, key: str, *, step: float, hides: bool = False, **options: object) -> None:
    parts.fields[key] = gr.Number(
        DEFAULTS[key],
        label=t(f"merge_tab.{key}"),
        info=t(f"merge_tab.{key}_help"),
        step=step,
        elem_id=f"f-merge-{key}",
        elem_classes="kb-field",
        visible=not hides,
        **options,
    )
    if hides:
        parts.boxes[key] = parts.fields[key]


def _switch(parts: Parts, key: str, *, hides: bool = False) -> None:
    parts.fields[key] = gr.Checkbox(
        DEFAULTS[key],
        label=t(f"merge_tab.{key}"),
        info=t(f"merge_tab.{key}_help"),
        elem_id=f"f-merge-{key}",
        elem_classes=["kb-field", "kb-switch"],
        visible=not hides,
    )
    if hides:
        parts.boxes[key] = parts.fields[key]


def _html(elem_id: str) -> gr.HTML:
    return gr.HTML("", elem_id=elem_id, elem_classes="kb-report", padding=False, apply_default_css=False)
