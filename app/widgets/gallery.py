"""The samples of a run, newest first, grouped by step; or one prompt through time. A click shows a picture large."""

from itertools import groupby
from pathlib import Path
from typing import Any

import gradio as gr

from app.i18n import say
from app.run_view import RunView
from app.shared_files import thumbnail
from lora_core.events import SampleSaved
from lora_core.i18n import Language

MAX_PICTURES = 600


def build(elem_id: str = "sample_gallery") -> gr.HTML:
    folder = Path(__file__).parent
    return gr.HTML(
        value=None,
        html_template=(folder / "gallery.html").read_text(encoding="utf-8"),
        css_template=(folder / "gallery.css").read_text(encoding="utf-8"),
        js_on_load=(folder / "gallery.js").read_text(encoding="utf-8"),
        elem_id=elem_id,
        padding=False,
    )


def pictures(view: RunView, language: Language) -> dict[str, Any]:
    """What the page shows: groups of pictures, the newest step first, each with its prompt."""
    samples = view.samples[-MAX_PICTURES:]
    groups = [
        {"title": _title(step, epoch, language), "step": step, "items": items}
        for (step, epoch), found in groupby(reversed(samples), key=lambda sample: (sample.step, sample.epoch))
        if (items := [item for sample in sorted(found, key=lambda s: s.index) if (item := _item(sample))])
    ]
    words = ("all_prompts", "empty", "close", "previous", "next", "prompt", "title")
    return {
        "groups": groups,
        "prompts": sorted({sample.index: sample.prompt for sample in samples}.items()),
        "words": {word: say(f"monitor.samples.{word}", language) for word in words},
    }


def _item(sample: SampleSaved) -> dict[str, Any] | None:
    addresses = thumbnail(sample.path)
    if addresses is None:
        return None
    small, large = addresses
    return {"small": small, "large": large, "prompt": sample.prompt, "index": sample.index, "file": sample.path.name}


def _title(step: int, epoch: int, language: Language) -> str:
    if step == 0:
        return say("monitor.samples.before", language)
    return say("monitor.samples.at", language, step=f"{step:,}", epoch=epoch)
