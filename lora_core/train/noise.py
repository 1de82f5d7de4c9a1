"""The noise of one training step: plain, shifted (noise offset), in several sizes (multires), and disturbed.

Everything is drawn on the CPU from one generator, in a fixed order, so that every device trains on the same noise, and
an option that is off draws nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_core.noise import NoiseProcess, offset_noise
from lora_core.settings import NoiseSettings
from lora_core.transfer import to_device


def draw_timesteps(process: NoiseProcess, x0_BCHW: Tensor, generator: torch.Generator, noise: NoiseSettings) -> Tensor:
    """(B,) timesteps on the device of ``x0_BCHW``, within the range of the settings.

    A discrete process keeps to the range by itself; the continuous times of a flow are pressed together into it, so
    that their distribution keeps its form.
    """
    batch, tokens = len(x0_BCHW), x0_BCHW[0, 0].numel() // 4
    t_B = process.sample_timesteps(batch, generator, tokens)
    if t_B.is_floating_point():
        share = (noise.max_timestep - noise.min_timestep) / 1000
        t_B = process.steps * noise.min_timestep / 1000 + share * t_B
    return to_device(t_B, x0_BCHW.device)


def draw_noise(x0_BCHW: Tensor, generator: torch.Generator, noise: NoiseSettings, *, shaped: bool = True) -> Tensor:
    """Noise like ``x0_BCHW``, on its device, as the settings want it.

    ``shaped`` False: plain noise whatever the settings say. For flow models, which reach pure noise at the end and so
    learn bright and dark pictures without help.
    """
    device, shape = x0_BCHW.device, x0_BCHW.shape
    offset = noise.noise_offset if shaped and noise.noise_offset_type != "multires" else None
    iterations = noise.multires_noise_iterations if shaped and noise.noise_offset_type != "original" else None
    if offset is None or (noise.adaptive_noise_scale is None and not noise.noise_offset_random_strength):
        drawn = to_device(offset_noise(shape, generator, offset), device)
    else:
        drawn = _offset_of_its_own(x0_BCHW, generator, offset, noise)
    if iterations is not None:
        coarser = coarser_noise(shape, generator, iterations, noise.multires_noise_discount)
        drawn = drawn + to_device(coarser, device)
        drawn = unit_spread(drawn)
    return drawn


def _offset_of_its_own(x0_BCHW: Tensor, generator: torch.Generator, offset: float, noise: NoiseSettings) -> Tensor:
    """Noise whose offset is not the same for every picture."""
    device, (batch, channels) = x0_BCHW.device, x0_BCHW.shape[:2]
    plain = to_device(torch.randn(x0_BCHW.shape, generator=generator), device)
    shift_BC11 = to_device(torch.randn((batch, channels, 1, 1), generator=generator), device)
    strength: Tensor | float = offset
    if noise.noise_offset_random_strength:
        strength = to_device(random_strength(batch, generator, offset), device)
    if noise.adaptive_noise_scale is not None:
        strength = adaptive_offset(x0_BCHW, strength, noise.adaptive_noise_scale)
    return plain + strength * shift_BC11


def random_strength(batch: int, generator: torch.Generator, most: float) -> Tensor:
    """(B, 1, 1, 1) strengths between 0 and ``most``.

    One for each picture, where sd-scripts draws one for the whole batch: what a picture gets does not depend on which
    others are beside it. The same for a batch of one.
    """
    return most * torch.rand((batch, 1, 1, 1), generator=generator)


def adaptive_offset(x0_BCHW: Tensor, offset: Tensor | float, scale: float) -> Tensor:
    """(B, C, 1, 1) max(0, offset + scale |mean of the channel|), as in sd-scripts."""
    return (offset + scale * x0_BCHW.mean(dim=(2, 3), keepdim=True).abs()).clamp(min=0)


def coarser_noise(shape: torch.Size, generator: torch.Generator, iterations: int, discount: float) -> Tensor:
    """(B, C, H, W) sum over i = 0, 1, ... of discount^i times noise of H / r^i x W / r^i, enlarged bilinearly.

    r is drawn anew for each i between 2 and 4; it ends at one pixel. Jonathan Whitaker 2023, "Multi-resolution noise
    for diffusion model training", in the form that sd-scripts gave it: the first size is the full one.
    """
    batch, channels, height, width = shape
    total = torch.zeros(tuple(shape))
    for i in range(iterations):
        r = 2 + 2 * float(torch.rand((), generator=generator))
        h, w = max(1, int(height / r**i)), max(1, int(width / r**i))
        coarse = torch.randn((batch, channels, h, w), generator=generator)
        total += discount**i * F.interpolate(coarse, size=(height, width), mode="bilinear")
        if 1 in (h, w):
            break
    return total


def unit_spread(noise_BCHW: Tensor) -> Tensor:
    """Each picture's noise divided by its own standard deviation.

    sd-scripts takes that of the whole batch, which ties pictures to their neighbours. The same for a batch of one.
    """
    return noise_BCHW / noise_BCHW.std(dim=(1, 2, 3), keepdim=True)


def perturbed(noise_BCHW: Tensor, generator: torch.Generator, noise: NoiseSettings) -> Tensor:
    """The noise that goes into what the model sees; what it is asked for stays the noise itself.

    noise + gamma * (one more draw): Ning et al. 2023, "Input Perturbation Reduces Exposure Bias in Diffusion Models".
    """
    if noise.ip_noise_gamma is None:
        return noise_BCHW
    device = noise_BCHW.device
    more = to_device(torch.randn(noise_BCHW.shape, generator=generator), device)
    if noise.ip_noise_gamma_random_strength:
        strength = random_strength(len(noise_BCHW), generator, noise.ip_noise_gamma)
        return noise_BCHW + to_device(strength, device) * more
    return noise_BCHW + noise.ip_noise_gamma * more
