"""A run in words and numbers, as HTML: state, bar, speed, time left, what failed, what it trains, what it saved."""

from dataclasses import dataclass
from html import escape
from pathlib import Path

from app.i18n import say
from app.run_view import RunView
from app.shared_files import download
from app.words import clock, duration, file_size, run_label, stage_word, state_word
from lora_core.events import RunFailed
from lora_core.i18n import Language


def status_html(view: RunView, state: str, language: Language, now: float | None = None) -> str:
    """The head of the monitor."""
    name, when = run_label(view.run.path.name)
    shown = "stopping" if view.stopping and state in ("running", "paused") else state
    word = stage_word(view.stage, language) if shown == "running" else state_word(shown, language)
    started = say("monitor.started", language, when=clock(view.first_time)) if view.first_time else when
    percent = 100 * bar_fraction(view, state)
    return (
        f'<div class="rs rs-{shown}" data-state="{state}">'
        f'<div class="rs-head"><span class="rs-badge">{escape(word)}</span><strong>{escape(name)}</strong>'
        f'<span class="rs-when">{escape(started)}</span></div>'
        f'<div class="rs-bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent:.0f}">'
        f'<div style="width:{percent:.2f}%"></div></div>'
        f"{numbers_html(view, state, language, now)}</div>"
    )


def bar_fraction(view: RunView, state: str) -> float:
    """Part of the steps done; before the first step, part of the present stage."""
    if state == "finished":
        return 1.0
    if view.last_step is None and view.stage is not None and view.stage.total:
        return view.stage.done / view.stage.total
    return view.fraction


def numbers_html(view: RunView, state: str, language: Language, now: float | None = None) -> str:
    cells = [
        f"<div><dt>{escape(say(f'monitor.{key}', language))}</dt><dd>{escape(value)}</dd></div>"
        for key, value in numbers(view, state, language, now)
    ]
    return f'<dl class="rs-numbers">{"".join(cells)}</dl>' if cells else ""


def numbers(view: RunView, state: str, language: Language, now: float | None = None) -> list[tuple[str, str]]:
    """(key of the label, value) of what is known by now."""
    found: list[tuple[str, str]] = []
    if view.total:
        percent = f"{100 * view.fraction:.0f}%"
        found.append(("step", f"{view.step:,} / {view.total:,} ({percent})"))
        epoch = view.last_step.epoch if view.last_step else min(1, view.started.epochs)
        found.append(("epoch", f"{epoch} / {view.started.epochs}"))
    if (seconds := view.seconds_per_step) and seconds > 0:
        found.append(("speed", f"{speed(1 / seconds)} it/s · {speed(seconds)} s/it"))
    if state in ("running", "paused") and view.seconds_left is not None:
        found.append(("left", duration(view.seconds_left, language)))
    if (elapsed := view.elapsed(now)) is not None:
        found.append(("elapsed", duration(elapsed, language)))
    if view.series.smooth:
        found.append(("loss", f"{view.series.smooth[-1]:.4f}"))
    if memory := view.memory:
        ram = say("monitor.ram", language, gb=f"{memory.process_gb:.1f}")
        if memory.device_gb is None:
            found.append(("memory", ram))
        else:
            peak = memory.device_peak_gb or memory.device_gb
            card = say("monitor.vram", language, gb=f"{memory.device_gb:.1f}", peak=f"{peak:.1f}")
            found.append(("memory", f"{card} · {ram}"))
    return found


def speed(value: float) -> str:
    """Three significant digits, without exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def notes_html(view: RunView, state: str, language: Language) -> str:
    """What the person should read first: why it failed, that it waits, warnings."""
    parts = []
    if isinstance(view.ended, RunFailed):
        detail = view.ended.detail.strip()
        word = escape(say("monitor.details", language))
        more = f"<details><summary>{word}</summary><pre>{escape(detail)}</pre></details>"
        message = view.ended.message.get(language) or view.ended.message.get("en", "")
        parts.append(
            f'<div class="rs-note rs-error" role="alert"><strong>{escape(say("monitor.failed", language))}</strong>'
            f"<p>{escape(message)}</p>{more if detail else ''}</div>"
        )
    if state == "queued":
        parts.append(f'<div class="rs-note"><p>{escape(say("monitor.queued", language))}</p></div>')
    if view.warnings:
        lines = dict.fromkeys(
            warning.message.get(language) or warning.message.get("en", "") for warning in view.warnings
        )
        items = "".join(f"<li>{escape(line)}</li>" for line in list(lines)[-20:])
        parts.append(
            f'<div class="rs-note rs-warning"><strong>{escape(say("monitor.warnings", language))}</strong>'
            f"<ul>{items}</ul></div>"
        )
    return "".join(parts)


def summary_html(view: RunView, language: Language) -> str:
    """What the run trains, in the trainer's own words."""
    started = view.started or view.tool
    if not started or not started.summary:
        return ""
    lines = started.summary.get(language) or started.summary.get("en", [])
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    title = escape(say("monitor.summary", language))
    return f'<details class="rs-note rs-summary" open><summary>{title}</summary><ul>{items}</ul></details>'


