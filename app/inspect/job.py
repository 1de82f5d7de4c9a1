"""A job that the Inspect tab started: how far it is, what it made, and putting that in the place of the original."""

from dataclasses import dataclass
from pathlib import Path

from app.i18n import say
from app.inspect.html import tag, tool_button, words
from app.inspect.reports import Reports
from app.merge.run import Progress, result
from app.merge.values import FormError
from app.merge.view import progress_html, result_html
from lora_core.errors import UserError
from lora_core.i18n import Language
from lora_core.runs import read_job_settings
from lora_core.settings.base import clean_path


@dataclass(frozen=True)
class Action:
    """What a button of the card leads to: the card as it is then, and the file to show (None: the one that is)."""

    html: str
    show: Path | None = None


def job_html(found: Progress, language: Language) -> str:
    """The bar while it works; then the card of the new file with what can be done with it."""
    card = progress_html(found, language) + result_html(found, language)
    if result(found) is None:
        return card
    return card + dropped_html(found, language) + tag("div", made_buttons(found, language), "in-buttons")


def dropped_html(found: Progress, language: Language) -> str:
    """What a cleaning took out."""
    facts = found.files[-1].facts
    keys, layers = facts.get("junk"), facts.get("layers_dropped")
    if not isinstance(keys, int) or not isinstance(layers, int):
        return ""
    return words(say("inspector.job.dropped", language, keys=keys, layers=layers), "in-numbers-line", name="p")


def made_buttons(found: Progress, language: Language) -> str:
    buttons = tool_button("show", say("inspector.job.show", language))
    if original_of(found) is not None:
        buttons += tool_button("replace", say("inspector.job.replace", language))
    return buttons


def asking_html(found: Progress, original: Path, language: Language) -> str:
    """The question before a file is replaced."""
    question = words(say("inspector.job.sure", language, name=original.name), name="p")
    yes = tool_button("replace_yes", say("inspector.job.yes", language))
    no = tool_button("replace_no", say("inspector.job.no", language))
    buttons = tag("div", yes + no, "in-buttons")
    return result_html(found, language) + tag("div", question + buttons, "in-ask", role="alert")


def is_over(found: Progress | None, typed: str) -> bool:
    """Whether the card of an ended job has nothing to do with the file that is shown now."""
    if found is None or not found.ended:
        return False
    about = {str(path) for path in (result(found), original_of(found)) if path is not None}
    return (clean_path(typed) or "") not in about


def original_of(found: Progress) -> Path | None:
    """The LoRA that a job read, if it is still there."""
    try:
        lora = getattr(read_job_settings(found.run.settings), "lora", None)
    except (OSError, ValueError):
        return None
    return lora if lora is not None and lora.is_file() else None


def after(action: str, found: Progress, reports: Reports, language: Language) -> Action:
    """Do what a button of the card asks for. Raises FormError, UserError when a file is gone or can't be replaced."""
    made, original = result(found), original_of(found)
    if made is None:
        raise FormError("inspector.job.gone")
    if action == "show":
        return Action(job_html(found, language), made)
    if action == "replace" and original is not None:
        return Action(asking_html(found, original, language))
    if action == "replace_yes" and original is not None:
        return Action(replaced(made, original, reports, language), original)
    return Action(job_html(found, language))


def replaced(made: Path, original: Path, reports: Reports, language: Language) -> str:
    """Put a file in the place of another; whoever reads that sees the old one or the new one."""
    reports.file(str(made)), reports.file(str(original))
    try:
        made.replace(original)
    except OSError as error:
        raise UserError("file.cannot_write", path=original, reason=error.strerror or str(error)) from error
    done = say("inspector.job.replaced", language, name=original.name)
    return tag(
        "div", tag("span", "✓", "in-mark in-ok", aria_hidden="true") + words(done), "in-card in-fine", role="status"
    )
