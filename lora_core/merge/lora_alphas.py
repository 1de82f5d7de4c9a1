"""Alpha where diffusers and PEFT keep it: not beside each layer but in the metadata, or in a file beside the LoRA."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

_METADATA = "lora_adapter_metadata"
"""diffusers 0.34 and newer: JSON with "unet.lora_alpha", "unet.alpha_pattern", "text_encoder.r" and so on."""
_PEFT_FILE, _PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"


class Alphas:
    """Alpha of each layer of a file in which no tensor says it."""

    def __init__(self, path: Path, metadata: Mapping[str, str]):
        self._config = _object(metadata.get(_METADATA, ""))
        if not self._config and path.name == _PEFT_FILE:
            self._config = _object(_read(path.with_name(_PEFT_CONFIG)))

    def of(self, spelled: str, rank: int) -> float | None:
        """Alpha of a layer by its name in the file; None where nothing is said, which means alpha = rank.

        With rank-stabilised LoRA (Kalajdzievski 2023) the scale is alpha / sqrt(rank): alpha sqrt(rank) plays the same.
        """
        part, _, inside = spelled.partition(".")
        own = part + "." if f"{part}.lora_alpha" in self._config else ""
        alpha = _number(self._pattern(f"{own}alpha_pattern", inside)) or _number(self._config.get(f"{own}lora_alpha"))
        if alpha is None:
            return None
        return alpha * math.sqrt(rank) if self._config.get(f"{own}use_rslora") is True else alpha

    def _pattern(self, key: str, layer: str) -> object:
        """What a pattern says of a layer: PEFT's rule that the end of the name decides, without regular expressions."""
        patterns = self._config.get(key)
        if not isinstance(patterns, dict):
            return None
        return next((value for end, value in patterns.items() if layer == end or layer.endswith("." + end)), None)


def _object(text: str) -> dict[str, object]:
    """A JSON object; empty for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
