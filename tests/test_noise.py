"""The noise process against diffusers' scheduler and the formulas of the papers in float64."""

import pytest
import torch
from diffusers import DDPMScheduler

from lora_core.noise import Ddpm, min_snr, obeying, offset_noise, zero_terminal
from lora_core.settings import NoiseSettings

TYPES = ["epsilon", "v_prediction"]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 6, 4, 8, 10, generator=generator)
    return x0, noise, torch.tensor([0, 1, 250, 500, 998, 999])


def scheduler(prediction_type, schedule="scaled_linear"):
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule=schedule, prediction_type=prediction_type)


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("schedule", ["scaled_linear", "linear"])
def test_equals_diffusers(prediction_type, schedule, batch):
    x0, noise, t = batch
    oracle, ours = scheduler(prediction_type, schedule), Ddpm(prediction_type, schedule=schedule)
    assert torch.equal(ours.alpha_bar, oracle.alphas_cumprod)
    torch.testing.assert_close(ours.add_noise(x0, noise, t), oracle.add_noise(x0, noise, t), rtol=0, atol=1e-6)
    target = noise if prediction_type == "epsilon" else oracle.get_velocity(x0, noise, t)
    torch.testing.assert_close(ours.target(x0, noise, t), target, rtol=0, atol=1e-6)


@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_min_snr_weight_equals_the_formula_in_float64(gamma):
    t = torch.arange(1000)
    alpha_bar = scheduler("epsilon").alphas_cumprod.double()
    snr = alpha_bar / (1 - alpha_bar)
    capped = torch.minimum(snr, torch.tensor(gamma))
    torch.testing.assert_close(Ddpm("epsilon").min_snr_weight(t, gamma).double(), capped / snr, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        Ddpm("v_prediction").min_snr_weight(t, gamma).double(), capped / (snr + 1), rtol=1e-4, atol=0
    )


def test_min_snr_leaves_noisy_steps_alone():
    assert torch.equal(min_snr(torch.tensor([0.1, 4.9]), 5.0, "epsilon"), torch.ones(2))


@pytest.mark.parametrize("prediction_type", TYPES)
def test_target_gives_back_the_clean_latents(prediction_type, batch):
    x0, noise, t = (v.double() if v.is_floating_point() else v for v in batch)
    ddpm = Ddpm(prediction_type)
    noisy, answer, a = (
        ddpm.add_noise(x0, noise, t),
        ddpm.target(x0, noise, t),
        ddpm.alpha_bar[t].view(-1, 1, 1, 1).double(),
    )
    recovered = (noisy - (1 - a).sqrt() * answer) / a.sqrt()
    if prediction_type == "v_prediction":
        recovered = a.sqrt() * noisy - (1 - a).sqrt() * answer
    torch.testing.assert_close(recovered, x0, rtol=0, atol=1e-4)


def test_timesteps_cover_the_whole_range_evenly_and_repeat_with_the_seed():
    def draw():
        return Ddpm().sample_timesteps(200_000, torch.Generator().manual_seed(3))

    t = draw()
    assert torch.equal(t, draw())
    counts = torch.bincount(t, minlength=1000)
    assert len(counts) == 1000
    assert counts.min() > 100
    assert counts.max() < 300


def test_noise_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    ddpm = Ddpm()
    ddpm.sample_timesteps(4, torch.Generator().manual_seed(0))
    ddpm.offset_noise((2, 4, 8, 8), torch.Generator().manual_seed(0), 0.1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("offset", [0.05, 0.5])
def test_offset_shifts_whole_channels(offset):
    plain = offset_noise((3, 4, 8, 8), torch.Generator().manual_seed(1))
    shifted = offset_noise((3, 4, 8, 8), torch.Generator().manual_seed(1), offset)
    shift = (shifted - plain) / offset
    torch.testing.assert_close(shift, shift[..., :1, :1].expand_as(shift), rtol=1e-3, atol=1e-4)
    assert shift.std() > 0.3
    assert torch.equal(plain, torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("schedule", ["scaled_linear", "linear"])
def test_zero_terminal_snr_equals_diffusers_and_leaves_nothing_at_the_end(prediction_type, schedule, batch):
    x0, noise, t = batch
    oracle = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule=schedule,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=True,
    )
    ours = Ddpm(prediction_type, schedule=schedule, zero_terminal_snr=True)
    assert torch.equal(ours.alpha_bar, oracle.alphas_cumprod)
    torch.testing.assert_close(ours.add_noise(x0, noise, t), oracle.add_noise(x0, noise, t), rtol=0, atol=1e-6)
    last = torch.full((6,), 999)
    assert torch.equal(ours.add_noise(x0, noise, last), noise)
    assert torch.equal(ours.target(x0, noise, last), noise if prediction_type == "epsilon" else -x0)
    assert not ours.snr(last).any()
    assert ours.alpha_bar[0] == pytest.approx(Ddpm(schedule=schedule).alpha_bar[0])


def test_zero_terminal_snr_equals_algorithm_1_in_float64():
    root = Ddpm().alpha_bar.double().sqrt()
    expected = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
    torch.testing.assert_close(zero_terminal(Ddpm().alpha_bar).double(), expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weighs_pure_noise_as_the_steps_before_it(gamma):
    assert float(min_snr(torch.zeros(()), gamma, "epsilon")) == 1
    assert float(min_snr(torch.zeros(()), gamma, "v_prediction")) == 0


def test_timesteps_keep_to_the_range_that_is_trained():
    t = Ddpm(min_timestep=200, max_timestep=300).sample_timesteps(20_000, torch.Generator().manual_seed(0))
    assert torch.equal(t.unique(), torch.arange(200, 300))
    assert torch.bincount(t - 200).min() > 120


def test_the_whole_range_draws_as_without_one():
    assert torch.equal(
        Ddpm(min_timestep=0, max_timestep=1000).sample_timesteps(9, torch.Generator().manual_seed(0)),
        torch.randint(0, 1000, (9,), generator=torch.Generator().manual_seed(0)),
    )


SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "steps": 1000, "schedule": "scaled_linear"}


@pytest.mark.parametrize("found", [None, False, True])
@pytest.mark.parametrize("wanted", ["auto", "on", "off"])
def test_the_settings_have_the_last_word_on_zero_terminal_snr(found, wanted):
    schedule = SCHEDULE if found is None else SCHEDULE | {"zero_terminal_snr": found}
    obeyed = Ddpm(**obeying(schedule, NoiseSettings(zero_terminal_snr=wanted)))
    assert obeyed.zero_terminal_snr == (bool(found) if wanted == "auto" else wanted == "on")


def test_untouched_settings_leave_a_process_as_it_is():
    assert Ddpm(**obeying(SCHEDULE, NoiseSettings())) == Ddpm(**SCHEDULE)
    assert obeying({"shift": 3.0}, NoiseSettings(zero_terminal_snr="on", min_timestep=9)) == {"shift": 3.0}
    short = Ddpm(**obeying(SCHEDULE | {"steps": 500}, NoiseSettings()))
    assert short.sample_timesteps(5000, torch.Generator().manual_seed(0)).max() == 499
