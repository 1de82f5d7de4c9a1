"""Frozen weights in 8 and 4 bits: how exact they are, that gradients pass, and that a model made of them is one."""

import pytest
import torch
from torch import nn

from lora_core.adapters import AdapterNetwork
from lora_core.families.base import Target
from lora_core.families.compact import CompactLinear, shrink, shrink_blocks, write_weight
from lora_core.settings import RunSettings

CPU = torch.device("cpu")
ALLOWED = {"int8": 0.008, "nf4": 0.1}
"""Relative error of normally distributed weights, root mean square."""
BYTES = {"int8": 1.04, "nf4": 0.57}
"""A weight, factors included."""


def linear(inputs=640, outputs=512, dtype=torch.float32, spread=0.02) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    generator = torch.Generator().manual_seed(0)
    layer.weight.data = torch.randn(outputs, inputs, generator=generator) * spread
    return layer.to(dtype).requires_grad_(False)


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("storage", ["int8", "nf4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_answers_and_gradients_are_those_of_the_weight_that_it_stands_for(storage, dtype):
    layer = linear(dtype=dtype)
    before, bias = layer.weight.detach().clone(), layer.bias
    shrink(layer, storage, CPU)
    assert type(layer) is CompactLinear
    assert layer.weight.dtype == dtype
    assert error(layer.weight, before) < ALLOWED[storage]
    x = torch.randn(3, 5, 640, dtype=dtype, requires_grad=True)
    answer, sent = layer(x), torch.randn(3, 5, 512, dtype=dtype)
    (gradient,) = torch.autograd.grad(answer, x, sent)
    torch.testing.assert_close(answer, nn.functional.linear(x, layer.weight, bias))
    torch.testing.assert_close(gradient, sent @ layer.weight)


@pytest.mark.parametrize("storage", ["int8", "nf4"])
def test_the_memory_is_what_is_promised(storage):
    layer = linear()
    shrink(layer, storage, CPU)
    kept = sum(buffer.numel() * buffer.element_size() for buffer in layer.buffers())
    assert kept <= BYTES[storage] * 640 * 512
    assert [name for name, _ in layer.named_parameters()] == ["bias"]


def test_int8_is_closer_than_fp8_at_the_same_size():
    weight = linear().weight
    layer = linear()
    shrink(layer, "int8", CPU)
    factor = 448 / weight.abs().max()
    fp8 = (weight * factor).to(torch.float8_e4m3fn).float() / factor
    assert 3 * error(layer.weight, weight) < error(fp8, weight) == pytest.approx(0.026, abs=0.003)


@pytest.mark.parametrize("weight", [torch.zeros(8, 64), torch.eye(64), torch.full((4, 100), -3.0), torch.ones(3, 7)])
def test_int8_of_weights_on_the_grid_is_exact(weight):
    """Zeros, rows of one size, and widths that no group divides."""
    layer = nn.Linear(weight.shape[1], len(weight)).requires_grad_(False)
    layer.weight.data = weight
    shrink(layer, "int8", CPU)
    torch.testing.assert_close(layer.weight, weight)


@pytest.mark.parametrize("storage", ["int8", "nf4"])
def test_another_weight_can_be_put_in(storage):
    layer, other = linear(), linear(spread=0.5)
    shrink(layer, storage, CPU)
    write_weight(layer, other.weight)
    assert error(layer.weight, other.weight) < ALLOWED[storage]
    write_weight(other, torch.zeros_like(other.weight))
    assert not other.weight.any()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj_in, self.blocks = nn.Linear(8, 8), nn.ModuleList([nn.Linear(8, 8), nn.Conv2d(8, 8, 1)])


def test_only_linear_layers_of_blocks_are_stored_so():
    net = Net().requires_grad_(False)
    assert shrink_blocks(net, "full", CPU) == 0
    assert shrink_blocks(net, "int8", CPU) == 1
    assert [type(m).__name__ for m in (net.proj_in, *net.blocks)] == ["Linear", "CompactLinear", "Conv2d"]


@pytest.mark.parametrize("algo", ["lora", "locon", "loha", "lokr", "dora", "oft"])
def test_every_algorithm_sits_on_it_and_comes_off(algo):
    """Zero effect at the start, and what the forward pass adds afterwards is ``delta_weight``."""
    layer = linear(64, 32, spread=0.2)
    shrink(layer, "int8", CPU)
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    before = layer(x)
    settings = RunSettings.model_validate({"network": {"algo": algo, "rank": 4}}).network
    network = AdapterNetwork.create([Target("lora_unet_x", layer, "unet")], settings, 0).attach()
    torch.testing.assert_close(layer(x), before, rtol=1e-4, atol=1e-5)
    (adapter,) = network
    for parameter in adapter.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    changed = layer(x)
    assert not torch.allclose(changed, before, atol=1e-2)
    expected = nn.functional.linear(x, layer.weight + adapter.delta_weight(), layer.bias)
    torch.testing.assert_close(changed, expected, rtol=1e-4, atol=1e-4)
    changed.sum().backward()
    assert all(parameter.grad is not None for parameter in adapter.parameters())
    network.detach()
    assert torch.equal(layer(x), before)
