"""The learning rates of a run to come, drawn: one line for each part that is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from app.i18n import say
from app.live import Look
from app.words import part_name
from lora_core.i18n import Language
from lora_core.settings import FINDS_ITS_OWN_RATE, RunSettings
from lora_core.train.schedules import factor, text_encoders_stop_at

WIDTH, HEIGHT = 600, 120
"""Of the drawing area, in units of the picture."""
LEFT, TOP, RIGHT, BOTTOM = 62, 10, 12, 22
"""Room for the words around it."""
POINTS = 240
ASSUMED_STEPS = 1000
"""Length of the run while there are no pictures to count."""


@dataclass(frozen=True)
class Line:
    """The rate of one part: (step, rate) from the first step to the last."""

    part: str
    points: tuple[tuple[int, float], ...]
    family: str = "sd1"
    """Of the model: what the denoiser is called."""

    @property
    def top(self) -> float:
        return max(rate for _, rate in self.points)

    @property
    def end(self) -> float:
        return self.points[-1][1]


def curve_html(look: Look, language: Language) -> str:
    """The picture with its legend, or why there is none."""
    settings, plan = look.settings, look.found.plan
    if getattr(settings.optimizer, "relative_step", False):
        return f'<div class="kb-note">{escape(say("parameters.curve.own", language))}</div>'
    known = plan is not None and plan.total_steps > 0
    total = plan.total_steps if plan is not None and known else settings.train.max_train_steps or ASSUMED_STEPS
    drawn = lines(settings, total)
    notes = [] if known else [say("parameters.curve.assumed", language, steps=total)]
    if settings.optimizer.name in FINDS_ITS_OWN_RATE:
        notes.append(say("parameters.curve.multiplier", language, optimizer=settings.optimizer.name))
    noted = "".join(f"<div>{escape(note)}</div>" for note in notes)
    return f'<div class="kb-curve">{svg(drawn, total, language)}{legend(drawn, language)}{noted}</div>'


def lines(settings: RunSettings, total: int) -> list[Line]:
    """The rate of each part over a run of ``total`` optimizer steps, at about POINTS of them."""
    at = factor(settings.schedule, total)
    steps = sorted({*range(0, total, max(1, total // POINTS)), total - 1})
    stop = text_encoders_stop_at(settings.train, total)
    found = []
    for part, rate in part_rates(settings).items():
        ends = stop if part != "unet" and stop is not None and stop < total else None
        own = steps if ends is None else sorted({*steps, ends, max(0, ends - 1)})
        values = (0.0 if ends is not None and step >= ends else rate * at(step) for step in own)
        found.append(Line(part, tuple(zip(own, values, strict=True)), settings.model.family))
    return found


def part_rates(settings: RunSettings) -> dict[str, float]:
    """The highest learning rate of each part that is trained."""
    train = settings.train
    rates = {"unet": train.unet_lr or train.learning_rate}
    if train.train_text_encoder:
        rates["text_encoder"] = train.text_encoder_lr or train.learning_rate
        if settings.model.family == "sdxl":
            rates["text_encoder_2"] = getattr(train, "text_encoder_2_lr", None) or rates["text_encoder"]
    return rates


def svg(drawn: Sequence[Line], total: int, language: Language) -> str:
    """The lines on their axes. Colours come from the page's styles, so that they suit light and dark."""
    highest = max(line.top for line in drawn) or 1.0
    bottom = TOP + HEIGHT

    def place(step: int, rate: float) -> str:
        return f"{LEFT + WIDTH * step / max(1, total - 1):.1f},{bottom - HEIGHT * rate / highest:.1f}"

    paths = "".join(
        f'<polyline class="kb-curve-{number % 6}" points="{" ".join(place(*point) for point in line.points)}"/>'
        for number, line in enumerate(drawn)
    )
    right = LEFT + WIDTH
    axes = f'<path class="kb-curve-axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>'
    words = (
        f'<text x="{LEFT - 6}" y="{TOP + 4}" text-anchor="end">{highest:.3g}</text>'
        f'<text x="{LEFT - 6}" y="{bottom + 4}" text-anchor="end">0</text>'
        f'<text x="{LEFT}" y="{bottom + 17}">1</text>'
        f'<text x="{right}" y="{bottom + 17}" text-anchor="end">{total:,}</text>'
    )
    told = escape(" ".join([say("parameters.curve.title", language, steps=total), *_told(drawn, language)]), quote=True)
    size = f"0 0 {right + RIGHT} {bottom + BOTTOM}"
    return f'<svg viewBox="{size}" role="img" aria-label="{told}"><title>{told}</title>{axes}{paths}{words}</svg>'


def legend(drawn: Sequence[Line], language: Language) -> str:
    """Names of the lines and the values they end at; lines that lie on each other stand together."""
    entries = "".join(
        f'<span><i class="kb-curve-{number % 6}"></i>{escape(words)}</span>'
        for number, words in enumerate(_told(drawn, language))
    )
    return f'<div class="kb-curve-legend" aria-hidden="true">{entries}</div>'


def _told(drawn: Sequence[Line], language: Language) -> list[str]:
    return [
        say(
            "parameters.curve.line",
            language,
            part=part_name(line.part, language, line.family),
            start=f"{line.points[0][1]:.3g}",
            top=f"{line.top:.3g}",
            end=f"{line.end:.3g}",
        )
        for line in drawn
    ]
