"""What the loop asks for: batch n of epoch e, always the same for the same seed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from lora_core.data.captions import caption_for
from lora_core.data.content import ahead
from lora_core.data.epoch import batches_per_epoch, epoch_batches, rng_for
from lora_core.data.frames import Frame, frame_of
from lora_core.data.latents import DiskStore, Encode, Entry, LatentCache, MemoryStore
from lora_core.data.masks import Masks
from lora_core.data.pixels import load_pixels
from lora_core.data.samples import Sample
from lora_core.settings import DatasetSettings


@dataclass(frozen=True)
class Batch:
    """One batch on the CPU: latents if they are cached, else pixels."""

    captions: list[str]
    loss_weights_B: Tensor
    paths: list[Path]
    mean_BCHW: Tensor | None = None
    std_BCHW: Tensor | None = None
    """Posterior of the VAE, float32, unscaled: the loop draws from it anew each time."""
    pixels_BCHW: Tensor | None = None
    """float32 in [-1, 1]."""
    masks_B1HW: Tensor | None = None
    """What counts in the loss, float32 in [0, 1] for each cell of the latents; None: all of it."""
    frames_B6: Tensor | None = None
    """Original height and width, crop's top and left, target height and width, in pixels: SDXL is told them."""

    def __len__(self) -> int:
        return len(self.captions)


@dataclass(frozen=True)
class _Showing:
    """How a sample is shown this time."""

    sample: Sample
    caption: str
    flipped: bool
    crop: tuple[int, int] | None

    @property
    def frame(self) -> Frame:
        return frame_of(self.sample.placement, crop=self.crop, flipped=self.flipped)


class TrainingData:
    """The samples of a run, batch by batch. ``latents`` None: pixels are loaded for each batch.

    ``batch_size`` is for datasets that have none of their own; ``accumulation`` batches make a step, of which the run
    has ``total_steps``.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        batch_size: int,
        latents: LatentCache | None = None,
        masks: Masks | None = None,
        *,
        accumulation: int = 1,
        total_steps: int = 0,
        pixel_rows: Callable[[int], slice] = slice,
    ):
        """``pixel_rows`` tells of a batch's length which rows' pixels to load, when others are somebody else's."""
        assert latents is None or not any(s.subset.options.random_crop for s in samples), "a cached latent has one crop"
        self.samples = samples
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.total_steps = total_steps
        self.latents = latents
        self.masks = masks
        self.pixel_rows = pixel_rows
        self.batches_per_epoch = batches_per_epoch(samples, batch_size)
        # The order of the epoch at hand, so that it is not shuffled again for each batch.
        self._order = lru_cache(maxsize=2)(lambda seed, epoch: epoch_batches(samples, batch_size, seed, epoch))

    def batch(self, epoch: int, index: int, seed: int) -> Batch:
        """Batch ``index`` (from 0) of an epoch (from 1): a pure function of its arguments, so any run can go on here.

        Raises UserError for an image that cannot be read.
        """
        positions = self._order(seed, epoch)[index]
        step = self._step_of(epoch, index)
        return self._collate([self._showing(position, epoch, seed, step) for position in positions])

    def stream(self, epoch: int, first: int, seed: int) -> Iterator[Batch]:
        """The batches of an epoch from ``first`` on, the next ones being prepared while this one is trained."""
        return ahead(lambda index: self.batch(epoch, index, seed), range(first, self.batches_per_epoch), workers=2)

    def _step_of(self, epoch: int, index: int) -> int:
        """The step, counted from 0, that a batch belongs to: steps do not reach over the end of an epoch."""
        return (epoch - 1) * -(-self.batches_per_epoch // self.accumulation) + index // self.accumulation

    def captions_shown(self, epochs: int, seed: int, most: int) -> set[str] | None:
        """Every caption that a run of so many epochs shows; None when there are more than ``most``.

        A caption is a function of its place in the run, so they are found by going through it.
        """
        shown: set[str] = set()
        for epoch in range(1, epochs + 1):
            for index, positions in enumerate(self._order(seed, epoch)):
                step = self._step_of(epoch, index)
                shown |= {self._showing(position, epoch, seed, step).caption for position in positions}
                if len(shown) > most:
                    return None
        return shown

    def _showing(self, position: int, epoch: int, seed: int, step: int = 0) -> _Showing:
        sample = self.samples[position]
        options = sample.subset.options
        rng = rng_for("sample", seed, epoch, position)
        # Always drawn, in this order: turning one option on leaves the others' draws as they were.
        flip, left, top = rng.random(), rng.random(), rng.random()
        caption = caption_for(sample.caption, options, rng, epoch, step=step, total_steps=self.total_steps)
        crop = _crop(sample, left, top) if options.random_crop else None
        return _Showing(sample, caption, options.flip_aug and flip < 0.5, crop)

    def _collate(self, showings: Sequence[_Showing]) -> Batch:
        return Batch(
            captions=[showing.caption for showing in showings],
            loss_weights_B=torch.tensor([showing.sample.loss_weight for showing in showings], dtype=torch.float32),
            paths=[showing.sample.image.path for showing in showings],
            masks_B1HW=None
            if self.masks is None
            else torch.stack([_mask(self.masks, showing) for showing in showings]),
            frames_B6=torch.tensor([showing.frame for showing in showings], dtype=torch.float32),
            **self._pictures(showings),
        )

    def _pictures(self, showings: Sequence[_Showing]) -> dict[str, Tensor]:
        if self.latents is None:
            own = showings[self.pixel_rows(len(showings))]
            return {"pixels_BCHW": torch.stack([_load(showing) for showing in own])}
        latents = [
            self.latents.get(Entry(showing.sample.image.path, showing.sample.placement, showing.flipped))
            for showing in showings
        ]
        return {
            "mean_BCHW": torch.stack([latent.mean for latent in latents]),
            "std_BCHW": torch.stack([latent.std for latent in latents]),
        }


def latent_cache(
    options: DatasetSettings, encode: Encode, vae_identity: str, *, precision: str = "fp32"
) -> LatentCache | None:
    """The cache the settings ask for; None if images are to be encoded at each step (as random crops have to be)."""
    if options.cache_latents == "off" or options.random_crop:
        return None
    store = DiskStore(options.cache_dir) if options.cache_latents == "disk" else MemoryStore()
    return LatentCache(encode, vae_identity, store, precision=precision)


def _mask(masks: Masks, showing: _Showing) -> Tensor:
    sample = showing.sample
    return masks.get(sample.image.path, sample.placement, flipped=showing.flipped, crop=showing.crop)


def _load(showing: _Showing) -> Tensor:
    sample = showing.sample
    return load_pixels(sample.image.path, sample.placement, flipped=showing.flipped, crop=showing.crop)


def _crop(sample: Sample, left: float, top: float) -> tuple[int, int]:
    """A place for the bucket inside the scaled picture, every one as likely; ``left``, ``top`` in [0, 1)."""
    place = sample.placement
    free_width, free_height = place.resized[0] - place.bucket[0], place.resized[1] - place.bucket[1]
    return int(left * (free_width + 1)), int(top * (free_height + 1))
