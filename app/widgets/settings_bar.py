"""The bar below the header: presets, loading, saving and resetting settings."""

import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from app import toast
from app.family import preset_differs
from app.folder_view import Wanted, is_allowed
from app.form import read, read_legal
from app.i18n import language_of, say, t
from app.page import Ui, quiet
from app.widgets import preset_dialog
from app.widgets.dialogs import Dialog, Inputs, cancel, dialog_box
from lora_core.errors import UserError
from lora_core.i18n import Language
from lora_core.runs import home
from lora_core.settings import RunSettings
from lora_core.settings.base import clean_path
from lora_core.settings.files import load, load_text, recent, remember, save_settings
from lora_core.settings.kohya import Imported, is_command, report
from lora_core.settings.presets import apply_preset, find_preset

ENDINGS = (".toml", ".json", ".safetensors", ".sh", ".bat", ".ps1")
SETTINGS_FILES = Wanted("either", ENDINGS)


def build(ui: Ui) -> gr.Dropdown:
    """Place the bar and its dialogs and register their events. Returns the preset choice; it is filled at page load."""
    with gr.Row(elem_id="kb_bar", equal_height=True):
        preset = gr.Dropdown(
            [(t("bar.preset_choose"), "")],
            value="",
            label=t("bar.preset"),
            elem_id="preset",
            container=False,
            show_label=False,
            scale=3,
            min_width=200,
            filterable=False,
        )
        presets = gr.Button(t("bar.presets"), elem_id="own_presets", size="sm", scale=0, min_width=124)
        load_button = gr.Button(t("bar.load"), elem_id="load_settings", size="sm", scale=0, min_width=96)
        save = gr.Button(t("bar.save"), elem_id="save_settings", size="sm", scale=0, min_width=96)
        reset = gr.Button(t("bar.reset"), elem_id="reset_settings", size="sm", scale=0, min_width=96)
    from_kohya = gr.HTML("", elem_id="kohya_report", padding=False, apply_default_css=False)
    _connect_preset(ui, preset)
    preset_dialog.build(ui, presets, preset)
    _load_dialog(ui, load_button, from_kohya)
    _save_dialog(ui, save)
    _reset_dialog(ui, reset, from_kohya)
    return preset


def recent_choices() -> list[tuple[str, str]]:
    """Settings used last: a run by its folder's name, a file by its own."""
    return [(path.parent.name if path.name == "settings.json" else path.name, str(path)) for path in recent()]


def save_name(output_name: str) -> str:
    """A path to save settings under that is not taken: settings/my_lora.toml."""
    stem = re.sub(r'[<>:"/\\|?*\s]+', "_", output_name).strip("._") or "settings"
    folder = home() / "settings"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 1000))]
    return str(next(folder / f"{name}.toml" for name in names if not (folder / f"{name}.toml").exists()))


def _connect_preset(ui: Ui, preset: gr.Dropdown) -> None:
    def choose(by_component: Inputs, request: gr.Request) -> Inputs:
        language, name, values = language_of(request), by_component[preset], ui.form.values(by_component)
        if not name:
            return {preset: ""}
        try:
            settings = apply_preset(read_legal(values), find_preset(name))
        except UserError as error:
            toast.warn(error.message(language))
            return {preset: ""}
        toast.info(say("bar.preset_done", language, title=find_preset(name).title(language)))
        if words := preset_differs(settings, language):
            toast.warn(words)
        return ui.form.write(settings, values)

    def register() -> None:
        everything = {preset, *ui.form.inputs}
        ui.written.append(preset.select(choose, everything, everything, **quiet(queue=True)))

    ui.later.append(register)


def kohya_report(imported: Imported | None, language: Language) -> str:
    """What became of a Kohya file, folded away under a line that says how much; empty for our own files."""
    if imported is None:
        return ""
    parts = "".join(
        f"<h4>{escape(heading)}</h4><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
        for _, heading, lines in report.parts(imported, language)
    )
    return (
        f'<details class="kb-kohya"><summary>{escape(report.headline(imported, language))}</summary>{parts}</details>'
    )


def is_pasted(typed: Any) -> bool:
    """Whether a training command was pasted instead of a path."""
    return isinstance(typed, str) and "--" in typed and is_command(typed)


