"""What the tabs share while the page is laid out, and how they register events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.i18n import t

if TYPE_CHECKING:
    from app.form import Form
    from app.live import Report
    from app.run_view import Views
    from app.widgets.handover_dialog import HandoverDialog
    from app.widgets.path_picker import PathPicker

TABS = (
    *("guide", "source_model", "folders", "parameters", "samples"),
    *("monitor", "model_test", "merge", "inspect", "system"),
)
"""Ids of the tabs in their order; each is a module of app/tabs and a key ``tab.<id>`` of app/locales."""
FIRST_SHOWN = "source_model"
"""The tab a visit begins on: whoever comes back knows the way, and a guide is one click away."""


@dataclass(frozen=True)
class Context:
    """What the page needs to know about the server it runs in."""

    roots: tuple[Path, ...] = ()
    """The folders that the folder browser may show. Empty: everything, for a page only this machine can open."""


@dataclass
class Ui:
    """The page under construction. A tab's ``build(ui)`` places components and registers its events."""

    demo: gr.Blocks
    form: Form
    views: Views
    context: Context
    picker: PathPicker
    handover: HandoverDialog = field(init=False)
    """Sends a LoRA to a web UI; placed before the tabs that open it."""
    tabs: gr.Tabs = field(default_factory=lambda: gr.Tabs(render=False))
    reports: dict[gr.HTML, Report] = field(default_factory=dict)
    """Parts of the page that are made anew from the settings at every change."""

    later: list[Callable[[], Any]] = field(default_factory=list)
    """Events that need every field of the form; registered when all tabs are laid out."""

    written: list[Any] = field(default_factory=list)
    """Events that put values into fields that may not be drawn yet, which then tell of no change themselves."""

    def go_to(self, tab: str) -> dict[gr.Tabs, Any]:
        """The update that shows another tab, for a handler whose outputs include ``ui.tabs``."""
        return {self.tabs: gr.Tabs(selected=tab)}

    def report(self, make: Report, elem_id: str) -> gr.HTML:
        """Place a part of the page here that follows the settings."""
        place = gr.HTML("", elem_id=elem_id, elem_classes="kb-report", padding=False, apply_default_css=False)
        self.reports[place] = make
        return place

    @contextmanager
    def advanced(self, key: str, *, is_open: bool = False) -> Iterator[None]:
        """A part of a tab that is folded away, titled with a key of app/locales."""
        with gr.Accordion(t(key), open=is_open, elem_classes="kb-advanced", elem_id=key.replace(".", "_")):
            yield


def quiet(**options: Any) -> dict[str, Any]:
    """Options of an event that is private, quick and must not wait behind others or cover the page while it runs.

    No component shows its progress, not even hidden: Gradio remembers each that ever did, and brings all of them up to
    date at every later event, which with some hundred fields takes a browser seconds.
    """
    silent = {"show_progress": "hidden", "show_progress_on": []}
    return {"queue": False, "api_visibility": "private", **silent, **options}
