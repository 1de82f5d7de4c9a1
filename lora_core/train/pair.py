"""Training on the difference of two aligned pictures: the fast copier LoRA.

A is the picture as it is, B the same picture with one thing changed. Both get the same noise at the same time. The
LoRA is to turn what the model makes of A into what it makes of B, and with the strength -1 the other way round:

    on B, strength +1:   f(z_B; +1)  ->  f0(z_A) + y_B - y_A
    on A, strength -1:   f(z_A; -1)  ->  f0(z_B) + y_A - y_B

z = add_noise(x, epsilon, t), y = target(x, epsilon, t) of the noise process, f0 the source model alone. Written for the
picture x0 that an answer stands for, both lines say the same for noise prediction, velocity and flow:

    x0(f(z_B; +1)) = x0(f0(z_A)) + x_B - x_A

What the model does not know of the picture is in both its answers and drops out, so only the difference is learned,
in tens of steps; learning A and B by heart takes thousands. For noise prediction y_A = y_B, and the first line is the
one of ADDifT (hako-mikan, sd-webui-traintrain): one pass with the LoRA off on A, one with it on for B, then the other
way. The terms in y, which carry it over to velocity and flow, and the mask are ours.

Outside the changed area the LoRA is to change nothing: there the target is the source model's answer to the same
input, f0(z_B) or f0(z_A).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_core.adapters import AdapterNetwork
from lora_core.data.buckets import Placement
from lora_core.data.dataset import Batch
from lora_core.data.pixels import load_pixels
from lora_core.families.base import Components, Conditioning, ModelFamily
from lora_core.train.loss import masked_mean
from lora_core.train.loss_weights import prediction_of
from lora_core.train.noise import draw_noise, draw_timesteps
from lora_core.train.preservation import without_adapters

if TYPE_CHECKING:
    from lora_core.train.session import Session

CHANGED = 0.15
"""Share of the strongest change from which a place counts as changed."""


@dataclass(frozen=True)
class PairLatents:
    """Pairs of pictures for the model, on its device, float32, and where they differ."""

    before_BCHW: Tensor
    after_BCHW: Tensor
    mask_B1HW: Tensor
    """1 where the pictures differ, 0 where they are alike, smooth between."""

    @classmethod
    def of(cls, before_1CHW: Tensor, after_1CHW: Tensor) -> "PairLatents":
        return cls(before_1CHW, after_1CHW, changed_area(before_1CHW, after_1CHW))

    @classmethod
    def cat(cls, pairs: Sequence["PairLatents"]) -> "PairLatents":
        """Several of one size."""
        rows = ((pair.before_BCHW, pair.after_BCHW, pair.mask_B1HW) for pair in pairs)
        return cls(*(torch.cat(several) for several in zip(*rows, strict=True)))


Pairs = Mapping[Path, PairLatents]
"""Second picture, which is the one that an epoch shows -> the two of them."""


def changed_area(before_1CHW: Tensor, after_1CHW: Tensor) -> Tensor:
    """(1, 1, H, W) in [0, 1]: where the latents differ by more than ``CHANGED`` of the most, one cell wider and smooth.

    The length of the difference over the channels, averaged over 3 x 3 cells. All 1 where the two are equal.
    """
    length_11HW = (after_1CHW - before_1CHW).float().square().sum(1, keepdim=True).sqrt()
    smooth_11HW = blurred(length_11HW)
    most = smooth_11HW.amax()
    if float(most) == 0:
        return torch.ones_like(smooth_11HW)
    core_11HW = (smooth_11HW > CHANGED * most).float()
    return blurred(F.max_pool2d(core_11HW, 3, stride=1, padding=1)).clamp(0, 1)


def blurred(values_11HW: Tensor) -> Tensor:
    """The mean of each cell and its neighbours; at the border of those that are there."""
    return F.avg_pool2d(values_11HW, 3, stride=1, padding=1, count_include_pad=False)


def area_loss(prediction_BCHW: Tensor, target_BCHW: Tensor, mask_B1HW: Tensor, outside: float) -> Tensor:
    """Mean squared error inside the masks plus ``outside`` times that outside, each by its own area.

    So a small change teaches as much as a large one, and the rest is held as firmly.
    """
    error_BCHW = (prediction_BCHW.float() - target_BCHW.float()).square()
    return (masked_mean(error_BCHW, mask_B1HW) + outside * masked_mean(error_BCHW, 1 - mask_B1HW)).mean()


Encode = Callable[["Session", Sequence[str]], Conditioning]


def turned(base_other: Tensor, *, here: Tensor, other: Tensor) -> Tensor:
    """f0(z_other) + y_here - y_other: the source model's answer for the other picture, and the two's difference."""
    return base_other + here - other


def pair_loss(session: "Session", batch: Batch, random: torch.Generator, encode: Encode) -> Tensor:
    """The loss of one direction, that of the network's present strength: +1 turns A into B, -1 turns B into A.

    One pass without gradients on both pictures and one with them on the direction's own.
    """
    pairs, noise, settings = session.pairs, session.noise, session.settings
    assert pairs is not None
    pair = PairLatents.cat([pairs[path] for path in batch.paths])
    x_A, x_B, mask = pair.before_BCHW, pair.after_BCHW, pair.mask_B1HW
    t = draw_timesteps(noise, x_A, random, settings.noise)
    epsilon = draw_noise(x_A, random, settings.noise, shaped=prediction_of(noise) is not None)
    batch, x_A, x_B, mask, t, epsilon = session.team.own(batch, x_A, x_B, mask, t, epsilon)  # all draws are made
    here, other = (x_B, x_A) if session.network.multiplier > 0 else (x_A, x_B)
    answer = Answers(session, encode, batch, t)
    z_here, z_other = (noise.add_noise(x, epsilon, t) for x in (here, other))
    with without_adapters(session.network), torch.no_grad():
        base_here, base_other = answer(z_here), answer(z_other)
    changed = turned(base_other, here=noise.target(here, epsilon, t), other=noise.target(other, epsilon, t))
    wanted = mask * changed + (1 - mask) * base_here
    return area_loss(answer(z_here), wanted, mask, settings.loss.pair_outside)


@dataclass(frozen=True)
class Answers:
    """What the model says of noisy latents, float32, with the network's strength as it is when asked."""

    session: "Session"
    encode: Encode
    batch: Batch
    timesteps_B: Tensor

    def __call__(self, noisy_BCHW: Tensor) -> Tensor:
        session, frames = self.session, self.batch.frames_B6
        told = self.encode(session, self.batch.captions)
        frames = None if frames is None else frames.to(noisy_BCHW.device, non_blocking=True)
        noisy_BCHW = noisy_BCHW.to(session.components.dtype)
        return session.family.predict(session.components, noisy_BCHW, self.timesteps_B, told, frames).float()


@contextmanager
def facing(network: AdapterNetwork, forward: bool | None) -> Iterator[None]:
    """Inside, the strength of the direction that a batch trains: as it is, or its negative; None changes nothing.

    Around the backward pass too: gradient checkpointing asks the layers once more there.
    """
    strength = network.multiplier
    network.multiplier = -strength if forward is False else strength
    try:
        yield
    finally:
        network.multiplier = strength


def encode_pair(
    family: ModelFamily, components: Components, before: Path, after: Path, placement: Placement
) -> PairLatents:
    """The two pictures through the VAE: its mean, not a draw, so that the same pixels are the same numbers."""
    pixels = torch.stack([load_pixels(path, placement) for path in (before, after)]).to(components.device)
    with torch.no_grad():
        mean, _ = family.encode_images(components, pixels)
        latents = family.scale_latents(components, mean).float()
    return PairLatents.of(latents[:1], latents[1:])
