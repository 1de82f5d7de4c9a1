"""The loss chart: raw and smoothed loss on the left axis, learning rates on the right, drawn on a canvas.

The page gets at most a few thousand points, chosen so that every peak stays visible; 20,000 steps draw smoothly.
"""

from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from app.run_view import RunView, Series

MAX_POINTS = 4000
MAX_RATE_POINTS = 400


def build(elem_id: str = "loss_chart") -> gr.HTML:
    folder = Path(__file__).parent
    return gr.HTML(
        value=None,
        html_template=(folder / "loss_chart.html").read_text(encoding="utf-8"),
        css_template=(folder / "loss_chart.css").read_text(encoding="utf-8"),
        js_on_load=(folder / "loss_chart.js").read_text(encoding="utf-8"),
        elem_id=elem_id,
        padding=False,
    )


def points(view: RunView, words: dict[str, str]) -> dict[str, Any]:
    """What the page draws of a run. ``words`` are its labels in the person's language."""
    series = view.series
    keep = extremes(np.frombuffer(series.loss) if series.loss else np.empty(0), MAX_POINTS)
    return {
        "x": [series.steps[i] for i in keep],
        "raw": [_short(series.loss[i]) for i in keep],
        "smooth": [_short(series.smooth[i]) for i in keep],
        "rates": rates(series),
        "epochs": [[epoch.step, _short(epoch.mean_loss)] for epoch in view.epochs[-500:]],
        "total": view.total,
        "words": words,
    }


def extremes(values: np.ndarray, limit: int) -> list[int]:
    """Indices of at most ``limit`` values that keep the shape: least and greatest of each stretch, and the last.

    A value that is not a number is kept as the greatest of its stretch, so that a loss that blew up is seen.
    """
    count = len(values)
    if count <= limit:
        return list(range(count))
    per_stretch = -(-count // (limit // 2 - 1))
    padded = np.concatenate([values, np.full(-count % per_stretch, values[-1])]).reshape(-1, per_stretch)
    starts = np.arange(len(padded)) * per_stretch
    least = starts + np.where(np.isnan(padded), np.inf, padded).argmin(axis=1)
    greatest = starts + np.where(np.isnan(padded), np.inf, padded).argmax(axis=1)
    chosen = np.unique(np.concatenate([least, greatest, [0, count - 1]]))
    return chosen[chosen < count].tolist()


def rates(series: Series) -> list[dict[str, Any]]:
    """The learning rates, thinned out; parts that share one rate share one line."""
    every = max(1, -(-len(series.steps) // MAX_RATE_POINTS))
    keep = sorted({*range(0, len(series.steps), every), *([len(series.steps) - 1] if series.steps else [])})
    lines: dict[tuple[float, ...], list[str]] = {}
    for name, column in series.rates.items():
        lines.setdefault(tuple(_short(column[i]) for i in keep if i < len(column)), []).append(name)
    x = [series.steps[i] for i in keep]
    return [{"names": names, "x": x, "y": list(y)} for y, names in lines.items()]


def _short(value: float) -> float | None:
    """Five digits are more than a pixel; what JSON has no number for is nothing."""
    return float(f"{value:.5g}") if np.isfinite(value) else None
