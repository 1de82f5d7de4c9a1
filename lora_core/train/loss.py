"""The loss of one microbatch."""

import torch
from torch import Tensor

from lora_core.noise import NoiseProcess


def weighted_mse(
    prediction_BCHW: Tensor,
    target_BCHW: Tensor,
    *,
    sample_weights_B: Tensor,
    timesteps_B: Tensor,
    noise: NoiseProcess,
    min_snr_gamma: float | None,
) -> Tensor:
    """Mean squared error per sample in float32, times its weights, then the mean over the batch.

    ``sample_weights_B`` is 1 for training images and prior_loss_weight for regularisation images. min-SNR: Hang et al.
    2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy", eq. 6.
    """
    loss_B = (prediction_BCHW.float() - target_BCHW.float()).square().mean(dim=(1, 2, 3)) * sample_weights_B
    if min_snr_gamma is not None:
        loss_B = loss_B * noise.min_snr_weight(timesteps_B, min_snr_gamma)
    return loss_B.mean()


def is_bad(losses: Tensor) -> Tensor:
    """True on the device where any loss is NaN or infinite; reading it is the caller's synchronisation."""
    return ~torch.isfinite(losses).all()
