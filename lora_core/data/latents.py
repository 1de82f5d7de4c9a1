"""Latents worked out once: in memory, or on disk for the next run too. What they depend on is their key, so they
cannot be stale.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lora_core.data.buckets import Placement
from lora_core.data.content import ahead, content_hash
from lora_core.data.kept import read_kept, write_kept
from lora_core.data.pixels import load_pixels
from lora_core.data.samples import Sample
from lora_core.errors import UserError

FORMAT = 1
"""Part of every key: raise it when the way from file to latent changes."""
CACHE_FOLDER = ".kumakobo"


class Encode(Protocol):
    """Posterior mean and standard deviation, both (B, C, h, w), of pixels (B, 3, H, W) in [-1, 1]."""

    def __call__(self, pixels_BCHW: Tensor, /) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Latent:
    """The VAE's answer for one image: float32 on the CPU, (C, h, w), not scaled."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class Entry:
    """One picture as the VAE gets it."""

    path: Path
    placement: Placement
    flipped: bool = False


class Store(Protocol):
    """Where latents are kept. ``read`` gives None for what is not there or not whole."""

    def read(self, entry: Entry, key: str) -> Latent | None: ...

    def write(self, entry: Entry, key: str, latent: Latent) -> None: ...


class MemoryStore:
    """Keeps latents for as long as the run lasts: about 130 KB for an image of 512 x 512."""

    def __init__(self) -> None:
        self._latents: dict[str, Latent] = {}

    def read(self, entry: Entry, key: str) -> Latent | None:
        return self._latents.get(key)

    def write(self, entry: Entry, key: str, latent: Latent) -> None:
        self._latents[key] = latent


class DiskStore:
    """One file per latent in ``folder``, or in a folder ``.kumakobo`` beside each image (data/kept.py)."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder

    def path(self, entry: Entry, key: str) -> Path:
        return (self.folder or entry.path.parent / CACHE_FOLDER) / f"{key}.latent"

    def read(self, entry: Entry, key: str) -> Latent | None:
        tensors = read_kept(self.path(entry, key)) or {}
        return Latent(tensors["mean"], tensors["std"]) if {"mean", "std"} <= tensors.keys() else None

    def write(self, entry: Entry, key: str, latent: Latent) -> None:
        """Whole or not at all. Raises UserError if the folder cannot be written."""
        write_kept(self.path(entry, key), {"mean": latent.mean, "std": latent.std}, "data.cache_unwritable")


class LatentCache:
    """The latents of a run's images, encoded when first needed.

    ``vae_identity`` names the VAE's weights (a hash), ``precision`` the number format it computes in.
    The VAE gets one image at a time unless told otherwise: in a batch the last bits of a latent depend on its
    neighbours, and so on what was cached before.
    """

    def __init__(
        self, encode: Encode, vae_identity: str, store: Store, *, precision: str = "fp32", vae_batch_size: int = 1
    ):
        self.encode = encode
        self.vae_identity = vae_identity
        self.store = store
        self.precision = precision
        self.vae_batch_size = vae_batch_size
        # Worked out once: a file changed while the run goes on must not change the run.
        self.key = cache(self._key)
        self._content_hash = cache(content_hash)

    def _key(self, entry: Entry) -> str:
        """SHA-256 over all that the latent depends on."""
        place = entry.placement
        facts = [FORMAT, self._content_hash(entry.path), place.bucket, place.resized, place.crop, entry.flipped]
        return hashlib.sha256(json.dumps([*facts, self.vae_identity, self.precision]).encode()).hexdigest()

    def get(self, entry: Entry) -> Latent:
        """The latent of one picture, made now if it is not there."""
        key = self.key(entry)
        return self.store.read(entry, key) or self._encode([entry], [load_pixels_of(entry)])[0]

    def filling(self, samples: Sequence[Sample]) -> Iterator[tuple[int, int]]:
        """Make what is missing, yielding (done, total) pictures, mirrored ones too where they will be shown.

        Raises UserError for an image that cannot be read, a cache that cannot be written, a VAE that fails.
        """
        entries = entries_of(samples)
        found = ahead(lambda entry: self.store.read(entry, self.key(entry)) is not None, entries)
        missing = [entry for entry, there in zip(entries, found, strict=True) if not there]
        done = len(entries) - len(missing)
        yield done, len(entries)
        batch: list[tuple[Entry, Tensor]] = []
        for index, pixels in enumerate(ahead(load_pixels_of, missing)):
            batch.append((missing[index], pixels))
            following = missing[index + 1 : index + 2]
            if len(batch) == self.vae_batch_size or not following or not _same_size(following[0], missing[index]):
                self._encode([entry for entry, _ in batch], [pixels for _, pixels in batch])
                done += len(batch)
                batch = []
                yield done, len(entries)

    def fill(self, samples: Sequence[Sample], *, progress: Callable[[int, int], None] | None = None) -> None:
        """``filling`` to the end, for those who would rather be called."""
        for done, total in self.filling(samples):
            if progress:
                progress(done, total)

    def _encode(self, entries: Sequence[Entry], pixels: Sequence[Tensor]) -> list[Latent]:
        with torch.no_grad():
            means, stds = self.encode(torch.stack(list(pixels)))
        latents = []
        for entry, mean, std in zip(entries, _kept(means), _kept(stds), strict=True):
            if not (mean.isfinite().all() and std.isfinite().all()):
                raise UserError("data.latent_not_finite", path=entry.path)
            latents.append(Latent(mean.clone(), std.clone()))
            self.store.write(entry, self.key(entry), latents[-1])
        return latents


def entries_of(samples: Sequence[Sample]) -> list[Entry]:
    """Each picture once, by bucket, so that those of one size follow each other, with its mirror image if shown."""
    entries: dict[Entry, None] = {}
    for sample in samples:
        for flipped in (False, True) if sample.subset.options.flip_aug else (False,):
            entries[Entry(sample.image.path, sample.placement, flipped)] = None
    return sorted(entries, key=lambda entry: entry.placement.bucket)


def load_pixels_of(entry: Entry) -> Tensor:
    return load_pixels(entry.path, entry.placement, flipped=entry.flipped)


def _kept(latents_BCHW: Tensor) -> Tensor:
    return latents_BCHW.detach().to("cpu", torch.float32)


def _same_size(a: Entry, b: Entry) -> bool:
    return a.placement.bucket == b.placement.bucket
