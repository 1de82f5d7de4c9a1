"""Times, sizes, states and refusals in words, for what the server writes into the page."""

import re
import time
from html import escape
from pathlib import Path

from app.i18n import say
from lora_core.errors import UserError
from lora_core.events import StageChanged
from lora_core.i18n import Language
from lora_core.jobs import State
from lora_core.settings.fields import fields_of, label
from lora_core.settings.problems import SettingsError


def duration(seconds: float, language: Language) -> str:
    """About how long, in one or two units: 45 s, 12 min, 1 h 05 min, 2 d 3 h.

    >>> duration(3900, "en")
    '1 h 05 min'
    """
    seconds = max(0, round(seconds))
    if seconds < 60:
        return say("jobs.seconds", language, seconds=seconds)
    minutes = round(seconds / 60)
    if minutes < 60:
        return say("jobs.minutes", language, minutes=minutes)
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return say("jobs.hours", language, hours=hours, minutes=f"{minutes:02d}")
    return say("jobs.days", language, days=hours // 24, hours=hours % 24)


_PARTS = ("text_encoder_2", "text_encoder", "unet")
"""The longer names first: each begins like one after it."""


def denoiser_name(family: str, language: Language) -> str:
    """What a model of this type denoises with: the U-Net or the transformer."""
    return say("summary.transformer" if family == "flux" else "summary.unet", language)


def part_name(group: str, language: Language, family: str = "sd1") -> str:
    """What a learning rate belongs to, from the name of the optimizer's group: a part, perhaps with more behind it."""
    part = next((part for part in _PARTS if re.fullmatch(rf"{part}([./:].*)?", group)), "")
    if not part:
        return group
    name = denoiser_name(family, language) if part == "unet" else say(f"monitor.chart.part.{part}", language)
    rest = group[len(part) + 1 :]
    return f"{name} · {rest}" if rest else name


def clock(seconds: float) -> str:
    """Local time of day, with the date when it is not today."""
    then = time.localtime(seconds)
    today = time.localtime()
    same_day = then[:3] == today[:3]
    return time.strftime("%H:%M" if same_day else "%Y-%m-%d %H:%M", then)


def state_word(state: State, language: Language) -> str:
    return say(f"jobs.state.{state}", language)


def stage_word(stage: StageChanged | None, language: Language) -> str:
    """What a running job is doing, with how far it is when it says so: "Encoding images (12 of 40)"."""
    if stage is None:
        return say("jobs.stage.starting", language)
    word = say(f"jobs.stage.{stage.stage}", language)
    if stage.total and stage.stage != "training":
        return say("jobs.stage_part", language, stage=word, done=stage.done, total=stage.total)
    return word


def file_size(path: Path) -> str:
    """Size of a file with its unit, or nothing when the file is gone."""
    try:
        size = float(path.stat().st_size)
    except OSError:
        return ""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024 or unit == "GB":
            return f"{size:.0f} {unit}" if unit in ("B", "KB") or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return ""


def run_label(folder_name: str) -> tuple[str, str]:
    """(output name, "2026-11-21 04:33") of a run folder named 20261121-043301-my_lora."""
    date, _, rest = folder_name.partition("-")
    hour, _, name = rest.partition("-")
    if len(date) == 8 and len(hour) == 6 and (date + hour).isdecimal():
        return name, f"{date[:4]}-{date[4:6]}-{date[6:]} {hour[:2]}:{hour[2:4]}"
    return folder_name, ""


def refusal_html(error: UserError, language: Language) -> str:
    """Why something can't start; of several settings that are wrong, a line each under the names of the page."""
    said = error.message(language)
    if isinstance(error, SettingsError):
        named = [
            (label(p.path, language) if p.path in fields_of() else p.path, p.message(language)) for p in error.problems
        ]
        said = "\n".join(f"{name}: {message}" for name, message in named)
    return f'<div class="rs-note rs-warning" role="alert"><p>{escape(said)}</p></div>'
