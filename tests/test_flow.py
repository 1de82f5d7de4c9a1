"""Flow matching against diffusers' scheduler and pipeline, and the formulas in float64."""

import math

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from lora_core.flow import FlowMatching, flux_mu, flux_shift, shifted

SAMPLINGS = ["uniform", "sigmoid", "shift", "flux_shift", "logit_normal"]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 5, 16, 4, 6, generator=generator)
    return x0, noise, torch.tensor([1000.0, 0.5, 250.0, 500.25, 999.0])


def test_noisy_latents_equal_the_formula_in_float64(batch):
    x0, noise, t = batch
    sigma = (t.double() / 1000).view(-1, 1, 1, 1)
    expected = (1 - sigma) * x0.double() + sigma * noise.double()
    torch.testing.assert_close(FlowMatching().add_noise(x0, noise, t).double(), expected, rtol=0, atol=1e-6)


def test_noisy_latents_equal_diffusers(batch):
    """scale_noise is how diffusers' image-to-image pipeline of FLUX mixes."""
    x0, noise, _ = batch
    scheduler = FlowMatchEulerDiscreteScheduler()
    t = scheduler.timesteps[[0, 10, 499, 500, 999]]
    expected = scheduler.scale_noise(x0, t, noise)
    torch.testing.assert_close(FlowMatching().add_noise(x0, noise, t), expected, rtol=0, atol=1e-6)


def test_following_the_target_leads_back_to_the_picture(batch):
    x0, noise, t = (tensor.double() for tensor in batch)
    flow = FlowMatching()
    walked = flow.add_noise(x0, noise, t) - (t / 1000).view(-1, 1, 1, 1) * flow.target(x0, noise, t)
    torch.testing.assert_close(walked, x0, rtol=0, atol=1e-12)


def test_only_noise_at_the_end(batch):
    x0, noise, _ = batch
    assert torch.equal(FlowMatching().add_noise(x0, noise, torch.full((5,), 1000.0)), noise)


def test_snr_equals_the_formula_in_float64():
    t = torch.tensor([1000.0, 500.0, 100.0])
    torch.testing.assert_close(FlowMatching().snr(t), torch.tensor([0.0, 1.0, 81.0]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("tokens", [16, 256, 1024, 1536, 4096, 8192])
def test_the_shift_by_size_is_that_of_the_pipeline(tokens):
    assert flux_mu(tokens) == pytest.approx(calculate_shift(tokens), rel=1e-12)
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    sigmas = np.linspace(1.0, 0.1, 10)
    scheduler.set_timesteps(sigmas=sigmas, mu=calculate_shift(tokens))
    ours = shifted(torch.tensor(sigmas), flux_shift(tokens))
    torch.testing.assert_close(scheduler.sigmas[:-1].double(), ours, rtol=0, atol=1e-6)


def test_the_default_shift_is_that_of_a_megapixel():
    assert FlowMatching().shift == pytest.approx(flux_shift(4096), abs=1e-4)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_timesteps_are_in_range_and_belong_to_the_seed(sampling):
    flow = FlowMatching(sampling=sampling, sigmoid_scale=60.0, logit_std=60.0)
    draws = [flow.sample_timesteps(20_000, torch.Generator().manual_seed(3), 1024) for _ in range(2)]
    assert torch.equal(*draws)
    assert draws[0].dtype == torch.float32
    assert draws[0].shape == (20_000,)
    assert 0 < draws[0].min() < draws[0].max() <= 1000


def cumulative(flow: FlowMatching, tokens: int, sigma: np.ndarray) -> np.ndarray:
    """P(draw <= sigma) in float64: of the normal number that the distribution is made of."""
    if flow.sampling == "uniform":
        return sigma
    mean, std, shift = 0.0, flow.sigmoid_scale, 1.0
    if flow.sampling == "logit_normal":
        mean, std = flow.logit_mean, flow.logit_std
    if flow.sampling == "shift":
        shift = flow.shift
    if flow.sampling == "flux_shift":
        shift = math.exp(0.5 + (tokens - 256) * (1.15 - 0.5) / (4096 - 256))
    unshifted = sigma / (shift - (shift - 1) * sigma)
    normal = (np.log(unshifted / (1 - unshifted)) - mean) / std
    return np.array([0.5 * (1 + math.erf(z / math.sqrt(2))) for z in normal])


@pytest.mark.parametrize("tokens", [256, 4096])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_timesteps_are_distributed_as_the_formula_says(sampling, tokens):
    """Kolmogorov and Smirnov: 200,000 draws are less than 0.005 away with a probability beyond 0.9998."""
    flow = FlowMatching(sampling=sampling, sigmoid_scale=0.8, shift=2.5, logit_mean=-0.3, logit_std=1.2)
    drawn = flow.sample_timesteps(200_000, torch.Generator().manual_seed(0), tokens).double().sort().values / 1000
    at = drawn[::500].numpy().clip(1e-9, 1 - 1e-9)
    found = np.searchsorted(drawn.numpy(), at, side="right") / len(drawn)
    assert np.abs(found - cumulative(flow, tokens, at)).max() < 0.005


def test_the_kinds_differ_only_in_the_formula():
    """One draw a sample, whichever the kind: shift 1 is sigmoid, scale and deviation are the same thing."""
    draws = [
        flow.sample_timesteps(100, torch.Generator().manual_seed(1))
        for flow in (
            FlowMatching(sampling="sigmoid", sigmoid_scale=0.7),
            FlowMatching(sampling="shift", shift=1.0, sigmoid_scale=0.7),
            FlowMatching(sampling="logit_normal", logit_std=0.7),
        )
    ]
    torch.testing.assert_close(draws[0], draws[1])
    torch.testing.assert_close(draws[0], draws[2])


def test_a_part_of_the_times_is_drawn_from_alike():
    draws = [
        FlowMatching(min_timestep=low, max_timestep=high).sample_timesteps(500, torch.Generator().manual_seed(0), 256)
        for low, high in ((0, 1000), (200, 700))
    ]
    torch.testing.assert_close(draws[1], 200 + draws[0] / 2)
    assert 200 < draws[1].min() < draws[1].max() <= 700


def test_flux_shift_asks_for_the_size():
    with pytest.raises(ValueError, match="tokens"):
        FlowMatching().sample_timesteps(1, torch.Generator())