def _load_dialog(ui: Ui, opener: gr.Button, from_kohya: gr.HTML) -> None:
    with dialog_box("load.title", "load_dialog") as box:
        message = gr.HTML("", padding=False, apply_default_css=False)
        dialog = Dialog(box, message)
        chosen = gr.Dropdown(
            [],
            value=None,
            label=t("load.recent"),
            elem_classes=["kb-field", "kb-choice"],
            elem_id="recent_settings",
            filterable=False,
        )
        path = ui.picker.box(
            "load-path", SETTINGS_FILES, label=t("load.path"), info=t("load.path_help"), elem_classes=["kb-field"]
        )
        with gr.Row():
            upload = gr.UploadButton(t("load.upload"), file_types=list(ENDINGS), size="sm", elem_id="upload_settings")
            cancel(dialog)
            load_button = gr.Button(t("load.load"), variant="primary", size="sm", elem_id="load_path")

    def open_dialog() -> Inputs:
        return {box: gr.update(visible=True), message: "", chosen: gr.update(choices=recent_choices(), value=None)}

    def may_read(path: Path) -> bool:
        return is_allowed(path, ui.context.roots)

    def load_from(place: Component, *, ours: bool) -> Callable[..., Inputs]:
        def handler(by_component: Inputs, request: gr.Request) -> Inputs:
            typed, language = by_component[place], language_of(request)
            pasted = is_pasted(typed)
            file = Path(say("load.command", language)) if pasted else _as_path(typed)
            if file is None:
                return dialog.say(say("load.nothing", language))
            try:
                if ours and not pasted and not may_read(file):
                    return dialog.say(say("browse.not_allowed", language))
                loaded = load_text(typed, file, may_read) if pasted else load(file, may_read)
            except UserError as error:
                return dialog.say(error.message(language))
            if ours and not pasted:
                remember(file / "settings.json" if file.is_dir() else file)
            toast.info(say("load.done", language, name=file.name))
            written = ui.form.write(loaded.settings, ui.form.values(by_component))
            return dialog.close() | written | {from_kohya: kohya_report(loaded.kohya, language)}

        return handler

    def register() -> None:
        outputs = dialog.outputs | ui.form.inputs | {from_kohya}

        def loads(event: Any, place: Component, *, ours: bool = True) -> Any:
            return event(load_from(place, ours=ours), {place, *ui.form.inputs}, outputs, **quiet(queue=True))

        opener.click(open_dialog, None, dialog.outputs | {chosen}, **quiet())
        ui.written += [
            loads(load_button.click, path),
            loads(path.submit, path),
            loads(chosen.select, chosen),
            loads(upload.upload, upload, ours=False),
        ]

    ui.later.append(register)


def _save_dialog(ui: Ui, opener: gr.Button) -> None:
    with dialog_box("save.title", "save_dialog") as box:
        message = gr.HTML("", padding=False, apply_default_css=False)
        dialog = Dialog(box, message)
        path = gr.Textbox(
            label=t("save.path"), info=t("save.path_help"), elem_classes=["kb-field"], elem_id="save_path"
        )
        overwrite = gr.Checkbox(False, label=t("save.overwrite"), elem_classes=["kb-field"], elem_id="save_overwrite")
        with gr.Row():
            cancel(dialog)
            save = gr.Button(t("save.save"), variant="primary", size="sm", elem_id="save_now")

    def open_dialog(output_name: str) -> Inputs:
        return {box: gr.update(visible=True), message: "", path: save_name(output_name), overwrite: False}

    def write(by_component: Inputs, request: gr.Request) -> Inputs:
        language, file = language_of(request), _as_path(by_component[path])
        if file is None:
            return dialog.say(say("save.nothing", language))
        file = file if file.suffix else file.with_suffix(".toml")
        try:
            if not is_allowed(file, ui.context.roots):
                return dialog.say(say("browse.not_allowed", language))
            save_settings(read(ui.form.values(by_component)), file, overwrite=by_component[overwrite])
        except UserError as error:
            return dialog.say(_capital(error.message(language).removeprefix(": ")))
        remember(file)
        toast.info(say("save.done", language, path=file))
        return dialog.close()

    def register() -> None:
        name = ui.form.components["save.output_name"]
        opener.click(open_dialog, name, dialog.outputs | {path, overwrite}, **quiet())
        save.click(write, {path, overwrite, *ui.form.inputs}, dialog.outputs, **quiet(queue=True))

    ui.later.append(register)


def _reset_dialog(ui: Ui, opener: gr.Button, from_kohya: gr.HTML) -> None:
    with dialog_box("reset.title", "reset_dialog") as box:
        dialog = Dialog(box, gr.HTML("", padding=False, apply_default_css=False))
        gr.Markdown(t("reset.text"))
        with gr.Row():
            cancel(dialog)
            reset = gr.Button(t("reset.reset"), variant="primary", size="sm", elem_id="reset_now")

    def register() -> None:
        opener.click(lambda: gr.update(visible=True), None, box, **quiet())
        done = reset.click(
            lambda shown: dialog.close() | ui.form.write(RunSettings(), ui.form.values(shown)) | {from_kohya: ""},
            ui.form.inputs,
            dialog.outputs | ui.form.inputs | {from_kohya},
            **quiet(),
        )
        ui.written.append(done)

    ui.later.append(register)


def _as_path(typed: Any) -> Path | None:
    cleaned = clean_path(typed or "")
    return Path(cleaned) if cleaned else None


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
