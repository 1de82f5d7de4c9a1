"""The measures against models whose answers are known."""

import pytest
import torch

from lora_core.demo.compare import denoising_loss, drift

ALPHAS = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0)
PICTURES = [(torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(n)), "usu bear") for n in range(3)]
LATENTS = [latent for latent, _ in PICTURES]


def zero(noisy, timesteps, prompts):
    return torch.zeros_like(noisy)


def one(noisy, timesteps, prompts):
    return torch.ones_like(noisy)


def test_a_model_that_answers_zero_has_a_loss_of_one():
    assert denoising_loss(zero, PICTURES, ALPHAS) == pytest.approx(1, abs=0.05)


def test_a_model_that_knows_the_picture_has_no_loss():
    latent, caption = PICTURES[0]

    def oracle(noisy, timesteps, prompts):
        assert prompts == [caption] * len(noisy)
        a = ALPHAS[timesteps].view(-1, 1, 1, 1)
        return (noisy - a.sqrt() * latent) / (1 - a).sqrt()

    assert denoising_loss(oracle, PICTURES[:1], ALPHAS) < 1e-6


def test_the_same_model_gives_the_same_number_and_pictures_may_differ_in_size():
    pictures = [*PICTURES, (torch.randn(4, 20, 16), "usu bear, standing")]
    assert denoising_loss(zero, pictures, ALPHAS) == denoising_loss(zero, pictures, ALPHAS)


def test_drift_is_zero_for_the_base_itself_and_the_squared_change_otherwise():
    assert drift(zero, zero, "bear", LATENTS, ALPHAS) == 0
    assert drift(one, zero, "bear", LATENTS, ALPHAS) == 1


def test_nothing_to_measure_on_is_an_error():
    with pytest.raises(ValueError, match="No pictures"):
        denoising_loss(zero, [], ALPHAS)
    with pytest.raises(ValueError, match="'bear'"):
        drift(zero, zero, "bear", [], ALPHAS)
