"""A path field with a Browse button, and the one folder browser of the page that all of them share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from app.folder_view import Wanted, drawn, is_allowed, look, remember_folder, start_folder
from app.form import Form
from app.i18n import language_of, say, t
from app.page import quiet
from lora_core.i18n import Language

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Target:
    """A box that the browser can fill in."""

    name: str
    box: Component
    button: gr.Button
    wanted: Wanted


class PathPicker:
    """Collects the path fields while the page is laid out; ``connect`` then adds the browser and its events."""

    def __init__(self, roots: tuple[Path, ...] = ()):
        self.roots = roots
        self.targets: dict[str, Target] = {}

    def field(self, form: Form, path: str, wanted: Wanted | None = None, **options: Any) -> Component:
        """Place a path setting with its Browse button."""
        with gr.Row(elem_classes="kb-path", equal_height=False):
            box = form.field(path, scale=1, min_width=220, html_attributes=_no_spelling(), **options)
            self._button(path, box, wanted or Wanted())
        return box

    def box(self, name: str, wanted: Wanted, **options: Any) -> Component:
        """Place a path box that is no setting, with its Browse button."""
        with gr.Row(elem_classes="kb-path", equal_height=False):
            box = gr.Textbox(scale=1, min_width=220, html_attributes=_no_spelling(), elem_id=f"f-{name}", **options)
            self._button(name, box, wanted)
        return box

    def connect(self) -> None:
        """Place the browser and register the events of all Browse buttons."""
        view = gr.HTML(
            None,
            html_template="",
            js_on_load=(_HERE / "path_picker.js").read_text(encoding="utf-8"),
            elem_id="kb_browser",
            padding=False,
            apply_default_css=False,
        )
        open_for = gr.State("")
        for target in self.targets.values():
            target.button.click(self._opener(target), target.box, [view, open_for], **quiet(trigger_mode="once"))
        boxes = [target.box for target in self.targets.values()]
        view.select(self._step, [open_for], [view, *boxes], **quiet())

    def _opener(self, target: Target) -> Any:
        def open_browser(typed: str, request: gr.Request) -> tuple[dict[str, Any], str]:
            folder = start_folder(typed, self.roots)
            return self._view(folder, target, language_of(request)), target.name

        return open_browser

    def _step(self, name: str, event: gr.EventData, request: gr.Request) -> list[Any]:
        """Follow a click in the browser: go somewhere, choose something, or close."""
        language, data = language_of(request), event._data or {}
        boxes = [gr.skip() for _ in self.targets]
        target = self.targets.get(name)
        path = Path(str(data.get("to") or "."))
        if target is None or data.get("action") == "close":
            return [None, *boxes]
        if data.get("action") == "choose" and is_allowed(path, self.roots):
            remember_folder(path if path.is_dir() else path.parent)
            boxes[list(self.targets).index(name)] = gr.update(value=str(path))
            return [None, *boxes]
        typed = start_folder(str(path), self.roots)
        return [self._view(typed, target, language), *boxes]

    def _view(self, folder: Path, target: Target, language: Language) -> dict[str, Any]:
        view = look(folder, target.wanted, language, self.roots)
        title = say("browse.title_folder" if target.wanted.kind == "folder" else "browse.title_file", language)
        return drawn(view, target.wanted, language, self.roots, title)

    def _button(self, name: str, box: Component, wanted: Wanted) -> None:
        button = gr.Button(
            t("browse.button"),
            elem_id=f"browse-{name.replace('.', '-')}",
            elem_classes="kb-browse",
            size="sm",
            scale=0,
            min_width=84,
        )
        self.targets[name] = Target(name, box, button, wanted)


def _no_spelling() -> gr.InputHTMLAttributes:
    return gr.InputHTMLAttributes(spellcheck=False, autocorrect="off", autocapitalize="off")
