"""What the Merge tab says about each file: a card with family, rank and parts, or what is wrong with it."""

import base64
import io
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from app.i18n import say
from app.live import size_words
from app.merge.form import Values, file_keys
from app.merge.values import FormError, Term, error_words, path_of
from lora_core.errors import UserError
from lora_core.i18n import Language
from lora_core.inspect.header import inspect_header
from lora_core.inspect.report import HeaderReport, Thumbnail
from lora_core.io.kinds import FAMILY_NAMES, Family

_SIDE = 112
"""Pixels of a thumbnail: twice what is shown, for dense screens."""
_KEPT = 24
_LONGEST = 80

CHECKPOINTS = frozenset({"checkpoint", "unet", "text_encoder"})


@dataclass(frozen=True)
class Look:
    """What was found behind a path: a report, or why there is none."""

    path: Path | None = None
    report: HeaderReport | None = None
    error: FormError | UserError | None = None
    picture: str = ""
    """A small thumbnail as a data: address, made by us."""
    stamp: int = 0
    """When the file was last written (ns)."""

    @property
    def family(self) -> Family:
        return self.report.family if self.report else "unknown"

    @property
    def blocks(self) -> frozenset[str]:
        return frozenset(block.block for block in self.report.blocks) if self.report else frozenset()


class Looks:
    """Reads each file's header once, until it changes: every key stroke on the page asks again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple, Look] = OrderedDict()

    def at(self, path: Path) -> Look:
        try:
            stat = path.stat()
            key = (path, stat.st_mtime_ns, stat.st_size)
        except (OSError, ValueError):
            return _look(path)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = replace(_look(path), stamp=stat.st_mtime_ns)
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]

    def of(self, values: Values, roots: Sequence[Path]) -> dict[str, Look]:
        """Every file that the tab names, by the key of its box. A file of the wrong kind or family has an error."""
        found: dict[str, Look] = {}
        for key in file_keys(values):
            try:
                path = path_of(values, key, roots)
            except FormError as error:
                found[key] = Look(error=error)
                continue
            if path is not None:
                found[key] = _of_the_kind(self.at(path), is_lora=key.startswith("path"))
        return _one_family(found)


def _look(path: Path) -> Look:
    try:
        report = inspect_header(path)
    except UserError as error:
        return Look(path, error=error)
    return Look(path, report, picture=thumbnail(report.thumbnail))


def _of_the_kind(look: Look, *, is_lora: bool) -> Look:
    """The look, with an error when the file is no LoRA, or no checkpoint, where one is wanted."""
    if look.report is None or (
        (look.report.kind == "lora") == is_lora and (is_lora or look.report.kind in CHECKPOINTS)
    ):
        return look
    kind = look.report.kind
    key = "merge_tab.not_lora" if is_lora else "merge_tab.not_checkpoint"
    return replace(look, error=FormError(key, kind=Term(f"merge_tab.kind.{kind}")))


def _one_family(found: Mapping[str, Look]) -> dict[str, Look]:
    """Every file that is of another family than the first one gets an error that names both."""
    known = {key: look for key, look in found.items() if look.report and not look.error and look.family != "unknown"}
    first = next(iter(known.values()), None)
    mixed = dict(found)
    for key, look in known.items():
        if first and look.family != first.family and look.path and first.path:
            values = {"family": FAMILY_NAMES[look.family], "other": first.path.name}
            error = FormError("merge_tab.family_mix", **values, other_family=FAMILY_NAMES[first.family])
            mixed[key] = replace(look, error=error)
    return mixed


def thumbnail(found: Thumbnail | None) -> str:
    """A small picture drawn anew, so that nothing of the original but its pixels reaches the page."""
    if found is None:
        return ""
    try:
        source = found.path or io.BytesIO(base64.b64decode(found.data_url.partition(",")[2], validate=True))
        with Image.open(source) as image:
            small = image.convert("RGB")
            small.thumbnail((_SIDE, _SIDE))
        data = io.BytesIO()
        small.save(data, "WEBP", quality=85)
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError):
        return ""
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode("ascii")


# ---- cards -----------------------------------------------------------------------------------------------------------


def card_html(look: Look | None, language: Language, *, weighted: bool = False) -> str:
    """The card under a path box; ``weighted`` says that its layers have weights, which may be folded away."""
    if look is None:
        return ""
    facts = facts_html(look.report, language, weighted=weighted) if look.report else ""
    name = f'<div class="mg-name">{escape(_short(title_of(look)))}</div>' if look.report else ""
    picture = f'<img class="mg-thumb" src="{look.picture}" alt="">' if look.picture else ""
    wrong = (
        f'<div class="mg-wrong" role="alert">{escape(error_words(look.error, language))}</div>' if look.error else ""
    )
    state = "bad" if look.error else "ok"
    return f'<div class="mg-card mg-{state}">{picture}<div class="mg-about">{name}{facts}{wrong}</div></div>'


def title_of(look: Look) -> str:
    report = look.report
    return (report.title or report.output_name if report else "") or (look.path.stem if look.path else "")


def facts_html(report: HeaderReport, language: Language, *, weighted: bool = False) -> str:
    """Family and algorithm as badges, numbers in a line behind them."""
    badges = [FAMILY_NAMES[report.family] if report.family != "unknown" else say("merge_tab.card.unknown", language)]
    if report.kind == "lora":
        badges += [algorithm_words(report)]
    else:
        badges += [say(f"merge_tab.kind.{report.kind}", language)]
    badges += [say("merge_tab.card.weighted", language)] if weighted else []
    shown = "".join(f'<span class="mg-badge">{escape(badge)}</span>' for badge in badges if badge)
    facts = " · ".join(escape(fact) for fact in facts_of(report, language))
    return f'<div class="mg-facts">{shown}<span>{facts}</span></div>'


def algorithm_words(report: HeaderReport) -> str:
    names = {"lora": "LoRA", "locon": "LoCon", "loha": "LoHa", "lokr": "LoKr", "dora": "DoRA", "glora": "GLoRA"}
    return " + ".join(names.get(name, name.upper()) for name in list(report.algorithms)[:2]) or "LoRA"


def facts_of(report: HeaderReport, language: Language) -> list[str]:
    """Rank and alpha, the parts it changes with their layers, number format, size."""
    facts = []
    if report.rank is not None:
        alpha = report.rank if report.alpha is None else report.alpha
        more = "…" if len(report.ranks) > 1 else ""
        facts.append(say("merge_tab.card.rank", language, rank=f"{report.rank}{more}", alpha=f"{alpha:g}"))
    facts += [say("merge_tab.card.part", language, part=p.name(language), layers=p.layers) for p in report.parts]
    return [*facts, *(fact for fact in (report.precision, size_words(report.size)) if fact)]


def _short(words: str) -> str:
    return words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…"
