"""Over-fitting on the monitor: four curves by epoch, what they say, and which pictures fight the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from app.i18n import say
from app.run_view import RunView
from lora_core.events import ValidationDone
from lora_core.i18n import Language
from lora_core.verdict import Verdict, by_epoch, judge, picture_table

WIDTH, HEIGHT = 600, 130
"""Of the drawing area, in units of the picture."""
LEFT, TOP, RIGHT, BOTTOM = 62, 12, 46, 22
"""Room for the words around it: losses on the left, drift on the right."""
PICTURES_SHOWN = 12


@dataclass(frozen=True)
class Curve:
    """One curve: (epoch, value), drawn between ``bottom`` and ``top``."""

    name: str
    points: tuple[tuple[int, float], ...]
    bottom: float
    top: float

    def height(self, value: float) -> float:
        """From 0 at the bottom to 1."""
        return (value - self.bottom) / (self.top - self.bottom)


def html(view: RunView, language: Language) -> str:
    """All of it; empty for a run that does not validate."""
    history = by_epoch(view.validations)
    if not history:
        return ""
    found = judge(history)
    drawn = curves(history)
    parts = [
        f'<p class="ov-verdict">{escape(found.words(language))}</p>',
        f'<div class="kb-curve">{svg(drawn, found, language)}{legend(drawn, language)}</div>',
        pictures_html(history, language),
        bands_html(history[-1], language),
    ]
    title = escape(say("monitor.overfitting", language))
    return f'<section class="ov" data-kind="{found.kind}"><h3>{title}</h3>{"".join(parts)}</section>'


def curves(history: Sequence[ValidationDone]) -> list[Curve]:
    """The two losses on one scale, the drift on its own from 0, prompt-following from 0 (none) to 1 (as before)."""
    fit = [(e.epoch, e.fit) for e in history]
    apart = [(e.epoch, e.generalisation) for e in history if e.generalisation is not None]
    drift = [(e.epoch, e.drift_class if e.drift_unrelated is None else e.drift_unrelated) for e in history]
    following = _points([(e.epoch, e.following) for e in history if e.following is not None])
    kept = [value for _, value in following]
    losses = [loss for _, loss in fit + apart if _drawable(loss)] or [0.0]
    low, high = min(losses), max(losses)
    room = (high - low) * 0.06 or abs(high) * 0.06 or 1e-6
    highest = max([value for _, value in drift if _drawable(value)] or [0.0]) * 1.06 or 0.01
    found = [
        Curve("fit", _points(fit), low - room, high + room),
        Curve("generalisation", _points(apart), low - room, high + room),
        Curve("drift", _points(drift), 0.0, highest),
        Curve("following", following, min([0.0, *kept]), max([1.0, *kept])),
    ]
    return [curve for curve in found if curve.points]


def svg(drawn: Sequence[Curve], found: Verdict, language: Language) -> str:
    """The curves on their axes, the border as a line in its interval. Colours come from the page's styles."""
    epochs = [epoch for curve in drawn for epoch, _ in curve.points] or [0]
    first, last = min(epochs), max(epochs)
    bottom, right = TOP + HEIGHT, LEFT + WIDTH

    def across(epoch: float) -> float:
        return LEFT + WIDTH * (min(max(epoch, first), last) - first) / max(1, last - first)

    def place(curve: Curve, epoch: int, value: float) -> tuple[str, str]:
        return f"{across(epoch):.1f}", f"{bottom - HEIGHT * curve.height(value):.1f}"

    lines = []
    for curve in drawn:
        style = f"kb-curve-{_NAMES.index(curve.name)}"
        at = [place(curve, *point) for point in curve.points]
        lines.append(f'<polyline class="{style}" points="{" ".join(",".join(p) for p in at)}"/>')
        lines += [f'<circle class="{style}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in at] if len(at) <= 40 else []
    told = escape(found.words(language), quote=True)
    size = f"0 0 {right + RIGHT} {bottom + BOTTOM}"
    axes = f'<path class="kb-curve-axis" d="M{LEFT} {TOP}V{bottom}H{right}V{TOP}"/>'
    return (
        f'<svg viewBox="{size}" role="img" aria-label="{told}"><title>{told}</title>'
        f"{_border(found, across)}{axes}{''.join(lines)}{_scales(drawn, first, last, language)}</svg>"
    )


_NAMES = ("fit", "generalisation", "drift", "following")
_SHARES = ("drift", "following")
"""Told in percent."""


def _border(found: Verdict, across: Callable[[float], float]) -> str:
    if found.kind != "border":
        return ""
    left, right, middle = across(found.low - 0.5), across(found.high + 0.5), across(found.border)
    shade = f'<rect class="ov-interval" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{HEIGHT}"/>'
    return f'{shade}<path class="ov-border" d="M{middle:.1f} {TOP}v{HEIGHT}"/>'


def _scales(drawn: Sequence[Curve], first: int, last: int, language: Language) -> str:
    bottom, right = TOP + HEIGHT, LEFT + WIDTH
    words = [
        f'<text x="{LEFT}" y="{bottom + 17}">{first}</text>',
        f'<text x="{right}" y="{bottom + 17}" text-anchor="end">{escape(say("monitor.epoch", language))} {last}</text>',
    ]
    for curve in drawn:
        if curve.name in ("generalisation", "following"):
            continue  # the one has the scale of another curve, the other from 0 to 100%
        x, anchor = (right + 5, "start") if curve.name == "drift" else (LEFT - 6, "end")
        for y, value in ((TOP + 8, curve.top), (bottom + 2, curve.bottom)):
            told = _percent(value) if curve.name == "drift" else f"{value:.3g}"
            words.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}">{told}</text>')
    return "".join(words)


