"""What the Model test tab shows of its job: pictures as they come, and the finished grids to keep."""

from html import escape
from pathlib import Path
from typing import Any

from app.i18n import say
from app.merge.run import Progress, picture_item
from app.shared_files import download
from app.widgets.gallery import MAX_PICTURES
from app.widgets.run_status import copy_button, kept_html
from lora_core import proof_verdict
from lora_core.events import FileSaved, ProofDone
from lora_core.families.source import BUILT_IN
from lora_core.generate.keep import proposed_name
from lora_core.i18n import Language

WORDS = ("all_prompts", "empty", "close", "previous", "next", "prompt")
"""Of the gallery, which the monitor has, too."""


def gallery(found: Progress | None, language: Language) -> dict[str, Any] | None:
    """Finished grids first, then the single pictures; None hides it."""
    if found is None or not found.pictures:
        return None
    grids = [saved for saved in found.pictures if saved.facts.get("grid")]
    single = [saved for saved in found.pictures if not saved.facts.get("grid")][-MAX_PICTURES:]
    if single and "with_lora" in single[0].facts:  # each beside its like without the LoRA
        single.sort(key=lambda saved: saved.facts["index"])
    groups = [_group("model_test.grids", grids, language), _group("model_test.pictures", single, language)]
    words = {word: say(f"monitor.samples.{word}", language) for word in WORDS}
    words |= {"title": say("model_test.results", language)}
    words |= {"compare": say("model_test.compare", language), "compareWith": say("model_test.compare_with", language)}
    words |= {"keep": say("model_test.keep", language), "keepGo": say("model_test.keep.go", language)}
    return {"groups": [group for group in groups if group["items"]], "prompts": [], "words": words}


def _group(key: str, files: list[FileSaved], language: Language) -> dict[str, Any]:
    items = [item | _keeping(saved, language) | _pair(saved) for saved in files if (item := picture_item(saved))]
    return {"title": say(key, language), "step": 0, "items": items}


def _keeping(saved: FileSaved, language: Language) -> dict[str, Any]:
    """What the gallery needs to offer the LoRA file of a picture; nothing for a picture of none."""
    lora = lora_of(saved)
    if lora is None:
        return {}
    ask, strength = say("model_test.keep.ask", language, file=lora.name), strength_of(saved)
    if strength:
        ask += (" " if language == "en" else "") + say("model_test.keep.strength", language, strength=f"{strength:g}")
    return {"keep": {"name": proposed_name(lora), "ask": ask}}


def _pair(saved: FileSaved) -> dict[str, Any]:
    """The number of the same picture without the LoRA, or with it, where a proof drew both."""
    index, with_lora = saved.facts.get("index"), saved.facts.get("with_lora")
    return {"pair": index - 1 if with_lora else index + 1} if isinstance(index, int) and with_lora is not None else {}


def lora_of(saved: FileSaved) -> Path | None:
    """The LoRA file that a cell of a grid shows."""
    path = saved.facts.get("lora")
    return Path(path) if isinstance(path, str) and path else None


def strength_of(saved: FileSaved) -> float | None:
    """The strength of a cell of a grid of strengths."""
    strength = saved.facts.get("strength")
    return float(strength) if isinstance(strength, int | float) else None


def cell_at(found: Progress | None, index: Any) -> FileSaved | None:
    """The picture of this number."""
    pictures = [] if found is None else found.pictures
    return next((saved for saved in pictures if "grid" not in saved.facts and saved.facts.get("index") == index), None)


def results_html(found: Progress | None, language: Language) -> str:
    """What a finished job found out and kept, the folder of its pictures, and each grid to download."""
    if found is None or not found.ended:
        return ""
    proof = "" if found.view.proof is None else proof_html(found.view.proof, language)
    if not found.pictures:
        return proof
    grids = [saved.path for saved in found.pictures if saved.facts.get("grid")]
    folder = (grids or [found.pictures[-1].path])[0].parent
    where = f"<span>{escape(say('monitor.files.folder', language))}</span> <code>{escape(str(folder))}</code>"
    buttons = copy_button(folder, say("monitor.files.copy", language)) + "".join(
        _link(path, language) for path in grids
    )
    kept = kept_html(found.view, language)
    return (
        f'{proof}<div class="mg-result">{kept}<div class="mg-where">{where}</div>'
        f'<div class="rs-do">{buttons}</div></div>'
    )


def loaded_html(model: str | None, language: Language, *, busy: bool) -> str:
    """Which model is in memory for the next pictures, and a button that frees it; nothing while none is."""
    if model is None:
        return ""
    name = say("model.built_in", language) if model == BUILT_IN else model
    words, tip = escape(say("model_test.free", language)), escape(say("model_test.free.tip", language), quote=True)
    return (
        f'<div class="mt-loaded"><span>{escape(say("model_test.loaded", language, name=name))}</span>'
        f'<button type="button" class="mt-free" title="{tip}" {"disabled" if busy else ""}>{words}</button></div>'
    )


def _link(path: Path, language: Language) -> str:
    """To download a grid; nothing when it is gone."""
    address = download(path) if path.is_file() else None
    if not address:
        return ""
    words, name = escape(say("monitor.files.download", language)), escape(path.name, quote=True)
    return f'<a class="rs-fetch" href="{escape(address, quote=True)}" download="{name}">{words} {name}</a>'


def proof_html(done: ProofDone, language: Language) -> str:
    """Whether a LoRA does anything: the verdict, and the numbers it rests on."""
    said = "".join(
        f'<li data-severity="{remark.severity}">{escape(remark.words(language))}</li>'
        for remark in proof_verdict.remarks(done)
    )
    rows = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>"
        for label, value in proof_verdict.numbers(done, language)
    )
    return (
        f'<section class="mt-proof" data-severity="{proof_verdict.severity(done)}"><h3>{escape(done.name)}</h3>'
        f"<ul>{said}</ul><dl>{rows}</dl></section>"
    )
