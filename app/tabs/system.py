"""The System tab: what works on this machine, where things are, and what to send when asking for help."""

from collections.abc import Sequence
from html import escape

import gradio as gr

from app.i18n import language_of, say, t
from app.machine import Report, debug_text, folders, graphics_cards, versions
from app.page import TABS, Ui, quiet
from app.widgets.run_status import COPY_ON_CLICK, copy_button
from lora_core.doctor import Row
from lora_core.i18n import Language

MARKS = {"ok": "✓", "info": "·", "warning": "!", "error": "✗"}
CLIPBOARD = "async (text) => { await window.kumakoboCopy(text); }"


def build(ui: Ui) -> None:
    report = Report()
    with gr.Column(elem_classes="kb-section"):
        gr.Markdown(t("system.check"), elem_classes="kb-title")
        findings = gr.HTML("", elem_id="system_report", apply_default_css=False)
        with gr.Row():
            again = gr.Button(t("system.again"), elem_id="system_again", size="sm", scale=0, min_width=180)
            copy = gr.Button(
                t("system.copy"), elem_id="system_copy", size="sm", scale=0, min_width=240, interactive=False
            )
    with gr.Column(elem_classes="kb-section"):
        gr.Markdown(t("system.places"), elem_classes="kb-title")
        places = gr.HTML("", elem_id="system_places", js_on_load=COPY_ON_CLICK)
    debug = gr.Textbox("", visible="hidden", show_label=False, elem_id="system_debug")

    wanted = gr.State(False)
    """True when the tab is open: a check takes seconds and is not made for nothing."""

    def opened(event: gr.SelectData, request: gr.Request) -> dict:
        language = language_of(request)
        if event.index != TABS.index("system"):
            return {wanted: False}
        waiting = {} if report.known else {findings: waiting_html(language)}
        return {wanted: True, places: places_html(language)} | waiting

    def asked_again(request: gr.Request) -> dict:
        report.forget()
        return {wanted: True, findings: waiting_html(language_of(request))}

    def show(wanted: bool, request: gr.Request) -> dict:
        if not wanted:
            return gr.skip()
        rows = report.rows()
        return {
            findings: report_html(rows, language_of(request)),
            debug: debug_text(rows),
            copy: gr.update(interactive=True),
        }

    for happened, answer in ((ui.tabs.select, opened), (again.click, asked_again)):
        happened(answer, None, [wanted, findings, places], **quiet()).then(
            show, wanted, [findings, debug, copy], **quiet()
        )
    copy.click(None, debug, None, js=CLIPBOARD, **quiet())


def waiting_html(language: Language) -> str:
    return f'<p class="rs-empty">{escape(say("system.checking", language))}</p>'


def report_html(rows: Sequence[Row], language: Language) -> str:
    """The findings, each with what to do about it, and the memory in use of each card."""
    lines = [finding_html(row, language) for row in rows]
    lines += [
        f"<tr><td>·</td><td>{escape(say('system.card', language))}</td><td>{escape(name)}: {escape(memory)}</td></tr>"
        for name, memory in graphics_cards()
    ]
    return f'<table class="doc-table">{"".join(lines)}</table>'


def finding_html(row: Row, language: Language) -> str:
    meaning = escape(say(f"system.status.{row.status}", language))
    cure = row.cure(language)
    advice = f'<span class="doc-cure">{escape(cure)}</span>' if cure else ""
    return (
        f'<tr class="doc-row-{escape(row.key)}"><td class="doc-{escape(row.status)}" title="{meaning}">'
        f"{MARKS[row.status]}</td><td>{escape(row.name(language))}</td>"
        f"<td>{escape(row.value(language))}{advice}</td></tr>"
    )


def places_html(language: Language) -> str:
    """Folders, to copy their paths, and versions."""
    word = say("monitor.files.copy", language)
    rows = [
        f"<li><div class='rs-file'><span class='rs-where'>{escape(name)}</span> <code>{escape(str(path))}</code></div>"
        f'<div class="rs-do">{copy_button(path, word)}</div></li>'
        for name, path in folders(language)
    ]
    installed = " · ".join(f"{name} {version}" for name, version in versions())
    return f'<ul class="rs-files">{"".join(rows)}</ul><p class="rs-folder">{escape(installed)}</p>'
