"""The loss against sd-scripts' formulas, written out in float64, and what has to hold for any of them."""

import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from lora_core.noise import Ddpm
from lora_core.settings import LossSettings
from lora_core.train import loss_weights
from lora_core.train.loss import LEAST_MASK, elementwise, masked_mean, threshold, training_loss

TYPES = ["l2", "l1", "huber", "smooth_l1"]
SCHEDULES = ["constant", "exponential", "snr"]
T = torch.tensor([0, 1, 250, 500, 998, 999])
PREDICTION, TARGET = torch.randn(2, 6, 4, 5, 7, generator=torch.Generator().manual_seed(0))
WEIGHTS = torch.tensor([1.0, 1.0, 0.5, 2.0, 1.0, 1.0])


class Flow:
    """Stands for the process of FLUX: t in (0, 1000], sigma = t / 1000."""

    prediction_type = "flow"
    steps = 1000

    def snr(self, t):
        return ((1 - t / 1000) / (t / 1000)).square()


def loss_of(loss: LossSettings, noise=None, t=T, prediction=PREDICTION, **more):
    arguments = {"sample_weights_B": WEIGHTS, "timesteps_B": t, "noise": noise or Ddpm()}
    return training_loss(prediction, TARGET, loss, **(arguments | more))


# ---- sd-scripts, in float64 ------------------------------------------------------------------------------------------


def alphas() -> np.ndarray:
    return np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2)


def kohya_c(schedule: str, c: float, scale: float, t: np.ndarray) -> np.ndarray:
    if schedule == "constant":
        return np.full(len(t), c * scale)
    if schedule == "exponential":
        return np.exp(math.log(c) / 1000 * t) * scale
    sigma = np.sqrt((1 - alphas()[t]) / alphas()[t])
    return (1 - c) / (1 + sigma) ** 2 + c


def kohya_error(kind: str, d: np.ndarray, c: np.ndarray) -> np.ndarray:
    c = c[:, None, None, None]
    root = np.sqrt(d**2 + c**2) - c
    return {"l2": d**2, "l1": np.abs(d), "huber": 2 * c * root, "smooth_l1": 2 * root}[kind]


def kohya_weight(loss: LossSettings, snr: np.ndarray, velocity: bool) -> np.ndarray:
    """post_process_loss of train_network.py, in its order."""
    weight, capped = np.ones(len(snr)), np.minimum(snr, 1000)
    if loss.min_snr_gamma:
        weight = weight * np.minimum(snr, loss.min_snr_gamma) / (snr + 1 if velocity else snr)
    if loss.scale_v_pred_loss_like_noise_pred:
        weight = weight * capped / (capped + 1)
    if loss.v_pred_like_loss:
        weight = weight + weight / (capped / (capped + 1)) * loss.v_pred_like_loss
    if loss.debiased_estimation_loss:
        weight = weight * (1 / (capped + 1) if velocity else 1 / np.sqrt(capped))
    return weight


def kohya(loss: LossSettings, prediction_type: str) -> float:
    d, t = PREDICTION.double().numpy() - TARGET.double().numpy(), T.numpy()
    error = kohya_error(loss.loss_type, d, kohya_c(loss.huber_schedule, loss.huber_c, loss.huber_scale, t))
    of_samples = error.mean(axis=(1, 2, 3)) * WEIGHTS.numpy()
    snr = alphas()[t] / (1 - alphas()[t])
    return float((of_samples * kohya_weight(loss, snr, prediction_type == "v_prediction")).mean())


@pytest.mark.parametrize(("kind", "schedule"), itertools.product(TYPES, SCHEDULES))
@pytest.mark.parametrize(("c", "scale"), [(0.1, 1.0), (0.5, 2.0), (1.0, 1.0)])
def test_every_loss_equals_that_of_sd_scripts(kind, schedule, c, scale):
    loss = LossSettings(loss_type=kind, huber_schedule=schedule, huber_c=c, huber_scale=scale)
    assert float(loss_of(loss)) == pytest.approx(kohya(loss, "epsilon"), rel=1e-4)


