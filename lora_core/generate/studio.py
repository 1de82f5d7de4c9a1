"""A model that stays in memory from picture to picture, while LoRAs come and go."""

import dataclasses
import hashlib
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from lora_core.families import FAMILIES
from lora_core.generate.draw import draw
from lora_core.generate.loras import LoraSwap
from lora_core.generate.picture import Picture
from lora_core.generate.prompts import SamplePrompt
from lora_core.generate.request import Shot
from lora_core.generate.tags import Worn
from lora_core.settings import AnyModel, SampleSettings, TrainSettings
from lora_core.train.device import choose_device

HASH_DIGITS = 12
"""Of AUTOMATIC1111's "Lora hashes"."""


class Studio:
    """Draws shots. Left with ``with``, the model is the base again."""

    def __init__(self, model: AnyModel, device: torch.device | None = None, dtype: torch.dtype | None = None):
        self.model, self.family = model, FAMILIES[model.family]
        self.device = device or choose_device(TrainSettings())
        self.dtype = dtype or drawing_dtype(model, self.device)
        self.components = self.family.load(model, dtype=self.dtype, device=self.device)
        self.swap = LoraSwap(self.family, self.components)
        self.stops: Callable[[], bool] = lambda: False
        """Asked after every step of a picture."""

    def __enter__(self) -> "Studio":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.rest()

    def rest(self) -> None:
        """The model is the base again, to the last bit, and what was read for one job is forgotten."""
        self.swap.reset()

    def goes_on(self, done: int, total: int) -> bool:
        """What a picture is asked for after ``done`` of its steps."""
        return not self.stops()

    def draw(self, shot: Shot, on_latents: Callable[[Tensor], object] | None = None) -> Picture:
        """A picture with its LoRAs; what it says of itself has the tags and the hashes.

        Raises UserError, and Stopped in the middle of it.
        """
        self.swap.wear(shot.loras)
        request = SamplePrompt(
            shot.text,
            negative=shot.negative,
            width=shot.width,
            height=shot.height,
            seed=shot.seed,
            guidance=shot.guidance,
            steps=shot.steps,
            sampler=shot.sampler,
        )
        picture = draw(
            self.family,
            self.components,
            request,
            SampleSettings(),
            self.model,
            on_step=self.goes_on,
            on_latents=on_latents,
        )
        return dataclasses.replace(picture, prompt=shot.prompt, details=picture.details | lora_hashes(shot.loras))


def drawing_dtype(model: AnyModel, device: torch.device) -> torch.dtype:
    """Half precision on graphics cards; FLUX.1's numbers are too large for fp16."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if model.family == "flux" else torch.float16


def arithmetic(model: AnyModel, device: torch.device | None = None) -> str:
    """Where and in which number format a model is computed: pictures of two of these differ in their last bits."""
    device = device or choose_device(TrainSettings())
    return f"{device.type} {drawing_dtype(model, device)}"


def lora_hashes(loras: Sequence[Worn]) -> dict[str, str]:
    """AUTOMATIC1111's entry that tells LoRAs of one name apart; nothing without LoRAs."""
    pairs = {lora.path.stem: weights_hash(lora.path)[:HASH_DIGITS] for lora in loras}
    return {"Lora hashes": ", ".join(f"{name}: {digits}" for name, digits in pairs.items())} if pairs else {}


def weights_hash(path: Path) -> str:
    """sha256 of a safetensors file without its header, so that editing its metadata changes nothing."""
    with path.open("rb") as file:
        (header,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + header)
        return hashlib.file_digest(file, "sha256").hexdigest()
