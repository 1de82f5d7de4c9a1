"""The panel of the Inspect tab in which a tool is set up: its fields, the file to write, and the start button."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from app.folder_view import Wanted
from app.i18n import say, t
from app.inspect.html import safe, tag, words
from app.inspect.tools import DEFAULTS, ENTRIES, FIELDS, NAMES, PRECISIONS, TOOLS, Tool, proposed_output, shown_entry
from app.page import Ui
from lora_core.i18n import Language

FOLDER_OR_FILE = Wanted("either", (".safetensors",))


class ToolPanel:
    """The components; the tab connects them."""

    def __init__(self, ui: Ui):
        self.fields: dict[str, Component] = {}
        self.groups: dict[Tool, gr.Column] = {}
        self.tool = gr.State("")
        """The tool that is shown; "" while the panel is closed."""
        with gr.Column(visible=False, elem_id="inspect_panel", elem_classes="kb-section") as self.box:
            self.title = gr.HTML("", elem_id="inspect_panel_title", padding=False, apply_default_css=False)
            for tool in TOOLS:
                with gr.Column(visible=False, elem_id=f"inspect_tool_{tool}") as self.groups[tool]:
                    self._place(tool)
            self.output = ui.picker.box(
                "inspect-output", FOLDER_OR_FILE, label=t("inspector.output"), elem_classes=["kb-field"]
            )
            self.overwrite = gr.Checkbox(
                False, label=t("inspector.overwrite"), elem_id="inspect_overwrite", elem_classes=["kb-field"]
            )
            self.message = gr.HTML("", elem_id="inspect_panel_message", padding=False, apply_default_css=False)
            with gr.Row():
                self.close_button = gr.Button(
                    t("bar.cancel"), size="sm", elem_id="inspect_panel_close", scale=0, min_width=120
                )
                self.start_button = gr.Button(
                    t("inspector.start"),
                    size="sm",
                    variant="primary",
                    elem_id="inspect_panel_start",
                    scale=0,
                    min_width=160,
                )

    def _place(self, tool: Tool) -> None:
        """The fields of one tool."""
        match tool:
            case "edit":
                self._entries()
            case "clean":
                self.fields["zero_layers"] = gr.Checkbox(True, **self._look("zero_layers"))
                self.fields["remove_blocks"] = gr.Textbox(
                    "", placeholder="BASE, IN01, OUT09-11", **self._look("remove_blocks")
                )
            case "convert":
                with gr.Row():
                    for name, choices in (("names", NAMES), ("precision", PRECISIONS)):
                        options = [(t(f"inspector.choice.{name}.{choice}"), choice) for choice in choices]
                        self.fields[name] = gr.Dropdown(options, value="same", filterable=False, **self._look(name))
            case "resize":
                with gr.Row():
                    for name in ("rank", "conv_rank"):
                        self.fields[name] = gr.Number(None, step=1, **self._look(name))
                self.merge_button = gr.Button(
                    t("inspector.in_merge"), size="sm", elem_id="inspect_in_merge", elem_classes="kb-small"
                )

    def _entries(self) -> None:
        with gr.Row():
            for name in ("title", "author"):
                self.fields[name] = gr.Textbox("", **self._look(name))
        with gr.Row():
            for name in ("trigger", "tags", "license"):
                self.fields[name] = gr.Textbox("", **self._look(name))
        self.fields["description"] = gr.Textbox("", lines=3, max_lines=12, **self._look("description"))

    def _look(self, name: str) -> dict[str, Any]:
        helped = {"remove_blocks", "zero_layers", "rank", "conv_rank", "names", "precision", "trigger"}
        info = t(f"inspector.field.{name}_help") if name in helped else None
        return {
            "label": t(f"inspector.field.{name}"),
            "info": info,
            "elem_id": f"f-inspect-{name}",
            "elem_classes": ["kb-field"],
            "interactive": True,
        }

    @property
    def outputs(self) -> set[Any]:
        """Everything that opening a tool changes."""
        parts = {self.box, self.title, self.output, self.overwrite, self.message, self.tool}
        return parts | set(self.groups.values()) | set(self.fields.values())

    @property
    def inputs(self) -> set[Any]:
        return {self.tool, self.output, self.overwrite, *self.fields.values()}

    def values(self, by_component: Mapping[Any, Any]) -> dict[str, Any]:
        return {name: by_component[component] for name, component in self.fields.items()}

    def open(self, tool: Tool, lora: Path, given: Mapping[str, Any], language: Language) -> dict[Any, Any]:
        """Updates that show a tool for a LoRA, its fields filled in with ``given``."""
        values = DEFAULTS | dict(given)
        return {
            self.box: gr.update(visible=True),
            self.title: title_html(tool, language),
            self.tool: tool,
            self.output: str(proposed_output(lora, tool, values)),
            self.overwrite: False,
            self.message: "",
            **{self.fields[name]: values[name] for name in FIELDS[tool]},
            **{group: gr.update(visible=name == tool) for name, group in self.groups.items()},
        }

    def close(self) -> dict[Any, Any]:
        return {self.box: gr.update(visible=False), self.tool: "", self.message: ""}

    def say(self, sentence: str) -> dict[Any, Any]:
        return {self.message: tag("div", safe(sentence), "kb-dialog-error", role="alert")}


def title_html(tool: Tool, language: Language) -> str:
    """What the tool is called and does."""
    head = words(say(f"inspector.tool.{tool}", language), name="h3")
    return tag("div", head + words(say(f"inspector.tool.{tool}_help", language), name="p"), "in-panel-title")


def entries_of(metadata: Mapping[str, str]) -> dict[str, str]:
    """The editable entries of a file."""
    return {name: shown_entry(metadata, name) for name in ENTRIES}
