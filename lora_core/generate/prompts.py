"""Sample prompts: one picture a line, with options behind the text. Torch-free.

``a bear in the snow --n blurry --w 512 --h 768 --d 1 --l 7.5 --s 28`` as Kohya's users write it. An option is a word
that begins with two hyphens, after a space; what stands before the first one is the prompt, whatever it looks like.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lora_core.errors import UserError

SAMPLER_NAMES: dict[str, str] = {
    "euler_a": "Euler a",
    "euler": "Euler",
    "ddim": "DDIM",
    "dpmpp_2m_karras": "DPM++ 2M Karras",
    "unipc": "UniPC",
}
"""Samplers by the name in settings, with the name AUTOMATIC1111 shows and writes into pictures."""

SAMPLER_ALIASES = {"k_euler_a": "euler_a", "k_euler": "euler", "dpmsolver++": "dpmpp_2m_karras"}
"""Other names in use, from Kohya's sampler list."""


@dataclass(frozen=True)
class SamplePrompt:
    """One picture to draw. What is None comes from the sample settings, sizes from the model."""

    text: str
    negative: str = ""
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    guidance: float | None = None
    steps: int | None = None
    sampler: str | None = None
    line: int = 1
    """Where it stands in the text, counted from 1."""


@dataclass(frozen=True)
class _Number:
    kind: type[int] | type[float]
    least: float
    most: float

    def read(self, value: str, option: str, line: int) -> float:
        try:
            number = self.kind(value)
        except ValueError:
            number = None
        if number is None or not self.least <= number <= self.most:
            wanted = f"{self.least:g} – {self.most:g}" if self.most < 2**31 else f"{self.least:g} – {int(self.most)}"
            raise UserError("prompt.not_a_number", line=line, option=option, value=value, wanted=wanted)
        return number


_NUMBERS = {
    "w": ("width", _Number(int, 32, 8192)),
    "h": ("height", _Number(int, 32, 8192)),
    "d": ("seed", _Number(int, 0, 2**32 - 1)),
    "s": ("steps", _Number(int, 1, 1000)),
    "l": ("guidance", _Number(float, 0, 100)),
}
_OPTION = re.compile(r"(?:^|(?<=\s))--([A-Za-z]\w*)(?=\s|$)")


def parse(text: str) -> list[SamplePrompt]:
    """The prompts of a text, without empty lines and those that begin with #. Raises UserError naming the line."""
    lines = enumerate(text.splitlines(), start=1)
    return [_parse_line(line.strip(), n) for n, line in lines if line.strip() and not line.lstrip().startswith("#")]


def floor_to(size: int, multiple: int) -> int:
    """The largest multiple that fits into ``size``; never less than one."""
    return max(multiple, size // multiple * multiple)


def _parse_line(text: str, line: int) -> SamplePrompt:
    first = _OPTION.search(text)
    prompt = text[: first.start()] if first else text
    values: dict[str, Any] = {}
    for option, value in _options(text[len(prompt) :]):
        name, number = _field(option, value, line)
        if name in values:
            raise UserError("prompt.twice", line=line, option=option)
        values[name] = number
    return SamplePrompt(text=prompt.strip(), line=line, **values)


def _options(text: str) -> Iterator[tuple[str, str]]:
    """("w", "512") for every ``--w 512``."""
    parts = _OPTION.split(text)[1:]
    yield from zip(parts[::2], (value.strip() for value in parts[1::2]), strict=True)


def _field(option: str, value: str, line: int) -> tuple[str, Any]:
    """Field of SamplePrompt and its value."""
    known = option.lower()
    if known not in {*_NUMBERS, "n", "ss"}:
        raise UserError("prompt.unknown_option", line=line, option=option)
    if not value and known != "n":
        raise UserError("prompt.no_value", line=line, option=option)
    if known == "n":
        return "negative", value
    if known == "ss":
        return "sampler", _sampler(value, line)
    name, number = _NUMBERS[known]
    return name, number.read(value, option, line)


def _sampler(value: str, line: int) -> str:
    """Accepts the name in settings, the name on the screen, and Kohya's."""
    wanted = value.lower()
    by_title = {title.lower(): name for name, title in SAMPLER_NAMES.items()}
    name = by_title.get(wanted) or SAMPLER_ALIASES.get(wanted) or wanted.replace("-", "_")
    if name not in SAMPLER_NAMES:
        raise UserError("prompt.unknown_sampler", line=line, value=value, known=", ".join(SAMPLER_NAMES))
    return name
