"""Masks as the loss reads them: cut like their picture, averaged down to the cells of its latent."""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lora_core.data.buckets import Placement
from lora_core.data.content import content_hash
from lora_core.data.mask_files import MaskFiles
from lora_core.data.resize import place


class Masks:
    """Masks (1, h, w) float32 in [0, 1] of the pictures of a run, each worked out once: 16 KB for 512 x 512."""

    def __init__(self, files: MaskFiles, cell: int):
        """``cell``: pixels per side of a latent, 8 for Stable Diffusion."""
        self.files = files
        self.cell = cell
        self._centred = cache(lambda image, placement: self._make(image, placement, None))

    def get(self, image: Path, placement: Placement, *, flipped: bool, crop: tuple[int, int] | None = None) -> Tensor:
        """The mask of a picture as it is shown this time; ones for a picture without a mask.

        ``crop`` (left, top) replaces the placement's centre. Raises UserError for a file that cannot be read.
        """
        # Averages over whole cells, so that mirroring afterwards is the same as before.
        mask_1HW = self._centred(image, placement) if crop is None else self._make(image, placement, crop)
        return mask_1HW.flip(2) if flipped else mask_1HW

    def fingerprint(self, images: list[Path]) -> str:
        """Says whether two runs have the same masks: their kind and the content of the files."""
        digest = hashlib.sha256(self.files.source.encode())
        for image in images:
            file = self.files.file(image)
            digest.update((content_hash(file) if file else "-").encode())
        return digest.hexdigest()

    def _make(self, image: Path, placement: Placement, crop: tuple[int, int] | None) -> Tensor:
        mask, (width, height) = self.files.open(image), placement.bucket
        if mask is None:
            return torch.ones(1, height // self.cell, width // self.cell)
        # Resizing knows colour pictures only.
        shown = np.asarray(place(Image.merge("RGB", [mask] * 3), placement, crop))[:, :, 0]
        cells = shown[: height // self.cell * self.cell, : width // self.cell * self.cell]
        cells = cells.reshape(height // self.cell, self.cell, width // self.cell, self.cell)
        return torch.from_numpy(cells.mean(axis=(1, 3), dtype=np.float32) / np.float32(255))[None]
