"""Own presets: save what the page shows as one, and rename, delete, share and take in those there are."""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from app import toast
from app.form import read_legal
from app.i18n import language_of, say, t
from app.page import Ui, quiet
from app.shared_files import download
from app.widgets.dialogs import Dialog, Inputs, cancel, dialog_box
from lora_core.errors import UserError
from lora_core.i18n import Language
from lora_core.settings.fields import section_label
from lora_core.settings.own_presets import (
    delete_preset,
    own_path,
    rename_preset,
    save_preset,
    sections,
    take_in,
    values_for,
)
from lora_core.settings.presets import Preset, find_preset, list_own, list_presets


@dataclass(frozen=True)
class Saving:
    """What is asked when a preset is saved."""

    name: gr.Textbox
    purpose: gr.Textbox
    sections: gr.CheckboxGroup
    everything: gr.Checkbox
    yours: gr.Checkbox
    overwrite: gr.Checkbox
    save: gr.Button


@dataclass(frozen=True)
class Managing:
    """What is done with those there are."""

    chosen: gr.Dropdown
    new_name: gr.Textbox
    rename: gr.Button
    share: gr.HTML
    delete: gr.Button
    sure: gr.Row
    really: gr.Button
    keep: gr.Button
    upload: gr.UploadButton
    broken: gr.HTML


def build(ui: Ui, opener: gr.Button, preset: gr.Dropdown) -> None:
    """Place the dialog; ``preset`` is the list in the bar, which follows."""
    with dialog_box("presets.title", "preset_dialog") as box:
        dialog = Dialog(box, gr.HTML("", padding=False, apply_default_css=False, elem_id="preset_message"))
        with gr.Tabs():
            with gr.Tab(t("presets.save_tab"), elem_id="preset_save_tab"):
                saving = _saving()
            with gr.Tab(t("presets.own_tab"), elem_id="preset_own_tab"):
                managing = _managing()
        cancel(dialog, "presets.close")
    ui.later.append(lambda: _Events(ui, dialog, saving, managing, preset).connect(opener))


def preset_choices(language: Language) -> list[tuple[str, str]]:
    """Presets as the list shows them, title and for whom: the person's own first, with a star."""
    own = [(_described(preset, language, "★ "), preset.name) for preset in list_own()[0]]
    built_in = [(_described(preset, language, ""), preset.name) for preset in list_presets()]
    return [(say("bar.preset_choose", language), ""), *own, *built_in]


def _described(preset: Preset, language: Language, mark: str) -> str:
    purpose = preset.purpose(language)
    return f"{mark}{preset.title(language)}" + (f" — {purpose}" if purpose else "")


def _saving() -> Saving:
    with gr.Row():
        name = gr.Textbox(label=t("presets.name"), elem_id="preset_name", elem_classes="kb-field", max_lines=1)
        purpose = gr.Textbox(label=t("presets.purpose"), elem_id="preset_purpose", elem_classes="kb-field", max_lines=1)
    chosen = gr.CheckboxGroup(
        [], label=t("presets.sections"), info=t("presets.sections_help"), elem_id="preset_sections"
    )
    everything = _check("presets.everything", "preset_everything")
    yours = _check("presets.yours", "preset_yours")
    overwrite = _check("presets.overwrite", "preset_overwrite")
    save = gr.Button(t("presets.save"), variant="primary", size="sm", elem_id="preset_save")
    return Saving(name, purpose, chosen, everything, yours, overwrite, save)


def _check(key: str, elem_id: str) -> gr.Checkbox:
    return gr.Checkbox(False, label=t(key), info=t(f"{key}_help"), elem_id=elem_id, elem_classes="kb-field")


def _managing() -> Managing:
    chosen = gr.Dropdown([], label=t("presets.own"), elem_id="preset_own", filterable=False, elem_classes="kb-field")
    with gr.Row(equal_height=False):
        new_name = gr.Textbox(label=t("presets.new_name"), elem_id="preset_new_name", scale=3, max_lines=1)
        rename = gr.Button(t("presets.rename"), size="sm", scale=1, min_width=110, elem_id="preset_rename")
    with gr.Row():
        share = gr.HTML("", elem_id="preset_share", padding=False, apply_default_css=False)
        upload = gr.UploadButton(t("presets.upload"), file_types=[".toml"], size="sm", elem_id="preset_upload")
        delete = gr.Button(t("presets.delete"), size="sm", elem_id="preset_delete")
    with gr.Row(visible=False, elem_id="preset_sure") as sure:
        keep = gr.Button(t("presets.keep"), size="sm")
        really = gr.Button(t("presets.really"), size="sm", variant="stop", elem_id="preset_really")
    broken = gr.HTML("", padding=False, apply_default_css=False)
    return Managing(chosen, new_name, rename, share, delete, sure, really, keep, upload, broken)


