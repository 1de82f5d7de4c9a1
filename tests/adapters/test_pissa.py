"""PiSSA: starts from the weight's principal vectors, changes nothing at the start, and is saved as a plain LoRA."""

import pytest
import torch

from lora_core.adapters import AdapterNetwork
from lora_core.adapters.pissa import principal
from lora_core.families.base import Target
from lora_core.settings import RunSettings
from tests.adapters.test_algorithms import LAYERS, NAME, bare
from tests.adapters.variants import randomised


def settings(**changes):
    values = {"algo": "locon", "init": "pissa", "rank": 5, "alpha": 2.5, "conv_rank": 3, "conv_alpha": 1.0}
    return RunSettings.model_validate({"network": values | changes}).network


def made(kind, *, trained=True, dtype=torch.float32, **changes):
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    layer = make().to(dtype).requires_grad_(False)
    network = AdapterNetwork.create([Target(NAME, layer, "unet")], settings(**changes), seed=1)
    (adapter,) = randomised(network) if trained else network
    return layer, network, adapter, torch.randn(shape).to(dtype)


@pytest.mark.parametrize("kind", LAYERS)
def test_it_starts_at_the_best_approximation_of_the_weight_and_changes_nothing(kind):
    layer, network, adapter, x = made(kind, trained=False)
    u, s, v = torch.linalg.svd(layer.weight.double().flatten(1), full_matrices=False)
    best = (u[:, : adapter.rank] * s[: adapter.rank]) @ v[: adapter.rank]
    start = adapter.up.double() @ adapter.down.double() * adapter.alpha / adapter.rank
    torch.testing.assert_close(start, best, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(adapter.up.norm(dim=0), adapter.down.norm(dim=1))
    before = layer(x)
    network.attach()
    assert torch.equal(layer(x), before)
    assert not adapter.delta_weight().any()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("multiplier", [1.0, 0.4])
def test_the_file_is_a_plain_lora_of_twice_the_rank_with_the_same_change(kind, multiplier):
    layer, network, adapter, x = made(kind)
    base = layer(x)
    network.multiplier = multiplier
    network.attach()
    y, delta = layer(x), adapter.delta_weight()
    torch.testing.assert_close(y - base, bare(layer, x, delta), rtol=1e-4, atol=1e-4)
    start = adapter.start_up.double() @ adapter.start_down.double()
    formula = (adapter.up.double() @ adapter.down.double() - start) * multiplier * adapter.alpha / adapter.rank
    torch.testing.assert_close(delta.double(), formula.view(layer.weight.shape), rtol=1e-4, atol=1e-5)
    network.detach()
    read = AdapterNetwork.from_kohya([Target(NAME, layer, "unet")], network.state_dict_kohya())
    (plain,) = read
    assert (plain.rank, plain.alpha) == (2 * adapter.rank, 2 * adapter.alpha)
    read.multiplier = multiplier
    torch.testing.assert_close(plain.delta_weight(), delta, rtol=1e-6, atol=1e-7)
    read.attach()
    torch.testing.assert_close(layer(x), y, rtol=1e-5, atol=1e-5)


def test_rounding_to_fp16_costs_the_change_and_not_the_weight_its_digits():
    layer, network, adapter, _ = made("linear", trained=False)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 1e-3 * torch.randn(parameter.shape)
    delta = adapter.delta_weight()
    (read,) = AdapterNetwork.from_kohya([Target(NAME, layer, "unet")], network.state_dict_kohya(torch.float16))
    assert (read.delta_weight() - delta).norm() < 1e-3 * delta.norm()


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_are_those_of_the_product(kind):
    layer, network, adapter, x = made(kind)
    network.attach()
    direction = torch.randn_like(layer(x))
    ours = torch.autograd.grad((layer(x) * direction).sum(), [adapter.up, adapter.down])
    network.detach()
    change = (adapter.up @ adapter.down - adapter.start_up @ adapter.start_down) * adapter.alpha / adapter.rank
    y = bare(layer, x, layer.weight + change.view(layer.weight.shape))
    plain = torch.autograd.grad((y * direction).sum(), [adapter.up, adapter.down])
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


@pytest.mark.parametrize("dropout", ["network_dropout", "rank_dropout"])
@pytest.mark.parametrize("kind", ["linear", "3x3"])
def test_dropout_leaves_the_start_alone_and_is_right_on_average(kind, dropout):
    layer, network, _, x = made(kind, trained=False, **{dropout: 0.5})
    before = layer(x)
    network.attach().train()
    assert torch.equal(layer(x), before)
    randomised(network)
    exact = network.eval() and layer(x)
    network.train()
    draws = torch.stack([layer(x).detach() for _ in range(300)])
    assert (draws.std(0) > 0).any()
    assert (draws.mean(0) - exact).norm() < 0.25 * (exact - before).norm()


def test_a_training_state_holds_the_start():
    layer, network, adapter, _ = made("3x3")
    layer.weight.data += 1  # what is drawn anew would differ
    again = AdapterNetwork.create([Target(NAME, layer, "unet")], settings(), seed=2)
    again.load_state_dict(network.state_dict())
    (other,) = again
    assert torch.equal(other.delta_weight(), adapter.delta_weight())


def test_the_range_finder_comes_close_to_the_best_approximation():
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(side, 160, generator=generator)).Q for side in (400, 300))
    s = 0.9 ** torch.arange(160.0)
    up, down = principal((u * s) @ v.t(), 8, generator)
    error = ((u * s) @ v.t() - up @ down).norm()
    assert error < 1.001 * s[8:].norm()


def test_a_rank_above_the_sides_of_the_weight_is_filled_up_with_nothing():
    layer, network, adapter, x = made("linear", trained=False, rank=30, alpha=30.0)
    torch.testing.assert_close(adapter.up @ adapter.down, layer.weight, rtol=1e-4, atol=1e-5)
    before = layer(x)
    network.attach()
    assert torch.equal(layer(x), before)
