"""What the Merge tab says before, while and after a file is made, as HTML. Everything from outside is escaped."""

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from app.i18n import say
from app.live import size_words
from app.merge.run import Progress
from app.shared_files import download
from app.widgets.run_status import copy_button
from app.words import clock, file_size, stage_word, state_word
from lora_core.i18n import Language


def prompt_of(path: Path) -> str:
    """What to write into a prompt of AUTOMATIC1111 or Forge to use a LoRA."""
    return f"<lora:{path.stem}:1>"


# ---- before ----------------------------------------------------------------------------------------------------------


def summary_html(lines: Iterable[str], path: Path, language: Language, *, lora: bool) -> str:
    """What will be made: the engine's lines, the file, and for a LoRA the prompt to use it."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    where = f'<div class="mg-where"><span>{escape(say("merge_tab.will_write", language))}</span> {_code(path)}</div>'
    return f'<div class="mg-summary"><ul>{items}</ul>{where}{prompt_html(path, language) if lora else ""}</div>'


def prompt_html(path: Path, language: Language) -> str:
    prompt = prompt_of(path)
    button = _copy(prompt, say("merge_tab.copy", language))
    return (
        f'<div class="mg-where"><span>{escape(say("merge_tab.prompt", language))}</span> '
        f"<code>{escape(prompt)}</code> {button}</div>"
    )


def problems_html(sentences: Iterable[str]) -> str:
    """What stands in the way, one line each."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in dict.fromkeys(sentences))
    return f'<ul class="mg-problems" role="alert">{items}</ul>' if items else ""


def hint_html(words: str) -> str:
    return f'<div class="kb-hint">{escape(words)}</div>'


# ---- while -----------------------------------------------------------------------------------------------------------


def progress_html(found: Progress | None, language: Language) -> str:
    """A bar with the stage, that it waits, or why it failed. Empty for a job that is done."""
    if found is None or found.state == "finished":
        return ""
    if found.failure:
        return failure_html(found, language)
    if found.ended:
        return f'<div class="rs-note"><p>{escape(state_word("stopped", language))}</p></div>'
    if found.state == "queued":
        return f'<div class="rs-note"><p>{escape(say("merge_tab.queued", language))}</p></div>'
    share = 100 * found.view.fraction
    word = stage_word(found.view.stage, language)
    return (
        f'<div class="rs rs-running" data-state="{escape(found.state, quote=True)}"><div class="rs-head">'
        f'<span class="rs-badge">{escape(word)}</span></div>'
        f'<div class="rs-bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share:.0f}">'
        f'<div style="width:{share:.1f}%"></div></div></div>'
    )


def failure_html(found: Progress, language: Language) -> str:
    failure = found.failure
    assert failure
    message = failure.message.get(language) or failure.message.get("en", "")
    detail = failure.detail.strip()
    more = (
        f"<details><summary>{escape(say('monitor.details', language))}</summary><pre>{escape(detail)}</pre></details>"
    )
    return (
        f'<div class="rs-note rs-error" role="alert"><strong>{escape(say("merge_tab.failed", language))}</strong>'
        f"<p>{escape(message)}</p>{more if detail else ''}</div>"
    )


# ---- after -----------------------------------------------------------------------------------------------------------


def result_html(found: Progress | None, language: Language) -> str:
    """The card of what was made: name, numbers, folder, and how to use it."""
    if found is None or found.state != "finished" or not found.files:
        return ""
    saved = found.files[-1]
    path = saved.path
    when = [clock(found.view.last_time)] if found.view.last_time else []
    facts = " · ".join(fact for fact in [*result_facts(saved.facts, path, language), *when] if fact)
    address = download(path) if path.is_file() else None
    fetch = (
        f'<a class="rs-fetch" href="{escape(address, quote=True)}" download="{escape(path.name, quote=True)}">'
        f"{escape(say('monitor.files.download', language))}</a>"
        if address
        else ""
    )
    prompt = prompt_html(path, language) if saved.kind == "lora" else ""
    return (
        f'<div class="mg-result"><div class="mg-done"><span class="kb-card-icon" aria-hidden="true">✓</span>'
        f'<div><div class="mg-name">{escape(path.name)}</div><div class="mg-numbers">{escape(facts)}</div></div></div>'
        f'{prompt}<div class="mg-where"><span>{escape(say("monitor.files.folder", language))}</span> '
        f"{_code(path.parent)}</div>{warnings_html(found, language)}"
        f'<div class="rs-do">{copy_button(path, say("monitor.files.copy", language))}{fetch}</div></div>'
    )


def result_facts(facts: dict[str, Any], path: Path, language: Language) -> list[str]:
    """Rank, layers and size, as far as the job said them."""
    low, high, layers = (_count(facts.get(key)) for key in ("rank_min", "rank_max", "layers"))
    found = []
    if high:
        rank = f"{low}–{high}" if low and low != high else str(high)
        found.append(say("merge_tab.result.rank", language, rank=rank))
    if layers:
        found.append(say("merge_tab.result.layers", language, layers=layers))
    if not path.exists():
        return [*found, say("monitor.files.gone", language)]
    return [*found, size_words(_count(facts.get("size"))) or (file_size(path) if path.is_file() else "")]


def warnings_html(found: Progress, language: Language) -> str:
    lines = dict.fromkeys(w.message.get(language) or w.message.get("en", "") for w in found.view.warnings)
    items = "".join(f"<li>{escape(line)}</li>" for line in list(lines)[:20])
    return f'<ul class="mg-warnings">{items}</ul>' if items else ""


def _count(value: Any) -> int:
    """A number out of an event: a whole one, or 0 for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _code(path: Path) -> str:
    return f"<code>{escape(str(path))}</code>"


def _copy(text: str, word: str) -> str:
    return f'<button type="button" class="rs-copy" data-copy="{escape(text, quote=True)}">{escape(word)}</button>'