class _Events:
    """What happens in the dialog. Every answer says what went wrong in the dialog, and what went well in a toast."""

    def __init__(self, ui: Ui, dialog: Dialog, saving: Saving, managing: Managing, preset: gr.Dropdown):
        self.ui, self.dialog, self.saving, self.managing, self.preset = ui, dialog, saving, managing, preset

    def connect(self, opener: gr.Button) -> None:
        s, m = self.saving, self.managing
        lists = {*self.dialog.outputs, self.preset, m.chosen, m.new_name, m.share, m.sure, m.broken}
        fields = {s.name, s.purpose, s.sections, s.everything, s.yours, s.overwrite}
        opener.click(self.open, None, lists | {s.name, s.sections, s.overwrite}, **quiet())
        s.save.click(self.save, fields | self.ui.form.inputs, lists, **quiet(queue=True))
        m.chosen.input(self.choose, m.chosen, lists, **quiet())
        m.rename.click(self.rename, {m.chosen, m.new_name}, lists, **quiet())
        m.delete.click(self.ask, m.chosen, lists, **quiet())
        m.keep.click(lambda: gr.update(visible=False), None, m.sure, **quiet())
        m.really.click(self.delete, m.chosen, lists, **quiet())
        m.upload.upload(self.take_in, m.upload, lists, **quiet(queue=True))

    def open(self, request: gr.Request) -> Inputs:
        language, s = language_of(request), self.saving
        choices = [(section_label(section, language), section) for section in sections()]
        return self.lists(language) | {
            self.dialog.box: gr.update(visible=True),
            s.name: "",
            s.sections: gr.update(choices=choices, value=sections()),
            s.overwrite: False,
        }

    def save(self, by_component: Inputs, request: gr.Request) -> Inputs:
        s, language = self.saving, language_of(request)
        settings = read_legal(self.ui.form.values(by_component))
        chosen = by_component[s.sections] or []

        def keep() -> Preset:
            if not chosen:
                raise UserError("preset.no_sections")
            options = {"everything": by_component[s.everything], "yours": by_component[s.yours]}
            values = values_for(settings, chosen, **options)
            name, purpose = str(by_component[s.name] or ""), str(by_component[s.purpose] or "")
            return save_preset(name, purpose, values, chosen, overwrite=by_component[s.overwrite])

        return self.tried(keep, "presets.saved", language)

    def rename(self, by_component: Inputs, request: gr.Request) -> Inputs:
        m = self.managing
        name, new_name = by_component[m.chosen], str(by_component[m.new_name] or "")
        return self.tried(lambda: rename_preset(_own(name), new_name), "presets.renamed", language_of(request))

    def delete(self, name: str, request: gr.Request) -> Inputs:
        def remove() -> Preset:
            preset = _own(name)
            delete_preset(preset)
            return preset

        return self.tried(remove, "presets.deleted", language_of(request))

    def take_in(self, path: str | None, request: gr.Request) -> Inputs:
        return self.tried(lambda: take_in(Path(path or "")), "presets.taken_in", language_of(request))

    def ask(self, name: str) -> Inputs:
        return {self.managing.sure: gr.update(visible=bool(name))}

    def choose(self, name: str, request: gr.Request) -> Inputs:
        return self.lists(language_of(request), name)

    def tried(self, do: Any, key: str, language: Language) -> Inputs:
        """Do something with a preset; say what came of it, and bring the lists up to date."""
        try:
            preset = do()
        except UserError as error:
            return self.dialog.say(error.message(language))
        toast.info(say(key, language, name=preset.title(language)))
        return self.lists(language, preset.name)

    def lists(self, language: Language, chosen: str = "") -> dict[Component, Any]:
        """All lists of presets as they are now, with one of the own chosen."""
        m, (own, wrong) = self.managing, list_own()
        found = next((preset for preset in own if preset.name == chosen), own[0] if own else None)
        return {
            self.dialog.message: "",
            self.preset: gr.update(choices=preset_choices(language)),
            m.chosen: gr.update(choices=[(p.title(language), p.name) for p in own], value=found and found.name),
            m.new_name: found.title(language) if found else "",
            m.share: _share_link(found, language),
            m.sure: gr.update(visible=False),
            m.broken: "".join(f'<div class="kb-hint">{escape(error.message(language))}</div>' for error in wrong),
        }


def _own(name: str | None) -> Preset:
    """An own preset by its name; built-in ones are not for renaming or deleting."""
    if not name:
        raise UserError("preset.none_chosen")
    own_path(name)
    return find_preset(name)


def _share_link(preset: Preset | None, language: Language) -> str:
    """A link that downloads the file, to be given to others."""
    address = preset and download(own_path(preset.name))
    if not preset or not address:
        return ""
    words = escape(say("presets.share", language))
    return f'<a class="kb-download" href="{escape(address, quote=True)}" download="{preset.name}.toml">{words}</a>'
