"""What the Inspect tab shows for the files in its boxes: the parts of the report, or why there is none."""

from dataclasses import dataclass
from pathlib import Path

from app.i18n import say
from app.inspect.compare import comparison_html
from app.inspect.html import words
from app.inspect.recipe import details_html
from app.inspect.reports import READ_AT_ONCE, Reports
from app.inspect.settings import has_settings
from app.inspect.view import error_html, head_html, overview_html
from app.inspect.weights import ask_html, waiting_html, weights_html
from app.merge.values import FormError
from lora_core.errors import UserError
from lora_core.i18n import Language
from lora_core.inspect.report import HeaderReport


@dataclass(frozen=True)
class Shown:
    """The parts of the report as HTML. "" leaves a part out."""

    head: str = ""
    overview: str = ""
    weights: str = ""
    details: str = ""
    is_lora: bool = False
    """Whether the tools make sense."""
    has_settings: bool = False
    """Whether there is anything to train by."""
    reads: bool = False
    """Whether the weights are to be read now."""


def look(reports: Reports, typed: str, language: Language) -> Shown:
    """Everything that the header says: at once, whatever the size of the file."""
    try:
        path = reports.file(typed)
        if path is None:
            return Shown(head=words(say("inspector.hint", language), "kb-hint", name="div"))
        header, metadata = reports.header(path), reports.metadata(path)
    except (UserError, FormError) as error:
        return Shown(head=error_html(error.message(language)))
    head, details = head_html(header, language), details_html(header, metadata, language)
    if header.kind != "lora":
        return Shown(head=head, details=details)
    reads = can_weigh(header) and header.size <= READ_AT_ONCE
    waiting = waiting_html(header.size, language) if reads else ""
    if can_weigh(header) and not reads:
        waiting = ask_html(header.size, language)
    return Shown(
        head=head,
        overview=overview_html(
            header.findings, None, language, say("inspector.hosts_waiting", language) if reads else ""
        ),
        weights=waiting,
        details=details,
        is_lora=can_weigh(header),
        has_settings=has_settings(metadata),
        reads=reads,
    )


def can_weigh(header: HeaderReport) -> bool:
    """Whether the weights can be read without torch; those of a .pt file can't."""
    return header.kind == "lora" and header.container == "safetensors"


@dataclass(frozen=True)
class Weighed:
    """The parts of the report that need the weights."""

    overview: str
    weights: str


def weigh(reports: Reports, typed: str, language: Language) -> Weighed | None:
    """Reads the weights: seconds for a large file. None when the file went away or is no LoRA any more."""
    try:
        path = reports.file(typed)
        if path is None or not can_weigh(header := reports.header(path)):
            return None
        weights = reports.weights(path)
    except (UserError, FormError) as error:
        return Weighed("", error_html(error.message(language)))
    found = overview_html(weights.findings, weights.hosts, language)
    return Weighed(found, weights_html(header, weights, language))


def compared(reports: Reports, typed: str, other: str, language: Language) -> str:
    """The comparison of the files in both boxes; "" while one of them is empty."""
    try:
        a, b = reports.file(typed), reports.file(other)
        if a is None or b is None:
            return ""
        not_loras = [path for path in (a, b) if reports.header(path).kind != "lora"]
        if not_loras:
            return error_html(say("inspector.compare.no_lora", language, name=not_loras[0].name))
        return comparison_html(reports.comparison(a, b), language)
    except (UserError, FormError) as error:
        return error_html(error.message(language))


def reading_html(reports: Reports, typed: str, language: Language) -> str:
    """Shown while the weights are read because somebody asked for it."""
    try:
        path = reports.file(typed)
    except FormError:
        return ""
    return waiting_html(_size(path), language) if path else ""


def comparing_html(reports: Reports, typed: str, other: str, language: Language) -> str:
    """Shown while two files are compared; "" when there is nothing to compare."""
    try:
        paths = [path for path in (reports.file(typed), reports.file(other)) if path is not None]
    except FormError:
        return ""
    return waiting_html(sum(_size(path) for path in paths), language) if len(paths) == 2 else ""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
