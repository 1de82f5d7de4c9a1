"""Send a LoRA to one's web UI: the dialog that the Monitor and the Inspect tab share."""

import math
from collections.abc import Sequence
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
from lora_core.data.listing import IMAGE_ENDINGS
from lora_core.errors import UserError
from lora_core.generate.keep import recommended_strength
from lora_core.handover.places import place_of
from lora_core.handover.preview import Picture, picture_of, png_of, samples_of
from lora_core.handover.send import Sent, Wish, hand_over, told
from lora_core.handover.words import trigger_words
from lora_core.i18n import Language
from lora_core.inspect.report import HeaderReport
from lora_core.runs import home

if TYPE_CHECKING:
    from app.page import Ui

FOLDER = Wanted("folder")
PICTURE = Wanted("file", tuple(sorted(IMAGE_ENDINGS)))
MOST_SAMPLES = 12
"""Shown to choose from."""
CHOOSE_ON_CLICK = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-picture]");
  if (button) trigger("select", { picture: button.dataset.picture });
});
"""


class HandoverDialog:
    """Placed once on the page; its ``clicked`` and ``named`` are the answers to events that open it."""

    def __init__(self, ui: "Ui"):
        self.reports = Reports(ui.context.roots)
        self.lora = gr.State("")
        """Path of the file that is to be sent."""
        with dialog_box("send.title", "handover_dialog") as box:
            self.about = gr.HTML(
                "", js_on_load=CHOOSE_ON_CLICK, elem_id="handover_about", padding=False, apply_default_css=False
            )
            self.shown = ui.picker.box(
                "handover-picture",
                PICTURE,
                label=t("send.other_picture"),
                placeholder=t("send.other_picture_help"),
                elem_classes=["kb-field"],
            )
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
        places = {self.about, self.shown, self.folder, self.name, self.strength, self.replace, self.lora}
        return {*self.dialog.outputs, *places}

    def connect(self) -> None:
        given: set[Any] = {self.lora, self.shown, self.folder, self.name, self.strength}
        changed: set[Any] = {self.dialog.message, self.replace}
        for button, answer in ((self.go, self.send), (self.replace, self.send_over)):
            button.click(answer, given, changed, **quiet(queue=True, trigger_mode="once"))
        self.about.select(self.choose, None, self.shown, **quiet())
        self.shown.change(self.look, {self.lora, self.shown}, {self.about}, **quiet(trigger_mode="always_last"))

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
        fields = {self.folder: kept if isinstance(kept, str) else "", self.strength: 1.0, self.shown: ""}
        try:
            lora = self.reports.file(typed)
            if lora is None:
                raise FormError("send.no_file")
            report = self.reports.header(lora)
            if report.kind != "lora":
                raise UserError("lora.not_a_lora", path=lora)
            about = about_html(report, self.picture(report), language, self.samples(lora), recommended_strength(lora))
        except (UserError, FormError) as error:
            empty = {self.about: "", self.name: "", self.lora: ""}
            return shown | fields | empty | self.dialog.say(error.message(language))
        fields[self.strength] = recommended_strength(lora) or 1.0
        named = {self.about: about, self.name: lora.stem, self.lora: str(lora)}
        return shown | fields | named | {self.dialog.message: ""}

    def choose(self, event: gr.EventData) -> str:
        """The sample that was clicked, for the box of the picture."""
        return str((event._data or {}).get("picture") or "")

    def look(self, by_component: Inputs, request: gr.Request) -> Inputs:
        """Show the picture that would go along now, or why it can't."""
        language = language_of(request)
        try:
            lora = self.reports.file(by_component[self.lora])
            if lora is None:
                return {self.about: gr.skip()}
            report = self.reports.header(lora)
            picture = self.picture(report, by_component[self.shown])
        except (UserError, FormError) as error:
            return {self.about: tag("div", words(error.message(language)), "kb-dialog-error", role="alert")}
        return {self.about: about_html(report, picture, language, self.samples(lora), recommended_strength(lora))}

    def samples(self, lora: Path) -> list[Path]:
        """The samples of its training that this page may show."""
        return [path for path in samples_of(lora, MOST_SAMPLES) if is_allowed(path, self.reports.roots)]

    def picture(self, report: HeaderReport, typed: object = "") -> Picture | None:
        """The picture that goes along: the one that was chosen, else as proposed. FormError where it may not be shown.

        Raises UserError for what is no picture.
        """
        chosen = self.reports.file(typed)
        if chosen is not None:
            png_of(chosen)
            return chosen
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
            preview=self.picture(self.reports.header(lora), by_component[self.shown]),
            replace=replace,
        )


def memory() -> Path:
    """Where the folder is kept that was used last."""
    return home() / "handover.json"


def about_html(
    report: HeaderReport,
    picture: Picture | None,
    language: Language,
    samples: Sequence[Path] = (),
    strength: float | None = None,
) -> str:
    """Which file it is, the picture that goes along, its trigger words, and other samples to choose from."""
    shown = address_of(report, picture)
    calling = trigger_words(report)
    lines = [
        words(report.path.name, "ho-name", name="strong"),
        words(say("send.words", language, words=calling) if calling else say("send.words_none", language)),
        words(say("send.picture" if shown else "send.picture_none", language), "ho-note"),
    ]
    if strength:
        lines.insert(2, words(say("send.strength_kept", language, strength=f"{strength:g}")))
    image = tag("img", "", src=shown, alt="") if shown else ""
    about = tag("div", image + tag("div", "".join(lines), "ho-lines"), "ho-about")
    return about + (samples_html(samples, picture, language) if len(samples) > 1 else "")


def samples_html(samples: Sequence[Path], picture: Picture | None, language: Language) -> str:
    """The samples as buttons, the one that goes along pressed."""
    buttons = []
    for number, path in enumerate(samples, 1):
        if addresses := thumbnail(path):
            title = say("send.take_picture", language, number=number)
            image = tag("img", "", src=addresses[0], alt="")
            pressed = str(path == picture).lower()
            said = {"aria_label": title, "title": path.name, "aria_pressed": pressed}
            buttons.append(tag("button", image, type="button", data_picture=path, **said))
    return tag("div", "".join(buttons), "ho-samples")


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
