"""What the real models and the LoRAs of others contain: names and shapes, as found in published files.

``model_facts.json.gz`` was written from the files themselves and from sd-scripts, not by this program.
"""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

from tests.models import PROJECT, sd15_shapes

Shapes = dict[str, tuple[int, ...]]
FAMILIES = ("sd1", "sd2", "sdxl", "flux")
_SD15_MODULES = PROJECT / "tests" / "families" / "sd15_lora_modules.json.gz"


@cache
def _read(path: Path) -> Any:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return json.load(file)


def _shapes(rows: dict[str, list[int]]) -> Shapes:
    return {name: tuple(shape) for name, shape in rows.items()}


def checkpoint(family: str) -> Shapes:
    """Every key of a checkpoint in one file (FLUX: of the transformer), without the VAE, and its shape."""
    if family == "sd1":
        return {key: shape for key, shape in sd15_shapes().items() if not key.startswith("first_stage_model.")}
    return _shapes(_read(Path(__file__).parent / "model_facts.json.gz")["checkpoints"][family])


def lora_targets(family: str) -> Shapes:
    """Every layer that sd-scripts trains by default, and the shape of its weight."""
    if family == "sd1":
        return {name: tuple(shape) for part in _read(_SD15_MODULES).values() for name, shape in part.items()}
    return _shapes(_read(Path(__file__).parent / "model_facts.json.gz")["lora_targets"][family])
