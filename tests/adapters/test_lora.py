"""One adapter on one layer: its parts agree with each other, with plain operations and with finite differences."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from lora_core.adapters.fused import LowRank, low_rank_linears
from lora_core.adapters.lora import Dropout, Lora, product, product_norm
from lora_core.errors import UserError
from lora_core.settings import LoraSettings

LAYERS = {
    "linear": (lambda: nn.Linear(12, 20), (2, 5, 12)),
    "linear without bias": (lambda: nn.Linear(12, 20, bias=False), (2, 5, 12)),
    "linear on rows": (lambda: nn.Linear(12, 20), (3, 12)),
    "conv": (lambda: nn.Conv2d(12, 20, 1), (2, 12, 4, 3)),
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def settings(**changes):
    return LoraSettings(rank=4, alpha=2.0, **changes)


def adapter_on(layer, trained=True, **changes):
    layer.requires_grad_(False)
    generator = torch.Generator().manual_seed(7)
    lora = Lora.create("lora_unet_x", layer, "unet", settings(**changes), generator)
    if trained:
        lora.up.data.normal_(generator=generator)
    lora.attach()
    return lora


@pytest.fixture(params=LAYERS)
def layer_and_x(request):
    torch.manual_seed(0)
    make, shape = LAYERS[request.param]
    return make(), torch.randn(shape)


def in_fast_and_plain_way(lora, x):
    return {"as called": lora.layer(x), "composed": lora.composed(x)}


def test_starts_with_kaiming_uniform_down_and_changes_nothing(layer_and_x):
    layer, x = layer_and_x
    before = layer(x)
    lora = adapter_on(layer, trained=False)
    assert torch.equal(layer(x), before)
    assert lora.down.detach().abs().max() <= 1 / math.sqrt(12)
    assert float(lora.down.detach().std()) == pytest.approx(1 / math.sqrt(12) / math.sqrt(3), rel=0.25)
    assert not lora.up.any()


@pytest.mark.parametrize("multiplier", [1.0, 0.3, 2.0])
def test_delta_weight_is_the_difference_of_the_forward_pass(layer_and_x, multiplier):
    layer, x = layer_and_x
    base = layer(x)
    lora = adapter_on(layer)
    lora.multiplier = multiplier
    assert lora.delta_weight().shape == layer.weight.shape
    change = (F.conv2d if lora.is_conv else F.linear)(x, lora.delta_weight())
    for way, y in in_fast_and_plain_way(lora, x).items():
        torch.testing.assert_close(y - base, change, rtol=1e-4, atol=1e-5, msg=way)


@pytest.mark.parametrize("dtype", DTYPES)
def test_apply_to_equals_attached(layer_and_x, dtype):
    layer, x = layer_and_x
    layer, x = layer.to(dtype), x.to(dtype)
    lora = adapter_on(layer)
    attached = layer(x)
    assert attached.dtype == dtype
    lora.detach()
    layer.weight.data = lora.apply_to(layer.weight)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(layer(x), attached, **tolerance)


def test_detached_is_the_base_bit_for_bit_and_can_come_back(layer_and_x):
    layer, x = layer_and_x
    base = layer(x)
    lora = adapter_on(layer)
    changed = layer(x)
    assert not torch.equal(changed, base)
    lora.detach()
    assert "forward" not in layer.__dict__
    assert torch.equal(layer(x), base)
    lora.attach()
    lora.attach()
    assert torch.equal(layer(x), changed)
    lora.multiplier = 0.0
    assert torch.equal(layer(x), base)


def test_two_adapters_on_one_layer_add_up(layer_and_x):
    layer, x = layer_and_x
    base = layer(x)
    first, second = adapter_on(layer), adapter_on(layer)
    torch.testing.assert_close(layer(x) - base, 2 * (first.composed(x) - base), rtol=1e-4, atol=1e-5)
    with pytest.raises(AssertionError, match="on top"):
        first.detach()
    second.detach()
    first.detach()
    assert torch.equal(layer(x), base)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_the_fast_way_equal_plain_operations(dtype):
    torch.manual_seed(0)
    layer = nn.Linear(12, 20).to(dtype)
    lora = adapter_on(layer)
    x = torch.randn(2, 5, 12, dtype=dtype, requires_grad=True)
    inputs = (x, lora.down, lora.up)
    weight = torch.randn(2, 5, 20)
    fast, plain = (torch.autograd.grad((way(x).float() * weight).sum(), inputs) for way in (layer, lora.composed))
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.1}
    for a, b in zip(fast, plain, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize(
    ("outputs", "bias", "x_needs_grad"), itertools.product([(7,), (7, 3, 5)], [True, False], [True, False])
)
def test_gradients_of_the_fast_way_equal_finite_differences(outputs, bias, x_needs_grad):
    torch.manual_seed(1)
    n, rank = len(outputs), [2, 3, 4]

    def real(*shape, grad=True):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)

    weights = [(real(o, 6, grad=False), real(o, grad=False) if bias else None) for o in outputs]
    downs, ups = [real(r, 6) for r in rank[:n]], [real(o, r) for o, r in zip(outputs, rank, strict=False)]
    x = real(2, 4, 6, grad=x_needs_grad)

    def function(x, *matrices):
        layers = [LowRank(w, b, matrices[i], matrices[n + i], 0.5 + i) for i, (w, b) in enumerate(weights)]
        return low_rank_linears(x, layers)

    assert torch.autograd.gradcheck(function, (x, *downs, *ups))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("dropout", [{}, {"network_dropout": 0.3, "rank_dropout": 0.3, "module_dropout": 0.3}])
def test_gradient_checkpointing_changes_nothing(layer_and_x, reentrant, dropout):
    layer, x = layer_and_x
    lora = adapter_on(layer, **dropout)
    leaves = (x.requires_grad_(True), lora.down, lora.up)

    def gradients(run, seed):
        for leaf in leaves:
            leaf.grad = None
        torch.manual_seed(seed)
        y = run(x)
        (y.square().sum() + y.sum()).backward()
        return [leaf.grad for leaf in leaves]

    for seed in range(4):
        plain = gradients(layer, seed)
        again = gradients(lambda x: checkpoint(layer, x, use_reentrant=reentrant), seed)
        for a, b in zip(plain, again, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_over_a_float32_base(layer_and_x, dtype):
    layer, x = layer_and_x
    lora = adapter_on(layer)
    exact = layer(x)
    with torch.autocast("cpu", dtype):
        y = layer(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.1)
    y.float().sum().backward()
    assert lora.down.grad.dtype == torch.float32


# ---- dropout ---------------------------------------------------------------------------------------------------------


def kohya_forward(lora, base, x, network, rank, module):
    """The forward pass of sd-scripts as its documentation of the options describes it, draw for draw."""
    y = base(x)
    if module and torch.rand(1) < module:
        return y
    hidden = F.conv2d(x, lora.down[:, :, None, None]) if lora.is_conv else F.linear(x, lora.down)
    if network:
        hidden = F.dropout(hidden, network)
    scale = lora.alpha / lora.rank
    if rank:
        mask = torch.rand(hidden.size(0), lora.rank) > rank
        hidden = hidden * mask.view(
            (*mask.shape, 1, 1) if lora.is_conv else (mask.shape[0], *[1] * (x.ndim - 2), lora.rank)
        )
        scale /= 1 - rank
    up = F.conv2d(hidden, lora.up[:, :, None, None]) if lora.is_conv else F.linear(hidden, lora.up)
    return y + up * scale


@pytest.mark.parametrize(("network", "rank", "module"), [(0.4, 0, 0), (0, 0.4, 0), (0, 0, 0.5), (0.2, 0.2, 0.2)])
def test_dropout_is_the_one_of_sd_scripts(layer_and_x, network, rank, module):
    layer, x = layer_and_x
    lora = adapter_on(layer, network_dropout=network, rank_dropout=rank, module_dropout=module)
    for seed in range(8):
        torch.manual_seed(seed)
        ours = layer(x)
        torch.manual_seed(seed)
        theirs = kohya_forward(lora, lora._layer_forward, x, network, rank, module)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_nothing_is_dropped_in_evaluation_nor_drawn_without_dropout(layer_and_x):
    layer, x = layer_and_x
    lora = adapter_on(layer, network_dropout=0.5, rank_dropout=0.5, module_dropout=0.5)
    lora.eval()
    state = torch.get_rng_state()
    y = layer(x)
    torch.testing.assert_close(y, lora.composed(x))
    lora.train()
    lora.dropout = Dropout()
    torch.testing.assert_close(layer(x), y)
    assert torch.equal(state, torch.get_rng_state())


# ---- formulas, files -------------------------------------------------------------------------------------------------


def test_norm_without_the_product_equals_the_norm_of_the_product():
    up, down = torch.randn(30, 4), torch.randn(4, 50)
    assert product_norm(up, down) == pytest.approx(float(product(up, down, 1.0).norm()), rel=1e-5)


def test_a_file_of_another_shape_or_alpha_is_refused(layer_and_x):
    lora = adapter_on(layer_and_x[0])
    tensors = lora.tensors()
    other_rank = tensors | {"lora_down.weight": tensors["lora_down.weight"][:3]}
    with pytest.raises(UserError, match=r"lora_unet_x\.lora_down\.weight has the shape \(3, 12"):
        lora.load(other_rank)
    with pytest.raises(UserError, match=r"lora_unet_x\.alpha is 8"):
        lora.load(tensors | {"alpha": torch.tensor(8.0)})
    lora.load(tensors | {"alpha": torch.tensor(2.0, dtype=torch.bfloat16)})
