"""Rounding by chance is right on average, keeps what bf16 can hold, and lets small steps add up."""

import pytest
import torch

from lora_core.train.rounding import in_float32, stochastic_round


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("value", [1.001, -1.001, 3.1415927, 1e-30, -2.5e20, 0.1])
def test_the_mean_is_the_value_and_each_result_a_neighbour(value):
    x = torch.full((400_000,), value, dtype=torch.float32)
    rounded = stochastic_round(x, seeded()).double()
    low, high = rounded.min(), rounded.max()
    exact = x[0].double()
    assert low <= exact <= high
    assert len(rounded.unique()) == 2
    # Mean of n draws of low or high: standard error (high - low) / (2 sqrt n) at most.
    error = (high - low) / (2 * len(x) ** 0.5)
    assert abs(rounded.mean() - exact) < 4 * error
    share = (exact - low) / (high - low)
    assert ((rounded == high).double().mean() - share).abs() < 4 * 0.5 / len(x) ** 0.5


def test_what_bf16_holds_stays_and_what_is_not_finite_too():
    x = torch.randn(10_000, generator=seeded()).bfloat16()
    assert torch.equal(stochastic_round(x.float(), seeded(1)), x)
    odd = torch.tensor([float("inf"), float("-inf"), 0.0, -0.0])
    assert torch.equal(stochastic_round(odd, seeded()).float(), odd)
    assert stochastic_round(torch.full((100,), float("nan")), seeded()).isnan().all()


def steps(dtype: torch.dtype, count: int, *, wrapped: bool = True, seed: int = 0):
    """Plain descent by 1e-4 a step from 1: bf16 has 1/256 between its numbers there."""
    parameter = torch.nn.Parameter(torch.ones(2000, dtype=dtype))
    optimizer = torch.optim.SGD([parameter], lr=1e-4)
    for step in range(count):
        parameter.grad = torch.ones_like(parameter)
        if wrapped:
            with in_float32([parameter], seed + step):
                optimizer.step()
        else:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return parameter


def test_small_steps_are_not_lost():
    assert (steps(torch.bfloat16, 300, wrapped=False) == 1).all()
    moved = steps(torch.bfloat16, 300)
    assert moved.dtype == torch.bfloat16
    assert moved.double().mean().item() == pytest.approx(1 - 300 * 1e-4, abs=1e-3)


def test_the_seed_decides_and_float32_is_left_alone():
    assert torch.equal(steps(torch.bfloat16, 5), steps(torch.bfloat16, 5))
    assert not torch.equal(steps(torch.bfloat16, 5), steps(torch.bfloat16, 5, seed=99))
    assert torch.equal(steps(torch.float32, 5), steps(torch.float32, 5, wrapped=False))


def test_weights_without_gradients_keep_their_value():
    frozen = torch.nn.Parameter(torch.randn(50, generator=seeded()).bfloat16())
    moving = torch.nn.Parameter(torch.randn(3, 4, generator=seeded(1)).bfloat16())
    before = frozen.detach().clone()
    moving.grad = torch.ones_like(moving)
    optimizer = torch.optim.AdamW([frozen, moving], lr=0.1)
    with in_float32([frozen, moving], 0):
        optimizer.step()
    assert torch.equal(frozen, before)
    assert moving.shape == (3, 4)
    assert optimizer.state[moving]["exp_avg"].dtype == torch.float32
