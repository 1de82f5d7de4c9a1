"""Do the settings of loss and noise fit together, and the model? Part of lora_core/checks.py."""

from collections.abc import Callable, Iterator
from typing import Any

from lora_core.errors import Problem
from lora_core.settings import FluxModel, RunSettings

Found = Iterator[Problem]


def is_flow(settings: RunSettings) -> bool:
    """Whether the model learns a flow from noise to picture, as FLUX does, instead of taking noise away in steps."""
    return isinstance(settings.model, FluxModel)


def weights_of_flow(settings: RunSettings) -> Found:
    """Flow models have no weights by signal-to-noise ratio; sd-scripts drops them without a word."""
    loss = settings.loss
    wanted = {
        "loss.min_snr_gamma": loss.min_snr_gamma is not None,
        "loss.debiased_estimation_loss": loss.debiased_estimation_loss,
        "loss.scale_v_pred_loss_like_noise_pred": loss.scale_v_pred_loss_like_noise_pred,
        "loss.v_pred_like_loss": loss.v_pred_like_loss is not None,
    }
    for path, is_on in wanted.items():
        if is_flow(settings) and is_on:
            fix = {path: None if "gamma" in path or "like_loss" in path else False}
            yield _warning(path, "checks.flow_weights", fix)


def noise_of_flow(settings: RunSettings) -> Found:
    """A flow ends in pure noise anyway: there is nothing for a noise offset or multires noise to mend."""
    noise = settings.noise
    if not is_flow(settings):
        return
    for path, value in {
        "noise.noise_offset": noise.noise_offset,
        "noise.multires_noise_iterations": noise.multires_noise_iterations,
    }.items():
        if value is not None:
            yield _warning(path, "checks.flow_noise", {path: None})
    if noise.zero_terminal_snr == "on":
        path = "noise.zero_terminal_snr"
        yield _warning(path, "checks.flow_noise", {path: "auto"})


def zero_snr_with_epsilon(settings: RunSettings) -> Found:
    """At pure noise a model that predicts noise has nothing to learn: it is the input."""
    says_epsilon = getattr(settings.model, "prediction_type", None) == "epsilon"
    if settings.noise.zero_terminal_snr == "on" and says_epsilon:
        fix = {"noise.zero_terminal_snr": "auto"}
        yield _warning("noise.zero_terminal_snr", "checks.zero_snr_epsilon", fix)


def weights_of_prediction(settings: RunSettings) -> Found:
    """Each of these is for one kind of prediction, and without effect for the other."""
    prediction, loss = getattr(settings.model, "prediction_type", None), settings.loss
    if prediction == "epsilon" and loss.scale_v_pred_loss_like_noise_pred:
        path = "loss.scale_v_pred_loss_like_noise_pred"
        yield _warning(path, "checks.not_for_epsilon", {path: False})
    if prediction == "v_prediction" and loss.v_pred_like_loss is not None:
        path = "loss.v_pred_like_loss"
        yield _warning(path, "checks.not_for_velocity", {path: None})


def two_weightings(settings: RunSettings) -> Found:
    loss = settings.loss
    if loss.min_snr_gamma is not None and loss.debiased_estimation_loss and not is_flow(settings):
        path = "loss.debiased_estimation_loss"
        yield _warning(path, "checks.two_weightings", {path: False})


def timestep_range(settings: RunSettings) -> Found:
    noise = settings.noise
    if noise.min_timestep >= noise.max_timestep:
        fix = {"noise.min_timestep": 0, "noise.max_timestep": 1000}
        values = {"low": noise.min_timestep, "high": noise.max_timestep}
        yield _error("noise.min_timestep", "checks.timestep_range", fix, **values)


def noise_not_used(settings: RunSettings) -> Found:
    """Values that the chosen kind of noise does not read."""
    noise = settings.noise
    offset, multires = noise.noise_offset is not None, noise.multires_noise_iterations is not None
    kind = noise.noise_offset_type
    if (offset and kind == "multires") or (multires and kind == "original"):
        path = "noise.noise_offset" if offset and kind == "multires" else "noise.multires_noise_iterations"
        yield _warning(path, "checks.noise_other_kind", {"noise.noise_offset_type": "both"})
    if kind == "multires" and not multires:
        fix = {"noise.multires_noise_iterations": 6}
        yield _warning("noise.multires_noise_iterations", "checks.multires_without_iterations", fix)
    modified = noise.adaptive_noise_scale is not None or noise.noise_offset_random_strength
    if modified and not offset:
        path = "noise.adaptive_noise_scale" if noise.adaptive_noise_scale is not None else _RANDOM_OFFSET
        yield _warning(path, "checks.offset_missing", {"noise.noise_offset": 0.05})
    if noise.ip_noise_gamma_random_strength and noise.ip_noise_gamma is None:
        path = "noise.ip_noise_gamma_random_strength"
        yield _warning(path, "checks.ip_noise_missing", {"noise.ip_noise_gamma": 0.1})


_RANDOM_OFFSET = "noise.noise_offset_random_strength"


def mask_folder_unused(settings: RunSettings) -> Found:
    if settings.dataset.mask_dir is not None and settings.loss.masked_loss != "folder":
        yield _warning("dataset.mask_dir", "checks.mask_folder_unused", {"loss.masked_loss": "folder"})


def prior_words(settings: RunSettings) -> Found:
    """The class words name the kind, not the one that is trained."""
    loss, trigger = settings.loss, settings.dataset.trigger_words.strip()
    if loss.prior_preservation is None:
        if loss.prior_words.strip():
            yield _warning("loss.prior_words", "checks.prior_words_unused", {"loss.prior_preservation": 1.0})
    elif trigger and trigger.lower() in loss.prior_words.lower():
        yield _warning("loss.prior_words", "checks.prior_words_trigger", {"loss.prior_words": ""}, words=trigger)


LOSS_AND_NOISE: tuple[Callable[[RunSettings], Found], ...] = (
    weights_of_flow,
    noise_of_flow,
    zero_snr_with_epsilon,
    weights_of_prediction,
    two_weightings,
    timestep_range,
    noise_not_used,
    mask_folder_unused,
    prior_words,
)


def _error(path: str, key: str, fix: dict[str, Any] | None = None, /, **values: Any) -> Problem:
    return Problem(path, key, values, "error", fix or {})


def _warning(path: str, key: str, fix: dict[str, Any] | None = None, /, **values: Any) -> Problem:
    return Problem(path, key, values, "warning", fix or {})
