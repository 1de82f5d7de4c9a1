"""Send a LoRA to one's web UI: the dialog that the Monitor and the Inspect tab share."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.drafts import read_draft, save_draft
from app.folder_view import Wanted, is_allowed
from app.i18n import language_of, say, t
from app.inspect.html import copy_button, tag, words
from app.inspect.reports import Reports
from app.merge.values import FormError
from app.page import quiet
from app.shared_files import thumbnail
from app.widgets.dialogs import Dialog, Inputs, cancel, dialog_box
from app.widgets.run_status import COPY_ON_CLICK
from lora_core.errors import UserError
from lora_core.handover.places import place_of
from lora_core.handover.preview import Picture, picture_of
from lora_core.handover.send import Sent, Wish, hand_over, told
from lora_core.handover.words import trigger_words
from lora_core.i18n import Language
from lora_core.inspect.report import HeaderReport
from lora_core.runs import home

if TYPE_CHECKING:
    from app.page import Ui

FOLDER = Wanted("folder")


class HandoverDialog:
    """Placed once on the page; its ``clicked`` and ``named`` are the answers to events that open it."""

    def __init__(self, ui: "Ui"):
        self.reports = Reports(ui.context.roots)
        self.lora = gr.State("")
        """Path of the file that is to be sent."""
        with dialog_box("send.title", "handover_dialog") as box:
            self.about = gr.HTML("", elem_id="handover_about", padding=False, apply_default_css=False)
            self.folder = ui.picker.box(
                "handover-folder",
                FOLDER,
                label=t("send.folder"),
                info=t("send.folder_help"),
                elem_classes=["kb-field"],
            )
            with gr.Row():
                self.name = gr.Textbox(
                    label=t("send.name"), max_lines=1, elem_id="handover_name", elem_classes=["kb-field"], scale=3
                )
                self.strength = gr.Number(
                    1.0,
                    label=t("send.strength"),
                    step=0.05,
                    elem_id="handover_strength",
                    elem_classes=["kb-field"],
                    scale=1,
                )
            message = gr.HTML(
                "", js_on_load=COPY_ON_CLICK, elem_id="handover_message", padding=False, apply_default_css=False
            )
            self.dialog = Dialog(box, message)
            with gr.Row():
                cancel(self.dialog, "send.close")
                self.replace = gr.Button(
                    t("send.replace"), variant="stop", size="sm", visible=False, elem_id="handover_replace"
                )
                self.go = gr.Button(t("send.go"), variant="primary", size="sm", elem_id="handover_go")

    @property
    def outputs(self) -> set[Any]:
        """Everything that opening changes."""
        return {*self.dialog.outputs, self.about, self.folder, self.name, self.strength, self.replace, self.lora}

    def connect(self) -> None:
        given: set[Any] = {self.lora, self.folder, self.name, self.strength}
        changed: set[Any] = {self.dialog.message, self.replace}
        for button, answer in ((self.go, self.send), (self.replace, self.send_over)):
            button.click(answer, given, changed, **quiet(queue=True, trigger_mode="once"))

    # ---- opening -----------------------------------------------------------------------------------------------------

    def clicked(self, event: gr.EventData, request: gr.Request) -> Inputs:
        """Open for the file whose button was pressed."""
        data = event._data if isinstance(event._data, dict) else {}
        return self.open(data.get("handover"), language_of(request))

    def named(self, typed: str, request: gr.Request) -> Inputs:
        """Open for the file that a box names."""
        return self.open(typed, language_of(request))

    def open(self, typed: object, language: Language) -> Inputs:
        """Show the dialog, filled in for a file; for one that can't be sent, with the reason."""
        shown: dict[Any, Any] = {self.dialog.box: gr.update(visible=True), self.replace: gr.update(visible=False)}
        kept = read_draft(memory()).get("folder")
        fields = {self.folder: kept if isinstance(kept, str) else "", self.strength: 1.0}
        try:
            lora = self.reports.file(typed)
            if lora is None:
                raise FormError("send.no_file")
            report = self.reports.header(lora)
            if report.kind != "lora":
                raise UserError("lora.not_a_lora", path=lora)
            picture = self.picture(report)
        except (UserError, FormError) as error:
            empty = {self.about: "", self.name: "", self.lora: ""}
            return shown | fields | empty | self.dialog.say(error.message(language))
        about = {self.about: about_html(report, picture, language), self.name: lora.stem, self.lora: str(lora)}
        return shown | fields | about | {self.dialog.message: ""}

    def picture(self, report: HeaderReport) -> Picture | None:
        """The picture that goes along. FormError where this page may not show it."""
        found = picture_of(report)
        if isinstance(found, Path) and not is_allowed(found, self.reports.roots):
            raise FormError("browse.not_allowed")
        return found

    # ---- sending -----------------------------------------------------------------------------------------------------

    def send(self, by_component: Inputs, request: gr.Request) -> Inputs:
        return self.sent(by_component, language_of(request), replace=False)

    def send_over(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """Send, in the place of the files of that name."""
        return self.sent(by_component, language_of(request), replace=True)

    def sent(self, by_component: Inputs, language: Language, *, replace: bool) -> Inputs:
        """Hand over; say what came of it. Files of that name are told first, with a button that replaces them."""
        try:
            done = hand_over(self.wish(by_component, replace=replace))
        except (UserError, FormError) as error:
            there = isinstance(error, UserError) and error.key == "handover.exists"
            return self.dialog.say(error.message(language)) | {self.replace: gr.update(visible=there)}
        save_draft({"folder": str(by_component[self.folder])}, memory())
        return {self.dialog.message: done_html(done, language), self.replace: gr.update(visible=False)}

    def wish(self, by_component: Inputs, *, replace: bool) -> Wish:
        """What was filled in. Raises FormError for what is missing, or outside the folders this page may use."""
        lora, folder = (self.reports.file(by_component[box]) for box in (self.lora, self.folder))
        if lora is None:
            raise FormError("send.no_file")
        if folder is None:
            raise FormError("send.needs_folder")
        if not is_allowed(place_of(folder).folder, self.reports.roots):
            raise FormError("browse.not_allowed")
        strength = by_component[self.strength]
        return Wish(
            lora,
            folder,
            name=str(by_component[self.name] or ""),
            strength=strength if isinstance(strength, int | float) else math.nan,
            preview=self.picture(self.reports.header(lora)),
            replace=replace,
        )


def memory() -> Path:
    """Where the folder is kept that was used last."""
    return home() / "handover.json"


def about_html(report: HeaderReport, picture: Picture | None, language: Language) -> str:
    """Which file it is, the picture that goes along, and its trigger words."""
    shown = address_of(report, picture)
    calling = trigger_words(report)
    lines = [
        words(report.path.name, "ho-name", name="strong"),
        words(say("send.words", language, words=calling) if calling else say("send.words_none", language)),
        words(say("send.picture" if shown else "send.picture_none", language), "ho-note"),
    ]
    image = tag("img", "", src=shown, alt="") if shown else ""
    return tag("div", image + tag("div", "".join(lines), "ho-lines"), "ho-about")


def address_of(report: HeaderReport, picture: Picture | None) -> str:
    """Where the browser finds the picture; "" when there is none that can be read."""
    if isinstance(picture, Path):
        addresses = thumbnail(picture)
        return addresses[0] if addresses else ""
    return report.thumbnail.data_url if picture and report.thumbnail else ""


def done_html(done: Sent, language: Language) -> str:
    """What was done, and the prompt with a button that copies it."""
    first, *more = told(done, language)
    lines = words(f"✓ {first}", "ho-name", name="strong") + "".join(words(line, name="span") for line in more)
    prompt = words(done.prompt, name="code") + copy_button(done.prompt, say("inspector.copy_prompt", language))
    return tag("div", lines + tag("div", prompt, "in-prompt"), "ho-done", role="status")
