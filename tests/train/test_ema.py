"""The running average equals diffusers', leaves the weights alone, and goes on where it was."""

import pytest
import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file

from lora_core.train.ema import Ema, decay_at


def parameters(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.nn.Parameter]:
    random = torch.Generator().manual_seed(seed)
    shapes = {"down": (3, 5), "up": (5, 3)}
    return {k: torch.nn.Parameter(torch.randn(s, generator=random).to(dtype)) for k, s in shapes.items()}


def train(own, step: int) -> None:
    random = torch.Generator().manual_seed(100 + step)
    with torch.no_grad():
        for parameter in own.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_equals_the_average_of_diffusers(decay):
    own = parameters()
    ema = Ema(own.items(), decay)
    oracle = EMAModel(own.values(), decay=decay)
    for step in range(1, 40):
        train(own, step)
        ema.update(step)
        oracle.step(own.values())
        assert decay_at(step, decay) == pytest.approx(oracle.cur_decay_value)
    for average, expected in zip(ema.averages, oracle.shadow_params, strict=True):
        torch.testing.assert_close(average, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inside_the_weights_are_the_average_and_afterwards_the_same_tensors(dtype):
    own = parameters(dtype=dtype)
    ema = Ema(own.items(), 0.9)
    train(own, 1)
    before = {name: (parameter.data_ptr(), parameter.detach().clone()) for name, parameter in own.items()}
    with ema.weights():
        assert all(parameter.dtype == torch.float32 for parameter in own.values())
        assert not torch.equal(own["up"], before["up"][1].float())
    for name, parameter in own.items():
        assert parameter.data_ptr() == before[name][0]
        assert torch.equal(parameter, before[name][1])


def test_restored_from_a_file_it_goes_on_bit_for_bit(tmp_path):
    own = parameters()
    unbroken = Ema(own.items(), 0.99)
    for step in range(1, 9):
        train(own, step)
        unbroken.update(step)
        if step == 4:
            save_file(unbroken.state_dict(), tmp_path / "ema.safetensors")
    again = parameters()
    for step in range(1, 5):
        train(again, step)
    resumed = Ema(again.items(), 0.99)
    resumed.load_state_dict(load_file(tmp_path / "ema.safetensors"))
    for step in range(5, 9):
        train(again, step)
        resumed.update(step)
    for one, other in zip(unbroken.averages, resumed.averages, strict=True):
        assert torch.equal(one, other)


def test_a_state_that_does_not_fit_is_refused():
    ema = Ema(parameters().items(), 0.9)
    with pytest.raises(KeyError):
        ema.load_state_dict({"down": torch.zeros(3, 5)})
    with pytest.raises(RuntimeError):
        ema.load_state_dict({"down": torch.zeros(3, 5), "up": torch.zeros(1)})
