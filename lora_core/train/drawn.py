"""Training data that the model draws itself: a few pictures from a prompt, kept as latents.

They are a function of the model, the settings and the seed, so a resumed run draws the same ones again.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lora_core.data.dataset import Batch
from lora_core.data.epoch import rng_for
from lora_core.events import EventBase, StageChanged
from lora_core.families.base import Components, ModelFamily
from lora_core.families.encoded import EncodedTexts
from lora_core.generate.draw import drawn_latents
from lora_core.generate.prompts import SamplePrompt
from lora_core.settings import RunSettings, sides
from lora_core.train.randomness import derive


class DrawnData:
    """Stands where TrainingData does: batch n of epoch e, always the same for the same seed."""

    def __init__(self, prompts: Sequence[str], batch_size: int):
        self.prompts = list(prompts)
        self.batch_size = batch_size
        self.latents_NCHW: Tensor | None = None
        """As the VAE would give them, unscaled float32; there once ``drawing`` has ended."""

    def stream(self, epoch: int, first: int, seed: int) -> Iterator[Batch]:
        """The batches of an epoch from ``first`` on."""
        order = list(range(len(self.prompts)))
        rng_for("order", seed, epoch).shuffle(order)
        for start in range(first * self.batch_size, len(order), self.batch_size):
            yield self._batch(order[start : start + self.batch_size])

    def captions_shown(self, epochs: int, seed: int, most: int) -> set[str]:
        return set(self.prompts)

    def _batch(self, rows: list[int]) -> Batch:
        assert self.latents_NCHW is not None, "drawn before the first step"
        mean_BCHW = self.latents_NCHW[rows]
        captions = [self.prompts[row] for row in rows]
        return Batch(captions, torch.ones(len(rows)), [], mean_BCHW, torch.zeros_like(mean_BCHW))


def drawing(
    data: DrawnData,
    settings: RunSettings,
    family: ModelFamily,
    components: Components,
    texts: EncodedTexts | None,
    seed: int,
) -> Iterator[EventBase]:
    """Draw the pictures as samples are drawn (sampler, steps, guidance), in the training resolution.

    Before adapters are attached: they are the source model's.
    """
    width, height = sides(settings.dataset.resolution)
    found: list[Tensor] = []
    for number, prompt in enumerate(data.prompts):
        yield StageChanged(stage="drawing", done=number, total=len(data.prompts))
        own = SamplePrompt(prompt, width=width, height=height, seed=derive(seed, "drawn", number) % 2**32)
        latents = drawn_latents(family, components, own, settings.sample, settings.model, encode=texts)
        found.append(family.unscale_latents(components, latents).float().cpu())
    data.latents_NCHW = torch.cat(found)
