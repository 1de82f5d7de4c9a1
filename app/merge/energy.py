"""What a rank keeps of a merge: one line in words, and a curve over all ranks."""

from collections.abc import Sequence
from html import escape

import numpy as np

from app.i18n import say
from app.merge.form import Values, is_merge, size_way
from app.merge.settings import Roots, previewed, settings_of
from app.merge.values import FormError
from lora_core.errors import UserError
from lora_core.i18n import Language
from lora_core.merge.combine import Kept, Spectrum, spectrum
from lora_core.merge.recipe import is_spatial
from lora_core.merge.resize import DYNAMIC
from lora_core.merge.sizes import Sizes
from lora_core.settings.tools import ResizeSettings, Size

MOST_POINTS = 120
GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
_PLENTY = 0.9995
"""A share that would be rounded to 100.0%."""


def energy_html(values: Values, roots: Roots, language: Language, *, sound: bool = True, measured: bool = True) -> str:
    """The line and the curve, or a hint while files are missing or wrong (not ``sound``) or it would take minutes."""
    way = size_way(values)
    if values["what"] == "extract":
        return _hint("unknown", language)
    if values["what"] == "bake":
        return ""
    if not sound:
        return _hint("wait", language)
    if not way:
        return _hint("all", language)
    if not measured:
        return _hint("later", language)
    try:
        settings = settings_of(values, roots) if is_merge(values) else previewed(values, roots)
        found = spectrum(settings)
    except (FormError, UserError, OSError):  # said at its file or field
        return _hint("wait", language)
    if not found.total:
        return ""
    size = Size(**settings.model_dump(include=set(Size.model_fields)))
    resized = settings_of(values, roots)
    if isinstance(resized, ResizeSettings) and resized.dynamic_method:
        kept = dynamically_kept(found, resized)
    else:
        kept = found.kept(size)
    line = line_html(kept, size.rank if way == "rank" else None, language)
    chart = curve_html(curve(found, size.conv_rank), max(kept.ranks.values(), default=0), language)
    return f'<div class="mg-energy" data-share="{kept.share:.6f}">{line}{chart}</div>'


def _hint(word: str, language: Language) -> str:
    return f'<div class="mg-energy"><p class="kb-hint">{escape(say(f"merge_tab.energy.{word}", language))}</p></div>'


def dynamically_kept(found: Spectrum, settings: ResizeSettings) -> Kept:
    """What a resize keeps that chooses the rank of each layer by its singular values."""
    sizes, ranks = Sizes.of(settings), {}
    for layer, values in found.values.items():
        own = sizes.choose(values, found.shapes[layer])
        chosen = DYNAMIC[str(settings.dynamic_method)](values, float(settings.dynamic_param or 1)) if own else 0
        ranks[layer] = min(chosen, own)
    kept = {layer: float(np.square(values[: ranks[layer]]).sum()) for layer, values in found.values.items()}
    shares = {layer: min(kept[layer] / square, 1.0) for layer, square in found.squares.items() if square}
    worst = min(shares, key=lambda layer: shares[layer], default="")
    return Kept(min(sum(kept.values()) / found.total, 1.0), shares.get(worst, 1.0), worst, ranks)


def line_html(kept: Kept, fixed: int | None, language: Language) -> str:
    """ "Rank 16 keeps 99.3% of the change. The layer that loses most keeps 91.0%." ``fixed`` is a rank asked for."""
    ranks = [rank for rank in kept.ranks.values() if rank]
    low, high = min(ranks, default=0), max(ranks, default=0)
    if fixed is not None:
        head = say("merge_tab.energy.rank", language, rank=fixed, percent=percent(kept.share))
    elif low == high:
        head = say("merge_tab.energy.one", language, rank=high, percent=percent(kept.share))
    else:
        head = say("merge_tab.energy.range", language, low=low, high=high, percent=percent(kept.share))
    more = ""
    if kept.share > _PLENTY and kept.worst_share > _PLENTY:
        more = say("merge_tab.energy.all", language)
    elif kept.worst_layer:
        more = say("merge_tab.energy.worst", language, percent=percent(kept.worst_share))
    tip = escape(kept.worst_layer, quote=True)
    return f'<p class="mg-kept"><b>{escape(head)}</b> <span title="{tip}">{escape(more)}</span></p>'


