"""The noise of a step against sd-scripts' formulas in float64, and that options leave each other's draws alone."""

import numpy as np
import pytest
import torch

from lora_core.noise import Ddpm, offset_noise
from lora_core.settings import NoiseSettings
from lora_core.train.noise import (
    adaptive_offset,
    coarser_noise,
    draw_noise,
    draw_timesteps,
    perturbed,
    random_strength,
    unit_spread,
)

X0 = 2 * torch.randn(3, 4, 12, 8, generator=torch.Generator().manual_seed(9)) + torch.tensor([3.0, -1, 0, 0.5]).view(
    1, 4, 1, 1
)


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def noise(shaped=True, **options):
    return draw_noise(X0, generator(), NoiseSettings(**options), shaped=shaped)


OFFSET = {"noise_offset": 0.1}
MULTIRES = {"noise_offset_type": "multires", "multires_noise_iterations": 6}
OPTIONS = [
    {},
    OFFSET,
    OFFSET | {"adaptive_noise_scale": 0.2},
    OFFSET | {"noise_offset_random_strength": True},
    MULTIRES,
    MULTIRES | OFFSET | {"noise_offset_type": "both"},
]


def test_without_options_it_is_the_plain_draw():
    assert torch.equal(noise(), torch.randn(X0.shape, generator=generator()))


def test_a_fixed_offset_is_as_it_was():
    assert torch.equal(noise(**OFFSET), offset_noise(X0.shape, generator(), 0.1))


@pytest.mark.parametrize("scale", [-1.0, -0.05, 0.2])
def test_adaptive_noise_equals_the_formula_in_float64(scale):
    draws = generator()
    plain = torch.randn(X0.shape, generator=draws).double().numpy()
    shift = torch.randn(3, 4, 1, 1, generator=draws).double().numpy()
    mean = np.abs(X0.double().numpy().mean(axis=(2, 3), keepdims=True))
    expected = plain + np.maximum(0.1 + scale * mean, 0) * shift
    found = noise(**OFFSET, adaptive_noise_scale=scale)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_an_adaptive_offset_never_turns_negative():
    assert not adaptive_offset(X0, 0.01, -1.0)[:, 0].any()


def test_a_random_offset_lies_below_the_fixed_one_and_is_one_a_picture():
    plain, fixed, found = noise(), noise(**OFFSET), noise(**OFFSET, noise_offset_random_strength=True)
    ratio = (found - plain)[..., 0, 0] / (fixed - plain)[..., 0, 0]
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-3, atol=1e-4)
    assert ((ratio > 0) & (ratio < 1)).all()
    assert len(ratio[:, 0].unique()) == 3


def test_random_strengths_are_uniform():
    strengths = random_strength(20_000, generator(), 0.3).flatten()
    assert 0 <= float(strengths.min()) < float(strengths.max()) < 0.3
    assert float(strengths.mean()) == pytest.approx(0.15, abs=0.003)


class Flow:
    """Stands for the process of FLUX: uniform times in (0, 1000]."""

    steps = 1000

    def sample_timesteps(self, n, generator, latent_tokens=None):
        assert latent_tokens == 12 * 8 // 4
        return 1000 * (1 - torch.rand(n, generator=generator))


@pytest.mark.parametrize("process", [Flow(), Ddpm()])
def test_the_whole_range_of_times_is_the_process_own(process):
    drawn = draw_timesteps(process, X0, generator(), NoiseSettings())
    assert torch.equal(drawn, process.sample_timesteps(3, generator(), 24))


def test_the_times_of_a_flow_are_pressed_into_the_range():
    x0 = torch.zeros(20_000, 4, 12, 8)
    t = draw_timesteps(Flow(), x0, generator(), NoiseSettings(min_timestep=200, max_timestep=700))
    assert 200 < float(t.min()) < 201
    assert 699 < float(t.max()) <= 700
    assert float(t.mean()) == pytest.approx(450, abs=5)


# ---- multires --------------------------------------------------------------------------------------------------------