def legend(drawn: Sequence[Curve], language: Language) -> str:
    entries = []
    for curve in drawn:
        value = curve.points[-1][1]
        now = _percent(value) if curve.name in _SHARES else f"{value:.4g}"
        words = f"{say(f'monitor.overfitting.{curve.name}', language)} {now}"
        entries.append(f'<span><i class="kb-curve-{_NAMES.index(curve.name)}"></i>{escape(words)}</span>')
    return f'<div class="kb-curve-legend">{"".join(entries)}</div>'


def _percent(share: float) -> str:
    """Two digits, and as many as it takes from 100% on."""
    return f"{100 * share:.0f}%" if abs(share) >= 0.1 else f"{100 * share:.2g}%"


def pictures_html(history: Sequence[ValidationDone], language: Language) -> str:
    """The pictures that gained least first; folded away."""
    rows = picture_table(history)
    if not rows:
        return ""
    fighting = sum(row.fights for row in rows)
    key = "monitor.overfitting.fighting" if fighting else "monitor.overfitting.pictures"
    head = _row("th", [say(f"monitor.overfitting.column.{name}", language) for name in _COLUMNS])
    body = "".join(
        _row(
            "td",
            [
                row.name,
                say(f"monitor.overfitting.{'held_out' if row.held_out else 'trained'}", language),
                f"{row.first:.4g}",
                f"{row.now:.4g}",
                f"{100 * row.change:+.1f}%",
            ],
            "ov-fights" if row.fights else "",
        )
        for row in rows[:PICTURES_SHOWN]
    )
    return _folded(say(key, language, count=fighting), f"<table>{head}{body}</table>")


_COLUMNS = ("picture", "kind", "first", "now", "change")


def bands_html(event: ValidationDone, language: Language) -> str:
    """The losses by noise level; folded away."""
    names = ("noise", "fit", "generalisation")
    head = _row("th", [say(f"monitor.overfitting.{name}", language) for name in names])
    body = "".join(
        _row("td", [f"{band.low}–{band.high}", _number(band.fit), _number(band.generalisation)]) for band in event.bands
    )
    title = say("monitor.overfitting.bands", language, epoch=event.epoch)
    return _folded(title, f"<table>{head}{body}</table>") if event.bands else ""


def _folded(title: str, inside: str) -> str:
    return f'<details class="ov-more"><summary>{escape(title)}</summary><div class="ov-table">{inside}</div></details>'


def _row(cell: str, values: Sequence[str], style: str = "") -> str:
    cells = "".join(f"<{cell}>{escape(value)}</{cell}>" for value in values)
    return f'<tr class="{style}">{cells}</tr>' if style else f"<tr>{cells}</tr>"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _points(values: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    return tuple((epoch, value) for epoch, value in values if _drawable(value))


def _drawable(value: float) -> bool:
    return value == value and abs(value) != float("inf")
