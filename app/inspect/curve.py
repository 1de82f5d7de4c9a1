"""The energy curve as SVG: the share of a LoRA's change that each smaller rank keeps."""

from collections.abc import Sequence
from math import log2

from app.i18n import say
from app.inspect.html import percent, safe
from lora_core.i18n import Language
from lora_core.inspect.report import EnergyPoint

WIDTH, HEIGHT = 320.0, 150.0
LEFT, RIGHT, TOP, BOTTOM = 36.0, 8.0, 8.0, 22.0
"""Room for the labels, in the curve's own pixels."""


def curve_svg(points: Sequence[EnergyPoint], marked: int | None, language: Language) -> str:
    """Share kept over rank, with a line at the rank ``marked``. Ranks stand in powers of two, as people choose them."""
    scale = Scale(max(point.rank for point in points))
    line = " ".join(f"{scale.x(p.rank):.1f},{scale.y(p.share):.1f}" for p in points)
    left, right, bottom = scale.x(points[0].rank), scale.x(points[-1].rank), scale.y(0)
    area = f"{left:.1f},{bottom:.1f} {line} {right:.1f},{bottom:.1f}"
    dots = "".join(dot(scale, point, point.rank == marked, language) for point in points)
    drawn = f'{axes(scale)}{mark(scale, marked)}<polygon points="{area}"/><polyline points="{line}"/>{dots}'
    label = safe(say("inspector.energy", language))
    return f'<svg class="in-curve" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{label}">{drawn}</svg>'


class Scale:
    """Where a rank and a share are drawn."""

    def __init__(self, last: int):
        self.octaves = max(log2(max(last, 1)), 1.0)

    def x(self, rank: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * log2(max(rank, 1)) / self.octaves

    def y(self, share: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - max(0.0, min(1.0, share)))


def axes(scale: Scale) -> str:
    """Lines at 0, 50 and 100%, and ranks below; every second power of two when there are many."""
    lines = "".join(
        f'<line class="in-grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{scale.y(share):.1f}" y2="{scale.y(share):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{scale.y(share) + 3.5:.1f}" text-anchor="end">{share:.0%}</text>'
        for share in (0.0, 0.5, 1.0)
    )
    ranks = [2**power for power in range(int(scale.octaves) + 1) if scale.octaves < 8 or power % 2 == 0]
    return lines + "".join(
        f'<text x="{scale.x(rank):.1f}" y="{HEIGHT - 6:.1f}" text-anchor="middle">{rank}</text>' for rank in ranks
    )


def mark(scale: Scale, rank: int | None) -> str:
    if rank is None:
        return ""
    x = scale.x(rank)
    return f'<line class="in-marked" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{scale.y(0):.1f}"/>'


def dot(scale: Scale, point: EnergyPoint, is_marked: bool, language: Language) -> str:
    """A point that tells its numbers when hovered, within reach of a finger."""
    place = f'cx="{scale.x(point.rank):.1f}" cy="{scale.y(point.share):.1f}"'
    words = say("inspector.energy_point", language, rank=point.rank, share=percent(point.share, 1))
    classes = "in-dot in-marked" if is_marked else "in-dot"
    return (
        f'<g class="{classes}"><circle {place} r="3"/><circle class="in-reach" {place} r="9"/>'
        f"<title>{safe(words)}</title></g>"
    )