@dataclass(frozen=True)
class Written:
    """A file that a run wrote. ``where`` says at which point of a training."""

    path: Path
    where: str = ""
    final: bool = False
    state: Path | None = None
    is_lora: bool = True


def files_html(view: RunView, language: Language) -> str:
    """The files of a run, the newest first, each to download or to copy the path of."""
    files = written_files(view, language)
    if not files:
        return f'<p class="rs-empty">{escape(say("monitor.files.empty", language))}</p>'
    rows = "".join(file_row(file, language) for file in list(reversed(files))[:100])
    word = escape(say("monitor.files.folder", language))
    folder = escape(str(files[0].path.parent))
    kept = kept_html(view, language)
    return f'<p class="rs-folder">{word} <code>{folder}</code></p>{kept}<ul class="rs-files">{rows}</ul>'


def kept_html(view: RunView, language: Language) -> str:
    """Which of the files the person chose, the last choice first."""
    lines = []
    for kept in reversed(view.kept):
        values = {"source": kept.source.name, "name": kept.path.name, "strength": f"{kept.strength or 0:g}"}
        key = "monitor.files.kept_at" if kept.strength else "monitor.files.kept"
        words = f"{say(key, language, **values)} ({clock(kept.time)})"
        lines.append(f"<p>★ {escape(words)}</p>")
    return f'<div class="rs-note rs-kept">{"".join(lines)}</div>' if lines else ""


def written_files(view: RunView, language: Language) -> list[Written]:
    """What a training or another job wrote, in order, each path once."""
    last = getattr(view.ended, "path", None)
    found = {
        saved.path: Written(
            saved.path,
            say("monitor.files.at", language, step=f"{saved.step:,}", epoch=saved.epoch),
            saved.final or saved.path == last,
            saved.state,
        )
        for saved in view.checkpoints
    }
    found |= {
        saved.path: Written(saved.path, final=saved.path == last, is_lora=saved.kind == "lora") for saved in view.files
    }
    return list(found.values())


def file_row(file: Written, language: Language) -> str:
    address = download(file.path)
    size = file_size(file.path) or say("monitor.files.gone", language)
    final = f' <span class="rs-final">{escape(say("monitor.files.final", language))}</span>' if file.final else ""
    copy = copy_button(file.path, say("monitor.files.copy", language))
    if file.is_lora and file.path.suffix == ".safetensors" and address:
        copy = send_button(file.path, say("send.this", language)) + copy
    if file.state is not None and file.state.exists():
        copy = copy_button(file.state, say("monitor.files.copy_state", language)) + copy
    fetch = (
        f'<a class="rs-fetch" href="{escape(address, quote=True)}" download="{escape(file.path.name, quote=True)}">'
        f"{escape(say('monitor.files.download', language))}</a>"
        if address
        else ""
    )
    about = " · ".join(part for part in (file.where, size) if part)
    return (
        f'<li><div class="rs-file"><span class="rs-name" title="{escape(str(file.path), quote=True)}">'
        f'{escape(file.path.name)}</span>{final}<span class="rs-where">{escape(about)}</span></div>'
        f'<div class="rs-do">{copy}{fetch}</div></li>'
    )


def copy_button(path: Path, word: str) -> str:
    """A button that puts a path on the clipboard; needs COPY_ON_CLICK on the component."""
    return f'<button type="button" class="rs-copy" data-copy="{escape(str(path), quote=True)}">{escape(word)}</button>'


def send_button(lora: Path, word: str) -> str:
    """A button that sends a LoRA to a web UI; needs SEND_ON_CLICK on the component."""
    path = escape(str(lora), quote=True)
    return f'<button type="button" class="rs-copy" data-handover="{path}">{escape(word)}</button>'


COPY_ON_CLICK = """
element.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await window.kumakoboCopy(button.dataset.copy);
  button.classList.add("rs-copied");
  setTimeout(() => button.classList.remove("rs-copied"), 1200);
});
"""

SEND_ON_CLICK = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-handover]");
  if (button) trigger("select", { handover: button.dataset.handover });
});
"""
"""For a component whose ``select`` goes to ``HandoverDialog.clicked``."""

COPY_HEAD = """
<script>
window.kumakoboCopy = async (text) => {
  try { await navigator.clipboard.writeText(text); }
  catch (refused) {  // no clipboard on plain http in a network
    const area = document.createElement("textarea");
    area.value = text; area.style.position = "fixed"; area.style.opacity = "0";
    document.body.append(area); area.select(); document.execCommand("copy"); area.remove();
  }
};
</script>
"""