def percent(share: float) -> str:
    """99.3%; never 100% of what is not whole.

    >>> percent(0.99996)
    '99.99%'
    """
    if share >= 1 - 1e-7:
        return "100%"
    if share > 0.999:
        return f"{np.floor(share * 1e4) / 100:.2f}%"
    return f"{share:.1%}"


def curve(found: Spectrum, conv_rank: int | None = None) -> list[tuple[int, float, float]]:
    """(rank, share kept of everything, share kept in the worst layer) for ranks from 1 to the largest there is.

    Convolutions larger than 1x1 stay at ``conv_rank`` when one is given.
    """
    layers = [name for name, values in found.values.items() if values.size and values[0] > 0]
    longest = max((len(found.values[name]) for name in layers), default=0)
    if not longest:
        return []
    squares = np.zeros((len(layers), longest))
    for row, name in zip(squares, layers, strict=True):
        row[: len(found.values[name])] = np.square(found.values[name], dtype=np.float64)
    kept = np.cumsum(squares, axis=1)
    whole = np.array([found.squares[name] for name in layers])
    if conv_rank:
        spatial = [is_spatial(found.shapes[name]) for name in layers]
        kept[spatial] = kept[spatial, min(conv_rank, longest) - 1][:, None]
    shares, worst = np.minimum(kept.sum(0) / whole.sum(), 1), np.minimum((kept / whole[:, None]).min(0), 1)
    # What comes after everything is kept is a flat line; a little of it shows that nothing more is to be had.
    end = min(longest, int(np.searchsorted(worst, 1 - 1e-6)) + 2)
    ranks = np.unique(np.linspace(1, end, min(end, MOST_POINTS)).round().astype(int))
    return [(int(rank), float(shares[rank - 1]), float(worst[rank - 1])) for rank in ranks]


def curve_html(points: Sequence[tuple[int, float, float]], marked: int, language: Language) -> str:
    """The curve as a drawing that stretches with the page; its words stand around it and keep their size."""
    if len(points) < 2:
        return ""
    last = points[-1][0]

    def place(rank: int, share: float) -> str:
        return f"{100 * (rank - 1) / (last - 1):.2f},{100 * (1 - share):.2f}"

    whole, worst = (" ".join(place(rank, pair[i]) for rank, *pair in points) for i in (0, 1))
    at = 100 * (min(max(marked, 1), last) - 1) / (last - 1)
    lines = "".join(f'<line x1="0" x2="100" y1="{100 * y:g}" y2="{100 * y:g}" class="mg-grid"/>' for y in GRID)
    drawing = (
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{lines}'
        f'<line x1="{at:.2f}" x2="{at:.2f}" y1="0" y2="100" class="mg-mark"/>'
        f'<polyline points="{worst}" class="mg-worst"/><polyline points="{whole}" class="mg-whole"/></svg>'
    )
    heights = "".join(f'<span style="top:{100 * (1 - y):g}%">{y:.0%}</span>' for y in GRID)
    ranks = "".join(f'<span style="left:{100 * (rank - 1) / (last - 1):.2f}%">{rank}</span>' for rank in ticks(last))
    words = {word: escape(say(f"merge_tab.energy.{word}", language)) for word in ("axis", "title", "whole", "least")}
    return (
        f'<div class="mg-curve" role="img" aria-label="{words["title"]}"><div class="mg-legend">'
        f'<span class="mg-key-whole">{words["whole"]}</span><span class="mg-key-worst">{words["least"]}</span></div>'
        f'<div class="mg-plot"><div class="mg-y">{heights}</div>{drawing}<div class="mg-x">{ranks}</div></div>'
        f'<div class="mg-axis">{words["axis"]}</div></div>'
    )


def ticks(last: int) -> list[int]:
    """About five ranks to write below the curve, the first and the last among them.

    >>> ticks(16)
    [1, 4, 8, 12, 16]
    """
    step = next(step for step in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if last / step <= 5)
    inner = [rank for rank in range(step, last, step) if rank > 1 and last - rank >= step / 2]
    return [1, *inner, last]