WEIGHTINGS = {
    "epsilon": [
        {"min_snr_gamma": 5.0},
        {"debiased_estimation_loss": True},
        {"v_pred_like_loss": 0.3},
        {"min_snr_gamma": 1.0, "debiased_estimation_loss": True, "v_pred_like_loss": 1.0},
    ],
    "v_prediction": [
        {"min_snr_gamma": 5.0},
        {"debiased_estimation_loss": True},
        {"scale_v_pred_loss_like_noise_pred": True},
        {"min_snr_gamma": 5.0, "debiased_estimation_loss": True, "scale_v_pred_loss_like_noise_pred": True},
    ],
}
WEIGHTED = [(kind, options) for kind, several in WEIGHTINGS.items() for options in several]


@pytest.mark.parametrize(("prediction_type", "options"), WEIGHTED)
@pytest.mark.parametrize("kind", ["l2", "huber"])
def test_weights_by_noise_level_equal_those_of_sd_scripts(prediction_type, options, kind):
    loss = LossSettings(loss_type=kind, **options)
    assert float(loss_of(loss, Ddpm(prediction_type))) == pytest.approx(kohya(loss, prediction_type), rel=1e-3)


@pytest.mark.parametrize("zero", [False, True])
def test_the_snr_is_that_of_the_schedule_that_is_trained(zero):
    t = T[:-1]
    oracle = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=zero
    )
    ours = Ddpm("v_prediction", zero_terminal_snr=zero).snr(t)
    torch.testing.assert_close(ours, compute_snr(oracle, t), rtol=1e-4, atol=1e-12)


# ---- properties ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_without_options_it_is_the_mean_of_means(kind):
    loss = LossSettings(loss_type=kind, huber_schedule="constant", huber_c=1.0)
    difference = PREDICTION - TARGET
    expected = elementwise(difference, torch.zeros(()), kind, torch.ones(1, 1, 1, 1)).mean(dim=(1, 2, 3))
    torch.testing.assert_close(loss_of(loss), (expected * WEIGHTS).mean())


@pytest.mark.parametrize(("prediction_type", "options"), WEIGHTED)
@pytest.mark.parametrize("kind", TYPES)
def test_at_zero_terminal_snr_loss_and_gradient_are_finite(prediction_type, options, kind):
    noise = Ddpm(prediction_type, zero_terminal_snr=True)
    prediction = PREDICTION.clone().requires_grad_()
    value = loss_of(LossSettings(loss_type=kind, **options), noise, prediction=prediction)
    value.backward()
    assert value.isfinite()
    assert prediction.grad.isfinite().all()


@pytest.mark.parametrize("kind", TYPES)
def test_a_perfect_answer_costs_nothing_and_pulls_nowhere(kind):
    prediction = TARGET.clone().requires_grad_()
    value = loss_of(LossSettings(loss_type=kind), prediction=prediction)
    value.backward()
    assert float(value.detach()) == 0
    assert not prediction.grad.any()


@pytest.mark.parametrize("kind", ["huber", "smooth_l1"])
def test_small_errors_are_not_rounded_away(kind):
    c = torch.ones(1, 1, 1, 1)
    d = torch.full((1, 1, 1, 1), 1e-5)
    assert float(elementwise(d, torch.zeros(()), kind, c)) == pytest.approx(1e-10, rel=1e-3)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["huber", "smooth_l1"])
def test_flow_models_have_every_schedule(kind, schedule):
    loss = LossSettings(loss_type=kind, huber_schedule=schedule, huber_c=0.2)
    t = torch.tensor([1e-2, 1.0, 250.0, 500.0, 999.0, 1000.0])
    c = threshold(loss, t, Flow()).flatten()
    assert c.isfinite().all()
    if schedule == "snr":
        torch.testing.assert_close(c, 0.8 * (1 - t / 1000).square() + 0.2, rtol=1e-4, atol=1e-6)
    elif schedule == "exponential":
        torch.testing.assert_close(c, 0.2 ** (t / 1000))
    assert loss_of(loss, Flow(), t).isfinite()


