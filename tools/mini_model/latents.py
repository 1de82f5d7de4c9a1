"""Encode augmented pictures once, so that the denoiser's loop needs no autoencoder."""

import logging
import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from mini_model import captions, pictures

logger = logging.getLogger(__name__)

BACKGROUND_SHARE = 0.25
RECOLOUR_SHARE = 0.10
CORE_FACTOR = 6
"""How much more often than the others the core pictures are shown."""


def mean_colour(image_4HW: Tensor) -> list[float]:
    """Mean colour of a premultiplied picture, vivid pixels counting more."""
    rgb, alpha = image_4HW[:3], image_4HW[3]
    weight = alpha * (rgb.amax(0) - rgb.amin(0))
    return ((rgb * weight).sum((1, 2)) / weight.sum().clamp(min=1e-6)).tolist()


def recolour(images_BCHW: Tensor, rng: torch.Generator) -> tuple[Tensor, list[str | None]]:
    """Turn the hue of some pictures; the words for the new colours, None where the colours stayed."""
    count = len(images_BCHW)
    angle = torch.rand(count, generator=rng) * 240 + 60  # degrees, far enough to be another colour
    chosen = torch.rand(count, generator=rng) < RECOLOUR_SHARE
    colours = [mean_colour(image) for image in images_BCHW]
    vivid = torch.tensor([max(colour) - min(colour) > 0.25 for colour in colours])
    angle = torch.where(chosen & vivid, angle, torch.zeros(()))
    turned = pictures.turn_hue(images_BCHW, angle * math.pi / 180)
    words = [
        captions.hue_word(captions.hue_of(mean_colour(image))) if degrees else None
        for image, degrees in zip(turned, angle.tolist(), strict=True)
    ]
    return turned, words


def backgrounds(count: int, rng: torch.Generator) -> tuple[Tensor, list[str | None]]:
    """White, or for a share of the pictures one of the named colours, slightly varied."""
    names = list(captions.BACKGROUNDS)
    picks = torch.randint(len(names), (count,), generator=rng).tolist()
    coloured = (torch.rand(count, generator=rng) < BACKGROUND_SHARE).tolist()
    words = [names[pick] if flag else None for pick, flag in zip(picks, coloured, strict=True)]
    colours = torch.tensor([captions.BACKGROUNDS[word] if word else (1.0, 1.0, 1.0) for word in words])
    jitter = 0.03 * torch.randn(count, 3, generator=rng) * torch.tensor(coloured)[:, None]
    return (colours + jitter).clamp(0, 1)[:, :, None, None], words


@torch.no_grad()
def encode_all(vae: AutoencoderKL, rgba_N4HW: Tensor, names: list[str], *, variants: int, batch_size: int = 48) -> dict:
    """Latents of `variants` augmented forms of each picture, six times as many of the core ones, and their words.

    Returns latents (N, 4, 16, 16) float16 unscaled, `names`, `colours`, `backgrounds` (lists of N), and their std.
    """
    rng = torch.Generator().manual_seed(0)
    repeats = torch.tensor([variants * (CORE_FACTOR if name in captions.CORE else 1) for name in names])
    order = torch.repeat_interleave(torch.arange(len(names)), repeats)
    result: dict = {"latents": [], "names": [], "colours": [], "backgrounds": []}
    for chunk in order.split(batch_size):
        images, colours = recolour(rgba_N4HW[chunk], rng)
        images = pictures.random_affine(images, rng, scale=(0.75, 1.02), shift=0.05)
        background, words = backgrounds(len(chunk), rng)
        batch = pictures.compose(images, background).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.encode(batch).latent_dist.mean
        result["latents"].append(latents.half().contiguous())
        result["names"] += [names[index] for index in chunk]
        result["colours"] += colours
        result["backgrounds"] += words
    result["latents"] = torch.cat(result["latents"])
    result["std"] = result["latents"].float().std().item()
    return result


def prepare(work: Path, vae: AutoencoderKL, *, variants: int) -> dict:
    """The encoded pictures, read from the work folder or made and kept there."""
    cache = work / "latents.pt"
    if not cache.exists():
        emoji = [e for e in pictures.list_emoji(work) if e.name in captions.ALL]
        missing = set(captions.ALL) - {e.name for e in emoji}
        if missing:
            raise SystemExit(f"captions.py names pictures that do not exist: {sorted(missing)}")
        encoded = encode_all(
            vae, pictures.load_rgba([e.file for e in emoji]), [e.name for e in emoji], variants=variants
        )
        torch.save(encoded, cache)
    encoded = torch.load(cache, weights_only=True)
    logger.info("%d latents of %d pictures, std %.3f", len(encoded["latents"]), len(captions.ALL), encoded["std"])
    return encoded
