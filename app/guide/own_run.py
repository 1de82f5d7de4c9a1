"""What came of First LoRA, on its page: how the run is, its files to choose from, and what can be done with them."""

from pathlib import Path
from typing import Any

from app.i18n import say
from app.run_view import RunView, Views
from app.widgets.run_status import Written, kept_html, notes_html, status_html, written_files
from lora_core import jobs
from lora_core.guides.first_runs import newest_run
from lora_core.i18n import Language
from lora_core.verdict import judge

_WORDS = ("title", "monitor", "choose", "grid", "grid_help", "keep", "keep_help", "file", "send")

View = dict[str, Any]


def view_of(views: Views, language: Language) -> View:
    """All the panel shows; no run, no panel."""
    run = newest_run()
    words = {name: say(f"guide.own.{name}", language) for name in _WORDS}
    if run is None:
        return {"words": words, "run": ""}
    view, state = views.view(run), jobs.state(run)
    files = files_of(view, language)
    ended = state in jobs.ENDED
    return {
        "words": words,
        "run": run.path.name,
        "going": not ended,
        "html": status_html(view, state, language) + notes_html(view, state, language),
        "kept": kept_html(view, language),
        "verdict": judge(view.validations).words(language) if ended and view.validations else "",
        "files": [[number, label(file)] for number, file in enumerate(files)] if ended else [],
        "proposed": proposed(view, files),
        "send": str(to_send(view, files) or "") if ended else "",
    }


def files_of(view: RunView, language: Language) -> list[Written]:
    """The LoRA files of the run that are still there, as they were saved."""
    return [file for file in written_files(view, language) if file.is_lora and file.path.is_file()]


def label(file: Written) -> str:
    """A file in the list: "usu-000002.safetensors · step 24, epoch 2"."""
    return " · ".join(part for part in (file.path.name, file.where) if part)


def proposed(view: RunView, files: list[Written]) -> int:
    """The number of the file to begin with: that of the border, where validation found one, else the last."""
    verdict = judge(view.validations)
    if verdict.kind == "border":
        at = {saved.path for saved in view.checkpoints if saved.epoch == verdict.border}
        for number, file in enumerate(files):
            if file.path in at:
                return number
    return max(0, len(files) - 1)


def to_send(view: RunView, files: list[Written]) -> Path | None:
    """The copy that was kept last; before anybody kept one, the last file."""
    kept = [choice.path for choice in view.kept if choice.path.is_file()]
    return kept[-1] if kept else files[-1].path if files else None