@pytest.mark.parametrize("options", [options for _, options in WEIGHTED])
def test_flow_models_have_no_weights_by_snr_and_it_is_known_which_are_idle(options):
    loss, t = LossSettings(**options), T.float().clamp(min=1)
    assert torch.equal(loss_of(loss, Flow(), t), loss_of(LossSettings(), Flow(), t))
    assert loss_weights.without_effect(loss, Flow()) == [f"loss.{name}" for name in options_in_order(options)]


def options_in_order(options):
    known = (
        "min_snr_gamma",
        "debiased_estimation_loss",
        "scale_v_pred_loss_like_noise_pred",
        "v_pred_like_loss",
    )
    return [name for name in known if name in options]


@pytest.mark.parametrize(
    ("prediction_type", "option", "value"),
    [("epsilon", "scale_v_pred_loss_like_noise_pred", True), ("v_prediction", "v_pred_like_loss", 0.5)],
)
def test_what_is_made_for_the_other_prediction_does_nothing_and_is_named(prediction_type, option, value):
    loss, noise = LossSettings(**{option: value}), Ddpm(prediction_type)
    assert torch.equal(loss_of(loss, noise), loss_of(LossSettings(), noise))
    assert loss_weights.without_effect(loss, noise) == [f"loss.{option}"]
    other = Ddpm("v_prediction" if prediction_type == "epsilon" else "epsilon")
    assert loss_weights.without_effect(loss, other) == []


# ---- masks -----------------------------------------------------------------------------------------------------------


def test_a_mask_counts_its_part_only_and_its_size_does_not_count():
    error = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(2, 1, 4, 4)
    masks[0, :, :2] = 1
    masks[1, :, 3, 3] = 1
    found = masked_mean(error, masks)
    torch.testing.assert_close(found[0], error[0, :, :2].mean())
    torch.testing.assert_close(found[1], error[1, :, 3, 3].mean())


def test_a_mask_of_ones_is_no_mask():
    masks = torch.ones(6, 1, 5, 7)
    torch.testing.assert_close(loss_of(LossSettings(), masks_B1HW=masks), loss_of(LossSettings()))


def test_the_rest_may_count_a_little():
    error, masks = torch.ones(1, 1, 2, 2), torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    error[..., 0, 0] = 5
    assert float(masked_mean(error, masks, 0.1)) == pytest.approx((5 + 0.3) / 1.3)
    assert float(masked_mean(error, masks, 1.0)) == pytest.approx(2)


def test_an_empty_mask_is_a_loss_of_zero_and_a_tiny_one_is_bounded():
    prediction = PREDICTION.clone().requires_grad_()
    value = loss_of(LossSettings(), prediction=prediction, masks_B1HW=torch.zeros(6, 1, 5, 7))
    value.backward()
    assert float(value.detach()) == 0
    assert not prediction.grad.any()
    tiny = torch.zeros(1, 1, 100, 100)
    tiny[..., 0, 0] = 1
    assert float(masked_mean(torch.ones(1, 1, 100, 100), tiny)) == pytest.approx(1e-4 / LEAST_MASK)


def test_outside_the_mask_there_is_no_gradient():
    masks = torch.zeros(6, 1, 5, 7)
    masks[..., :3] = 1
    prediction = PREDICTION.clone().requires_grad_()
    loss_of(LossSettings(), prediction=prediction, masks_B1HW=masks).backward()
    assert not prediction.grad[..., 3:].any()
    assert prediction.grad[..., :3].all()


# ---- weights of samples ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"min_snr_gamma": 5.0}, {"loss_type": "huber"}])
def test_a_samples_weight_multiplies_its_part_of_loss_and_gradient(options):
    loss = LossSettings(**options)
    weights = torch.tensor([0.0, 0.25, 1.0, 2.0, 0.5, 1.0])

    def gradient(weights):
        prediction = PREDICTION.clone().requires_grad_()
        loss_of(loss, prediction=prediction, sample_weights_B=weights).backward()
        return prediction.grad

    torch.testing.assert_close(gradient(weights), gradient(torch.ones(6)) * weights.view(-1, 1, 1, 1))
