"""What the Merge tab says about its fields: cards, layer weights, notes, the summary before saving, what is wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from app.i18n import say
from app.live import size_words
from app.merge.blocks import editor
from app.merge.energy import energy_html
from app.merge.files import Look, card_html
from app.merge.form import ROWS, Values, is_merge, rows_filled, rows_shown
from app.merge.output import output, proposed_folder, proposed_name
from app.merge.settings import Roots, settings_of
from app.merge.values import FormError, error_words, field_term, path_of
from app.merge.view import hint_html, problems_html, summary_html
from lora_core.errors import UserError
from lora_core.i18n import Language, text
from lora_core.merge.describe import describe
from lora_core.merge.methods import METHODS
from lora_core.settings.tools import ToolSettings

CARDS = ("checkpoint", "extract_base", "extract_tuned", "base")
SAID_HERE = frozenset({"describe.output", "describe.prompt", "describe.size"})
"""Lines of the engine that the summary shows in its own way: with a button to copy, or in the page's units."""
WHOLE = frozenset({"full", "dora", "glora", "ia3", "oft"})
"""Algorithms whose change is a whole matrix."""
HIGHEST_RANK = 128
"""End of the rank slider while the ranks of the files are not known."""


@dataclass(frozen=True)
class Check:
    """The job that the tab describes, what it will make, and what stands in the way."""

    settings: ToolSettings | None = None
    lines: tuple[str, ...] = ()
    missing: str = ""
    """What is still to be filled in."""
    problems: tuple[str, ...] = ()
    measured: bool = False
    """Whether singular values may be looked at now; else they are known when the job is done."""

    @property
    def ready(self) -> bool:
        return self.settings is not None and not self.problems


def quick_check(values: Values, looks: Mapping[str, Look], roots: Roots, language: Language) -> Check:
    """What headers and fields alone tell: settings that are sound so far, what is missing, what is wrong."""
    wrong = [
        f"{field_term(key).said(language)}: {error_words(look.error, language)}"
        for key, look in looks.items()
        if look.error
    ]
    try:
        settings = settings_of(values, roots)
    except FormError as error:
        if error.missing:
            return Check(missing=error_words(error, language), problems=tuple(wrong))
        return Check(problems=(*wrong, error_words(error, language)))
    except UserError as error:
        return Check(problems=(*wrong, error_words(error, language)))
    return Check(settings, problems=tuple(wrong))


def check(values: Values, looks: Mapping[str, Look], roots: Roots, language: Language) -> Check:
    """Everything that can be said before the job is started. A merge is measured, at first for a second or so."""
    quick = quick_check(values, looks, roots, language)
    if not quick.ready:
        return quick
    measured = measurable(values, looks)
    try:
        found = describe(quick.settings)
    except OSError as error:  # the disk went away between two looks
        return Check(quick.settings, problems=(str(error),))
    lines = [one.text(language) for one in found.said if one.key not in SAID_HERE]
    if size := found.facts.get("size"):
        lines.append(say("merge_tab.about_size", language, size=size_words(size)))
    problems = (error_words(error, language) for error in found.problems if error.key != "output.exists")
    return Check(quick.settings, tuple(lines), problems=tuple(problems), measured=measured)


def measurable(values: Values, looks: Mapping[str, Look]) -> bool:
    """Whether singular values are had in a second: whole matrices take minutes, and are left to the job."""
    if is_merge(values) and METHODS[values["method"]].on_matrices:
        return False
    reports = [look.report for look in looks.values() if look.report]
    return values["what"] in ("bake", "extract") or not any(WHOLE & set(report.algorithms) for report in reports)


def said(values: Values, found: Mapping[str, Look], language: Language) -> dict[str, Any]:
    """What each part of ``Parts.said`` shows: all that headers tell."""
    return {
        **{f"card_path{row}": _lora_card(values, row, found, language) for row in ROWS},
        **{f"card_{key}": card_html(found.get(key), language) for key in CARDS},
        **{f"editor{row}": _editor(values, row, found, language) for row in ROWS},
        "method_note": method_html(str(values["method"]), language),
        "subject": subject_html(values, language),
    }


def judged(values: Values, checked: Check, roots: Roots, language: Language, *, attempted: bool) -> dict[str, str]:
    """The summary, and what a rank keeps, of what was checked. Needs the numbers in the files when all is sound."""
    return {
        "summary": checked_html(checked, values, language, attempted=attempted),
        "energy": energy_html(values, roots, language, sound=checked.ready, measured=checked.measured),
    }


def _lora_card(values: Values, row: int, found: Mapping[str, Look], language: Language) -> str:
    weighted = values["what"] != "resize" and bool(values[f"weights{row}"].strip())
    return card_html(found.get(f"path{row}"), language, weighted=weighted)


def _editor(values: Values, row: int, found: Mapping[str, Look], language: Language) -> dict[str, Any] | None:
    look = found.get(f"path{row}")
    if look is None or row > rows_shown(values):
        return None
    return editor(str(values[f"weights{row}"]), look.family, look.blocks, language)


def checked_html(checked: Check, values: Values, language: Language, *, attempted: bool) -> str:
    """The summary, or what is missing, or what is wrong."""
    problems = [*checked.problems, *([checked.missing] if checked.missing and attempted else [])]
    if problems:
        return problems_html(problems)
    if checked.settings is None:
        return hint_html(checked.missing)
    path = checked.settings.output
    return summary_html(checked.lines, path, language, lora=values["what"] != "bake")


def method_html(name: str, language: Language) -> str:
    """One line on what a method does; its formula and source on request."""
    method = METHODS[name]
    tip = escape(f"{method.formula} — {method.source}", quote=True)
    return f'<div class="kb-note" title="{tip}">{escape(text(f"{method.key}.help", language))}</div>'


def method_choices(language: Language) -> list[tuple[str, str]]:
    return [(text(f"{method.key}.title", language), name) for name, method in METHODS.items()]


def subject_html(values: Values, language: Language) -> str:
    """What the preview draws with."""
    subject = str(values["subject"])
    words = say("merge_tab.subject_file", language, path=subject) if subject else say("merge_tab.subject", language)
    return hint_html(words)


def suggested_prompt(looks: Mapping[str, Look]) -> str:
    """The words that the first LoRA was trained on, where a file says them."""
    reports = [look.report for key, look in looks.items() if look.report and key.startswith("path")]
    words = (r.trigger_words or ", ".join(tag.name for tag in r.tags[:2]) for r in reports)
    return " ".join(next((word for word in words if word), "")[:200].split())


def proposals(values: Values, roots: Roots) -> tuple[str, str]:
    """(folder, name) that are used where the boxes are empty."""
    try:
        folder = path_of(values, "folder", roots) or proposed_folder(values)
        return str(proposed_folder(values)), proposed_name(values, folder)
    except (FormError, OSError):
        return "", ""


def highest_rank(values: Values, looks: Mapping[str, Look]) -> int:
    """The end of the rank slider: no rank above the sum of the files' ranks can matter, as far as they are known."""
    reports = [look.report for row in rows_filled(values) if (look := looks.get(f"path{row}"))]
    known = bool(reports) and all(report and report.ranks for report in reports)
    total = sum(max(report.ranks) for report in reports if report) if known else HIGHEST_RANK
    return min(max(total, 2, int(values["rank"] or 0)), 1024)


def already_there(values: Values, roots: Roots) -> bool:
    """Whether the result would replace a file."""
    try:
        return output(values, roots).exists()
    except (FormError, UserError, OSError):
        return False
