"""The loss of one microbatch.

In the order of sd-scripts: error of each element, mask, mean of each sample, the sample's own weight, weights by noise
level, mean of the batch. Weights are not made up for, so that two samples of weight 0.5 count as one.
"""

import torch
from torch import Tensor

from lora_core.noise import NoiseProcess
from lora_core.settings import LossSettings
from lora_core.train.loss_weights import noise_level_weights

LEAST_MASK = 0.01
"""Share of a picture that a mask is taken to leave at least, so that an empty one gives no division by 0."""


def training_loss(
    prediction_BCHW: Tensor,
    target_BCHW: Tensor,
    loss: LossSettings,
    *,
    sample_weights_B: Tensor,
    timesteps_B: Tensor,
    noise: NoiseProcess,
    masks_B1HW: Tensor | None = None,
) -> Tensor:
    """The loss of a batch, in float32.

    ``sample_weights_B`` is 1 for training images and prior_loss_weight for regularisation images, times the folder's
    own weight.
    """
    error_BCHW = elementwise(
        prediction_BCHW.float(), target_BCHW.float(), loss.loss_type, threshold(loss, timesteps_B, noise)
    )
    if masks_B1HW is None:
        loss_B = error_BCHW.mean(dim=(1, 2, 3))
    else:
        loss_B = masked_mean(error_BCHW, masks_B1HW, loss.unmasked_weight)
    loss_B = loss_B * sample_weights_B
    if (weights_B := noise_level_weights(loss, timesteps_B, noise)) is not None:
        loss_B = loss_B * weights_B
    return loss_B.mean()


def elementwise(prediction: Tensor, target: Tensor, loss_type: str, c_B111: Tensor | None = None) -> Tensor:
    """The error of each element.

    With d the difference: l2 is d²; l1 is |d|; smooth_l1 is 2 (sqrt(d² + c²) - c), which is d² / c near 0 and 2 |d|
    far away; huber is c times that. Written as a quotient: the difference of two nearly equal numbers would round
    small errors away.
    """
    difference = prediction - target
    if loss_type == "l2":
        return difference.square()
    if loss_type == "l1":
        return difference.abs()
    assert c_B111 is not None
    square = difference.square()
    smooth = 2 * square / ((square + c_B111.square()).sqrt() + c_B111)
    return c_B111 * smooth if loss_type == "huber" else smooth


def threshold(loss: LossSettings, timesteps_B: Tensor, noise: NoiseProcess) -> Tensor | None:
    """(B, 1, 1, 1) c of huber and smooth_l1 at each sample's noise level; None for other losses.

    constant: c. exponential: from 1 without noise to c at the end. snr: (1 - c) / (1 + sigma)² + c with sigma the
    noise-to-signal ratio, 1 / sqrt(snr). The first two times huber_scale. All three work for flow models too, where
    snr gives (1 - c)(1 - sigma)² + c with the flow's own sigma. Khrapov 2024, "Improving Diffusion Models's
    Data-Corruption Resistance using Scheduled Pseudo-Huber Loss".
    """
    if loss.loss_type not in ("huber", "smooth_l1"):
        return None
    t = timesteps_B.float()
    if loss.huber_schedule == "constant":
        c_B = torch.full_like(t, loss.huber_c * loss.huber_scale)
    elif loss.huber_schedule == "exponential":
        c_B = loss.huber_c ** (t / noise.steps) * loss.huber_scale
    else:
        # At an SNR of 0 rsqrt is infinite, and its reciprocal 0.
        sigma = noise.snr(timesteps_B).rsqrt()
        c_B = (1 - loss.huber_c) * (1 + sigma).reciprocal().square() + loss.huber_c
    return c_B.view(-1, 1, 1, 1)


def masked_mean(error_BCHW: Tensor, masks_B1HW: Tensor, unmasked_weight: float = 0.0) -> Tensor:
    """(B,) mean of the error over what the masks (0 to 1) leave, and a little of the rest if so wanted.

    Divided by the weight of the area that counts, not by the whole: a small figure teaches as much as a large one.
    (sd-scripts divides by the whole.)
    """
    weights_B1HW = masks_B1HW + (1 - masks_B1HW) * unmasked_weight
    area_B = weights_B1HW.mean(dim=(1, 2, 3)).clamp(min=LEAST_MASK)
    return (error_BCHW * weights_B1HW).mean(dim=(1, 2, 3)) / area_B


def is_bad(losses: Tensor) -> Tensor:
    """True on the device where any loss is NaN or infinite; reading it is the caller's synchronisation."""
    return ~torch.isfinite(losses).all()
