"""LoRA files that become part of the model before training starts, as the settings name them."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from lora_core.errors import UserError
from lora_core.settings.base import clean_path

_ENTRY = re.compile(r"\s*[\"']?(.+?\.safetensors)[\"']?\s*(?::\s*([^\s,;]+))?\s*(?:[,;\n]|\Z)", re.IGNORECASE)


@dataclass(frozen=True)
class BaseWeights:
    """One file and its strength."""

    path: Path
    multiplier: float = 1.0


def parse(text: str) -> list[BaseWeights]:
    """ "style.safetensors:0.8, C:\\lora\\light.safetensors" or one a line; without a number the strength is 1.

    Raises UserError for what is neither.
    """
    found, position = [], 0
    while text[position:].strip(" ,;\n\t"):
        entry = _ENTRY.match(text, position)
        if entry is None or "\n" in entry[1].strip():
            raise UserError("base_weights.not_readable", text=text[position:].strip()[:80])
        found.append(BaseWeights(Path(str(clean_path(entry[1].strip()))), _strength(entry[2], entry[0])))
        position = entry.end()
    return found


def written(weights: list[BaseWeights]) -> str:
    """The same as text, one a line."""
    return "\n".join(f"{one.path}:{one.multiplier:g}" if one.multiplier != 1 else str(one.path) for one in weights)


def _strength(word: str | None, entry: str) -> float:
    try:
        number = float(word or 1.0)
    except ValueError:
        number = math.nan
    if not abs(number) <= 100:
        raise UserError("base_weights.not_readable", text=entry.strip()[:80])
    return number