def bilinear(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """torch's bilinear with align_corners=False, written out."""

    def axis(values, length, dim):
        size = values.shape[dim]
        at = np.clip((np.arange(length) + 0.5) * size / length - 0.5, 0, None)
        low = np.minimum(np.floor(at).astype(int), size - 1)
        high = np.minimum(low + 1, size - 1)
        part = (at - low).reshape([-1 if d == dim else 1 for d in range(values.ndim)])
        return np.take(values, low, dim) * (1 - part) + np.take(values, high, dim) * part

    return axis(axis(values, height, 2), width, 3)


def pyramid(shape, draws, iterations, discount):
    """What sd-scripts' pyramid_noise_like adds, with its random() replaced by the run's generator."""
    batch, channels, height, width = shape
    total = np.zeros(shape)
    for i in range(iterations):
        r = float(torch.rand((), generator=draws)) * 2 + 2
        h, w = max(1, int(height / r**i)), max(1, int(width / r**i))
        total += bilinear(torch.randn(batch, channels, h, w, generator=draws).double().numpy(), height, width) * (
            discount**i
        )
        if h == 1 or w == 1:
            break
    return total


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("discount", [0.0, 0.3, 0.9])
def test_multires_noise_equals_the_formula_in_float64(iterations, discount):
    draws = generator()
    summed = torch.randn(X0.shape, generator=draws).double().numpy() + pyramid(X0.shape, draws, iterations, discount)
    expected = summed / summed.std(axis=(1, 2, 3), ddof=1, keepdims=True)
    options = MULTIRES | {"multires_noise_iterations": iterations, "multires_noise_discount": discount}
    np.testing.assert_allclose(noise(**options).numpy(), expected, atol=1e-5)


def test_multires_noise_of_one_picture_is_that_of_sd_scripts_whole_batch():
    one = torch.randn(1, 4, 16, 16, generator=generator())
    torch.testing.assert_close(unit_spread(one), one / one.std())


def test_multires_noise_is_coarser_and_of_unit_spread():
    x0 = torch.zeros(16, 4, 64, 64)
    found = draw_noise(x0, generator(), NoiseSettings(**MULTIRES, multires_noise_discount=0.8))
    torch.testing.assert_close(found.std(dim=(1, 2, 3)), torch.ones(16))
    coarse = torch.nn.functional.avg_pool2d(found, 16)
    assert float(coarse.std()) > 3 / 16


def test_it_ends_at_one_pixel():
    few, many = (coarser_noise(X0.shape, generator(), n, 0.5) for n in (8, 64))
    assert torch.equal(few, many)


# ---- what the model sees ---------------------------------------------------------------------------------------------


def test_input_perturbation_adds_one_more_draw_times_gamma():
    epsilon, draws = torch.randn(X0.shape, generator=generator()), generator(2)
    found = perturbed(epsilon, generator(2), NoiseSettings(ip_noise_gamma=0.1))
    torch.testing.assert_close(found, epsilon + 0.1 * torch.randn(X0.shape, generator=draws))


def test_its_strength_may_be_random():
    epsilon = torch.zeros(X0.shape)
    full = perturbed(epsilon, generator(2), NoiseSettings(ip_noise_gamma=0.1))
    part = perturbed(epsilon, generator(2), NoiseSettings(ip_noise_gamma=0.1, ip_noise_gamma_random_strength=True))
    ratio = (part / full).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-3, atol=1e-4)
    assert ((ratio > 0) & (ratio < 1)).all()


def test_without_it_nothing_is_drawn_and_nothing_changes():
    epsilon, draws = torch.randn(X0.shape), generator()
    before = draws.get_state()
    assert perturbed(epsilon, draws, NoiseSettings()) is epsilon
    assert torch.equal(draws.get_state(), before)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_noise_repeats_and_touches_no_other_generator(options):
    before = torch.get_rng_state()
    assert torch.equal(noise(**options), noise(**options))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_flow_models_get_plain_noise(options):
    assert torch.equal(noise(shaped=False, **options), noise())


@pytest.mark.parametrize(
    "options", [OFFSET | {"noise_offset_type": "multires"}, MULTIRES | {"noise_offset_type": "original"}]
)
def test_a_kind_that_was_not_chosen_adds_nothing(options):
    assert torch.equal(noise(**options), noise())
