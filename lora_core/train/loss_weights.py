"""Weights of the loss by noise level, as functions of the signal-to-noise ratio (SNR).

They are made for models that predict noise or velocity in a diffusion (DDPM) process. Flow models (FLUX) have none of
them: their loss is balanced by how timesteps are drawn. The SNR is that of the schedule that is really trained, zero
terminal SNR included; sd-scripts takes the unchanged schedule's.
"""

from collections.abc import Iterator

from torch import Tensor

from lora_core.noise import NoiseProcess, PredictionType, min_snr
from lora_core.settings import LossSettings

LOWEST_SNR, HIGHEST_SNR = 1e-3, 1e3
"""Beyond these, weights that divide by the SNR or by noise stay as they are there. Stable Diffusion's own schedule goes
from 0.0047 to 1175; with zero terminal SNR the last steps would weigh infinitely much."""


def noise_level_weights(loss: LossSettings, timesteps_B: Tensor, noise: NoiseProcess) -> Tensor | None:
    """(B,) product of all weights that are on and that the noise process knows; None if there are none."""
    prediction_type = prediction_of(noise)
    if prediction_type is None:
        return None
    weights_B: Tensor | None = None
    for weight_B in _each(loss, noise.snr(timesteps_B), prediction_type):
        weights_B = weight_B if weights_B is None else weights_B * weight_B
    return weights_B


def prediction_of(noise: NoiseProcess) -> PredictionType | None:
    """What a diffusion model predicts; None for a flow model."""
    found = noise.prediction_type
    return found if found in ("epsilon", "v_prediction") else None


def without_effect(loss: LossSettings, noise: NoiseProcess) -> list[str]:
    """The settings of weights that are on but that this noise process has no use for."""
    wanted = {
        "loss.min_snr_gamma": loss.min_snr_gamma is not None,
        "loss.debiased_estimation_loss": loss.debiased_estimation_loss,
        "loss.scale_v_pred_loss_like_noise_pred": loss.scale_v_pred_loss_like_noise_pred,
        "loss.v_pred_like_loss": loss.v_pred_like_loss is not None,
    }
    idle = {
        None: set(wanted),
        "epsilon": {"loss.scale_v_pred_loss_like_noise_pred"},
        "v_prediction": {"loss.v_pred_like_loss"},
    }[prediction_of(noise)]
    return [path for path, is_on in wanted.items() if is_on and path in idle]


def _each(loss: LossSettings, snr: Tensor, prediction_type: PredictionType) -> Iterator[Tensor]:
    if loss.min_snr_gamma is not None:
        yield min_snr(snr, loss.min_snr_gamma, prediction_type)
    if loss.scale_v_pred_loss_like_noise_pred and prediction_type == "v_prediction":
        yield like_noise_prediction(snr)
    if loss.v_pred_like_loss is not None and prediction_type == "epsilon":
        yield with_velocity_loss(snr, loss.v_pred_like_loss)
    if loss.debiased_estimation_loss:
        yield debiased(snr, prediction_type)


def like_noise_prediction(snr: Tensor) -> Tensor:
    """snr / (snr + 1): turns an error of the velocity into one of the noise. 0 where nothing of the signal is left."""
    snr = snr.clamp(max=HIGHEST_SNR)
    return snr / (snr + 1)


def with_velocity_loss(snr: Tensor, share: float) -> Tensor:
    """1 + share (snr + 1) / snr: an error of the noise and, on top, ``share`` of it as an error of the velocity."""
    snr = snr.clamp(LOWEST_SNR, HIGHEST_SNR)
    return 1 + share * (snr + 1) / snr


def debiased(snr: Tensor, prediction_type: PredictionType) -> Tensor:
    """1 / sqrt(snr), and 1 / (snr + 1) for velocity; Yu et al. 2023, "Debias the Training of Diffusion Models"."""
    if prediction_type == "epsilon":
        return snr.clamp(LOWEST_SNR, HIGHEST_SNR).rsqrt()
    return 1 / (snr.clamp(max=HIGHEST_SNR) + 1)
