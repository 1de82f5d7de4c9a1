"""What the numbers of a proof mean, in words. Torch-free, and a function of the event alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lora_core.events import ProofDone
from lora_core.i18n import Language, text

HARDLY = 5e-3
"""Predictions that move by less hardly show: on the built-in model 0.3% makes 1.5 of 255 in the picture, where a
training of 150 steps moves them by 7% and the picture by 33. Rounding in half precision is about 0.1%."""
TOO_FAR = 1.0
"""Predictions that move by more than they are long have little left of the model's."""
MOSTLY = 0.5
"""Share of modules of zeros worth a warning. The last layers of text encoders are often zero and never used."""

Severity = Literal["bad", "caution", "good", "note"]
ORDER: Sequence[Severity] = ("bad", "caution", "good", "note")


@dataclass(frozen=True)
class Remark:
    """One sentence about a LoRA. "bad" is a red flag."""

    severity: Severity
    key: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def words(self, language: Language) -> str:
        return text(f"proof.{self.key}", language, **self.values)


def remarks(done: ProofDone) -> list[Remark]:
    """All there is to say, the gravest first; never empty."""
    found = [*_about_the_file(done), *_about_the_change(done)]
    return sorted(found, key=lambda remark: ORDER.index(remark.severity))


def severity(done: ProofDone) -> Severity:
    return remarks(done)[0].severity


def _about_the_file(done: ProofDone) -> Iterator[Remark]:
    placed = done.modules - done.lost
    if done.broken:
        names = {"count": done.broken, "modules": done.modules, "names": _listed(done.broken_names, done.broken)}
        yield Remark("bad", "broken", names)
    if done.lost:
        names = {"lost": done.lost, "modules": done.modules, "names": _listed(done.lost_names, done.lost)}
        yield Remark("bad", "partly" if placed else "no_place", names)
    if not done.modules or (placed and done.zero == placed):
        yield Remark("bad", "zero")
    elif done.zero > MOSTLY * placed:
        yield Remark("caution", "mostly_zero", {"zero": done.zero, "placed": placed})


def _about_the_change(done: ProofDone) -> Iterator[Remark]:
    if done.own is None or done.pixels is None:
        return
    moved = {"own": percent(done.own), "pixels": f"{done.pixels:.3g}", "strength": f"{done.strength:g}"}
    if not (math.isfinite(done.own) and math.isfinite(done.pixels)):
        yield Remark("bad", "not_finite", moved)
    elif done.own == 0 and done.pixels == 0:
        yield Remark("bad", "no_change", moved)
    elif done.own < HARDLY:
        yield Remark("caution", "hardly", moved)
    elif done.own > TOO_FAR:
        yield Remark("caution", "too_far", moved)
    else:
        yield Remark("good", "works", moved)
    if done.unrelated is not None and HARDLY <= done.own < done.unrelated:
        yield Remark("note", "everywhere", {"unrelated": percent(done.unrelated), "own": percent(done.own)})


def numbers(done: ProofDone, language: Language) -> list[tuple[str, str]]:
    """(label, value) of what was measured."""
    placed = done.modules - done.lost
    found = [("modules", f"{placed} / {done.modules}"), ("zero_modules", str(done.zero) if done.zero else None)]
    found += [("pixels", _of_255(done.pixels)), ("latents", None if done.latents is None else f"{done.latents:.3g}")]
    found += [(key, percent(value)) for key, value in _moved(done).items()]
    return [(text(f"proof.number.{key}", language), value) for key, value in found if value is not None]


def _moved(done: ProofDone) -> dict[str, float]:
    values = {"own": done.own, "class_prompt": done.class_prompt, "unrelated": done.unrelated}
    return {key: value for key, value in values.items() if value is not None}


def lines(done: ProofDone, language: Language) -> list[str]:
    """Verdict and numbers for the terminal."""
    marks = {"bad": "✗", "caution": "!", "good": "✓", "note": "·"}
    said = [f"{marks[remark.severity]} {remark.words(language)}" for remark in remarks(done)]
    return [
        *said,
        *(text("proof.line", language, label=label, value=value) for label, value in numbers(done, language)),
    ]


def percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _of_255(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g} / 255"


def _listed(names: list[str], count: int) -> str:
    return ", ".join(names) + (" ..." if count > len(names) else "")
