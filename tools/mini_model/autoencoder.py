"""Train the AutoencoderKL: 64 px pictures to 16 x 16 x 4 latents and back."""

import logging
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel
from torch import Tensor

from mini_model import pictures

logger = logging.getLogger(__name__)

KL_WEIGHT = 2e-4
"""Weight of the KL term per latent value, against L1 per pixel value: keeps latents in bounds, costs no sharpness."""


def make_autoencoder() -> AutoencoderKL:
    """1.7 M parameters. 8 groups: a group of one channel (32 of 32) would normalise the picture's colour away."""
    return AutoencoderKL(
        block_out_channels=(32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=pictures.SIZE,
    )


def sample_pictures(rgba_N4HW: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """A batch in [-1, 1]: every hue, many backgrounds, any place and size."""
    batch = rgba_N4HW[torch.randint(len(rgba_N4HW), (count,), generator=rng)]
    batch = pictures.random_affine(batch, rng, scale=(0.6, 1.5), shift=0.1, turn=0.3)
    angle = torch.rand(count, generator=rng) * 2 * math.pi
    keep = torch.rand(count, generator=rng) < 0.5
    batch = pictures.turn_hue(batch, torch.where(keep, torch.zeros(()), angle))
    return pictures.compose(batch, pictures.random_background(count, rng, white=0.4))


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1, plus L1 of the gradients (edges) and the squared error of 4 x 4 means (colour of areas).

    Chroma counts double in the means: L1 alone leaves one colour axis unlearnt for a thousand steps.
    """
    difference = output - target
    edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    areas = F.avg_pool2d(difference, 4)
    chroma = areas - areas.mean(1, keepdim=True)
    return difference.abs().mean() + 0.5 * edges + 2 * areas.square().mean() + 4 * chroma.square().mean()


def cosine_rate(progress: float, peak: float, warmup: float = 0.02) -> float:
    """Learning rate at `progress` in [0, 1]: a short warmup, then half a cosine down to 2% of the peak."""
    if progress < warmup:
        return peak * progress / warmup
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def load_for_decoder(checkpoint: Path) -> AutoencoderKL:
    """The averaged weights of a checkpoint with the encoder frozen: latents stay what they are."""
    model = load(checkpoint).requires_grad_(True)
    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)
    return model


def train(
    model: AutoencoderKL,
    rgba_N4HW: Tensor,
    checkpoint: Path,
    *,
    steps: int,
    batch_size: int = 8,
    peak_rate: float = 2e-3,
) -> None:
    """Train up to `steps`, resuming from `checkpoint` and saving there every 200 steps.

    Small batches: many steps of 8 pictures got further in the same time than few of 24.
    """
    model = model.train().to(memory_format=torch.channels_last)
    ema = EMAModel(model.parameters(), decay=0.995)
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=peak_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    clock = time.monotonic()
    for step in range(start, steps):
        rng = torch.Generator().manual_seed(step)
        torch.manual_seed(step)
        optimizer.param_groups[0]["lr"] = cosine_rate(step / steps, peak_rate)
        batch = sample_pictures(rgba_N4HW, batch_size, rng).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(batch).latent_dist
            output = model.decode(posterior.sample()).sample
        loss = reconstruction_loss(output.float(), batch)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        (loss + KL_WEIGHT * kl).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.step(model.parameters())
        if (step + 1) % 100 == 0:
            speed = (time.monotonic() - clock) / (step + 1 - start)
            logger.info("autoencoder %d/%d loss %.4f kl %.2f %.2f s/step", step + 1, steps, loss, kl, speed)
        if (step + 1) % 200 == 0 or step + 1 == steps:
            save(checkpoint, model, ema, optimizer, step + 1)


def save(checkpoint: Path, model: torch.nn.Module, ema: EMAModel, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write the training state to a temporary name, then rename it."""
    state = {
        "model": model.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
    }
    temporary = checkpoint.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(checkpoint)


def load(checkpoint: Path) -> AutoencoderKL:
    """The averaged weights of a checkpoint, ready to encode and decode."""
    model = make_autoencoder()
    state = torch.load(checkpoint, weights_only=True)
    ema = EMAModel(model.parameters())
    ema.load_state_dict(state["ema"])
    ema.copy_to(model.parameters())
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
