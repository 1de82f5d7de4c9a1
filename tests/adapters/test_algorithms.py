"""Every algorithm on every kind of layer, against lora_core.merge, which reads files in NumPy and by its own code."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file
from torch import nn
from torch.utils.checkpoint import checkpoint

from lora_core.adapters import ALGORITHMS, AdapterNetwork
from lora_core.adapters.dora import lengths
from lora_core.adapters.files import save_lora
from lora_core.adapters.loha import hadamard
from lora_core.adapters.lokr import factorization
from lora_core.errors import UserError
from lora_core.families.base import Target
from lora_core.merge.deltas import change_of
from lora_core.merge.layer import Layer
from tests.adapters.variants import VARIANTS, randomised, settings_of

LAYERS = {
    "linear": (lambda: nn.Linear(24, 40), (2, 5, 24)),
    "linear without bias": (lambda: nn.Linear(24, 40, bias=False), (3, 24)),
    "1x1": (lambda: nn.Conv2d(24, 40, 1), (2, 24, 4, 3)),
    "3x3": (lambda: nn.Conv2d(24, 40, 3, padding=1), (2, 24, 5, 4)),
    "3x3 with step 2": (lambda: nn.Conv2d(24, 40, 3, stride=2, padding=1), (2, 24, 6, 5)),
}
ON_LAYERS = [
    pytest.param(variant, layer, id=f"{variant}, {layer}")
    for variant in VARIANTS
    for layer in LAYERS
    if not (variant.startswith("lora") and layer.startswith("3x3"))
]
on_layers = pytest.mark.parametrize(("variant", "kind"), ON_LAYERS)
NAME = "lora_unet_x"


def on_layer(variant, kind, *, trained=True, dtype=torch.float32, **changes):
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    layer = make().to(dtype).requires_grad_(False)
    network = AdapterNetwork.create([Target(NAME, layer, "unet")], settings_of(variant, **changes), seed=1)
    (adapter,) = randomised(network) if trained else network
    return SimpleNamespace(layer=layer, network=network, adapter=adapter, x=torch.randn(shape).to(dtype))


def bare(layer, x, weight):
    """What the layer answers with another weight and no bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    return F.conv2d(x, weight, None, layer.stride, layer.padding)


def read_by_merge(path: Path, base: np.ndarray) -> np.ndarray:
    """The change that lora_core.merge finds in a file of one layer."""
    tensors = {key.removeprefix(f"{NAME}."): values for key, values in load_file(path).items()}
    return change_of(Layer(NAME, NAME, tensors), base, base.shape).dense()


def test_every_algorithm_is_tried_here():
    assert {values["algo"] for values in VARIANTS.values()} == set(ALGORITHMS)


# ---- one layer -------------------------------------------------------------------------------------------------------


@on_layers
def test_a_new_adapter_changes_nothing(variant, kind):
    made = on_layer(variant, kind, trained=False)
    before = made.layer(made.x)
    made.network.attach()
    assert torch.equal(made.layer(made.x), before)
    assert not made.adapter.delta_weight().any()


@on_layers
@pytest.mark.parametrize("multiplier", [1.0, 0.4])
def test_delta_weight_is_the_difference_of_the_forward_pass(variant, kind, multiplier):
    made = on_layer(variant, kind)
    base = made.layer(made.x)
    made.network.attach().multiplier = multiplier
    delta = made.adapter.delta_weight()
    assert delta.shape == made.layer.weight.shape
    assert delta.abs().max() > 0.01
    torch.testing.assert_close(made.layer(made.x) - base, bare(made.layer, made.x, delta), rtol=1e-4, atol=1e-4)
    made.network.multiplier = 0
    assert torch.equal(made.layer(made.x), base)


@on_layers
def test_merge_reads_the_same_change_from_the_file(variant, kind, tmp_path):
    made = on_layer(variant, kind)
    save_lora(made.network, {}, tmp_path / "x.safetensors", "float")
    found = read_by_merge(tmp_path / "x.safetensors", made.layer.weight.numpy())
    np.testing.assert_allclose(found, made.adapter.delta_weight().numpy(), rtol=1e-4, atol=1e-5)


@on_layers
def test_applied_to_the_weight_it_answers_as_attached(variant, kind):
    made = on_layer(variant, kind)
    made.network.attach()
    attached = made.layer(made.x)
    made.network.detach()
    made.layer.weight.data = made.adapter.apply_to(made.layer.weight)
    torch.testing.assert_close(made.layer(made.x), attached, rtol=1e-4, atol=1e-4)


@on_layers
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_format_and_trains_in_float32(variant, kind, dtype):
    exact, made = on_layer(variant, kind), on_layer(variant, kind, dtype=dtype)
    exact.network.attach()
    made.network.attach()
    y = made.layer(made.x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), exact.layer(made.x.float()), rtol=0.1, atol=0.1)
    y.float().square().mean().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in made.network.parameters())


@on_layers
def test_gradients_are_those_of_the_weight_written_out(variant, kind):
    """Forward passes are arranged to save memory; their gradients equal those of W + delta as the formula has it."""
    made = on_layer(variant, kind)
    adapter, layer = made.adapter, made.layer
    made.network.attach()
    direction = torch.randn_like(layer(made.x))
    x = made.x.clone().requires_grad_(True)
    parameters = list(adapter.stored().values())
    ours = torch.autograd.grad((layer(x) * direction).sum(), [x, *parameters])
    made.network.detach()
    y = bare(layer, x, layer.weight + written_out(adapter))
    plain = torch.autograd.grad((y * direction).sum(), [x, *parameters])
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


def written_out(adapter):
    """The change as a differentiable formula of the stored parameters."""
    p, weight = adapter.stored(), adapter.layer.weight

    def half(name):
        return p[name] if name in p else p[f"{name}_a"] @ p[f"{name}_b"]

    if "hada_w1_a" in p:
        change = half("hada_w1") * half("hada_w2") * adapter.alpha / adapter.rank
    elif "oft_blocks" in p:
        return turned(adapter, p["oft_blocks"]) - weight
    elif "lokr_w1" in p or "lokr_w1_a" in p:
        scale = 1 if {"lokr_w1", "lokr_w2"} <= p.keys() else adapter.alpha / adapter.rank
        change = torch.kron(half("lokr_w1") * scale, half("lokr_w2").flatten(1))
    else:
        change = p["lora_up.weight"] @ p["lora_down.weight"] * adapter.alpha / adapter.rank
    change = change.view(weight.shape)
    if "dora_scale" not in p:
        return change
    changed = weight + change
    length = lengths(changed.detach(), 1)  # a constant: section 4.3 of the paper
    return changed * (p["dora_scale"] / length).view(1, -1, *[1] * (weight.ndim - 2)) - weight


def turned(adapter, blocks):
    """R' W by the formulas of LyCORIS' diag-oft, with the inverse written out."""
    q = blocks - blocks.transpose(1, 2)
    if adapter.limit is not None and q.norm() > adapter.limit:
        q = q * adapter.limit / q.norm()
    eye = torch.eye(q.shape[-1])
    r = (eye + q) @ (eye - q).inverse()
    return torch.block_diag(*r).t().matmul(adapter.layer.weight.flatten(1)).view(adapter.layer.weight.shape)


def test_gradients_of_the_elementwise_product_equal_finite_differences():
    torch.manual_seed(0)
    shapes = (5, 2), (2, 7), (5, 2), (2, 7)
    factors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *f: hadamard(*f, 0.7), factors)


def test_dora_keeps_the_length_of_every_column_until_it_is_trained():
    made = on_layer("dora", "3x3")
    with torch.no_grad():
        made.adapter.magnitude.copy_(lengths(made.layer.weight, 1))
    changed = made.layer.weight + made.adapter.delta_weight()
    torch.testing.assert_close(lengths(changed, 1), lengths(made.layer.weight, 1))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("variant", ["dora", "loha dora", "lokr dora"])
@pytest.mark.parametrize("multiplier", [1.0, 0.4])
def test_dora_files_with_lengths_of_outputs_are_played_and_written_as_they_are(kind, variant, multiplier, tmp_path):
    """As LyCORIS writes them by default."""
    made = on_layer(variant, kind)
    tensors = made.adapter.tensors()
    outputs, ones = made.layer.weight.shape[0], [1] * (made.layer.weight.ndim - 1)
    tensors["dora_scale"] = lengths(made.layer.weight, 0).view(outputs, *ones) * torch.rand(outputs, *ones)
    made.network.load_kohya({f"{NAME}.{kind}": tensor for kind, tensor in tensors.items()})
    save_lora(made.network, {}, tmp_path / "x.safetensors", "float")
    found = read_by_merge(tmp_path / "x.safetensors", made.layer.weight.numpy())
    np.testing.assert_allclose(found, made.adapter.delta_weight().numpy(), rtol=1e-4, atol=1e-5)
    base = made.layer(made.x)
    made.network.attach().multiplier = multiplier
    change = bare(made.layer, made.x, torch.from_numpy(found) * multiplier)
    torch.testing.assert_close(made.layer(made.x) - base, change, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("alpha", [None, 0.0, 0.005, 1000.0])
@pytest.mark.parametrize("kind", ["linear", "3x3"])
def test_oft_files_of_lycoris_are_played_with_their_limit_and_saved_without(kind, alpha, tmp_path):
    layer = on_layer("oft", kind, trained=False).layer
    blocks = 0.3 * torch.randn(10, 4, 4, generator=torch.Generator().manual_seed(1))
    state = {f"{NAME}.oft_blocks": blocks} | ({} if alpha is None else {f"{NAME}.alpha": torch.tensor(alpha)})
    network = AdapterNetwork.from_kohya([Target(NAME, layer, "unet")], state)
    (adapter,) = network
    q = blocks - blocks.transpose(1, 2)
    if alpha and q.norm() > alpha * 40:
        q = q * alpha * 40 / q.norm()
    r = (torch.eye(4) + q) @ (torch.eye(4) - q).inverse()
    weight = layer.weight.view(10, 4, *layer.weight.shape[1:])
    turned = torch.einsum("knm,kn...->km...", r, weight).reshape(layer.weight.shape)
    torch.testing.assert_close(adapter.delta_weight(), turned - layer.weight, rtol=1e-4, atol=1e-5)
    save_lora(network, {}, tmp_path / "x.safetensors", "float")
    found = read_by_merge(tmp_path / "x.safetensors", layer.weight.numpy())
    np.testing.assert_allclose(found, adapter.delta_weight().numpy(), rtol=1e-4, atol=1e-5)
    saved = load_file(tmp_path / "x.safetensors")
    size = saved[f"{NAME}.oft_blocks"]
    assert np.linalg.norm(size - size.transpose(0, 2, 1)) < float(saved[f"{NAME}.alpha"])  # ComfyUI's limit


def test_oft_keeps_the_lengths_of_what_it_turns_and_its_limit():
    made = on_layer("oft limited", "linear")
    changed = made.layer.weight + made.adapter.delta_weight()
    torch.testing.assert_close(changed.norm(), made.layer.weight.norm())
    q = made.adapter.tensors()["oft_blocks"]
    torch.testing.assert_close((q - q.transpose(1, 2)).norm(), torch.tensor(0.03 * 40))


@pytest.mark.parametrize("shape", [(5, 4, 4), (40,), (2, 5, 4, 4)])
def test_oft_blocks_of_another_layer_are_refused(shape):
    layer = on_layer("oft", "linear").layer
    with pytest.raises(UserError, match="has the shape"):
        AdapterNetwork.from_kohya([Target(NAME, layer, "unet")], {f"{NAME}.oft_blocks": torch.zeros(shape)})


def test_rs_lora_is_alpha_by_the_root_of_the_rank_and_the_file_plays_so():
    plain, stable = on_layer("lora", "linear", rank=16, alpha=8.0), on_layer("lora rs", "linear", rank=16, alpha=8.0)
    torch.testing.assert_close(stable.adapter.delta_weight(), plain.adapter.delta_weight() * 4)
    assert float(stable.adapter.tensors()["alpha"]) == 8 * 16**0.5


DROPOUTS = {"rank_dropout": 0.4, "module_dropout": 0.5, "network_dropout": 0.4}
ON_LAYERS_DROPPED = [
    pytest.param(*on.values, dropout, id=f"{on.id}, {dropout}")
    for on in ON_LAYERS
    for dropout in DROPOUTS
    if hasattr(settings_of(on.values[0]), dropout)
]


@pytest.mark.parametrize(("variant", "kind", "dropout"), ON_LAYERS_DROPPED)
def test_dropout_is_right_on_average_and_follows_the_seed(variant, kind, dropout):
    made = on_layer(variant, kind, **{dropout: DROPOUTS[dropout]})
    made.network.attach().train()
    draws = []
    for seed in range(40):
        torch.manual_seed(seed)
        draws.append(made.layer(made.x))
    assert any(not torch.equal(draws[0], draw) for draw in draws)
    torch.manual_seed(0)
    assert torch.equal(made.layer(made.x), draws[0])
    torch.manual_seed(0)
    again = checkpoint(made.layer, made.x.requires_grad_(True), use_reentrant=False)
    assert torch.equal(again, draws[0])
    made.network.eval()
    state = torch.get_rng_state()
    exact = made.layer(made.x)
    assert torch.equal(state, torch.get_rng_state())
    made.network.detach()
    change = exact - made.layer(made.x)
    missing = (torch.stack(draws).mean(0) - exact).norm() / change.norm()
    expected = 0.5 if dropout == "module_dropout" else 0.0
    assert abs(missing.item() - expected) < 0.35


# ---- names and shapes as LyCORIS has them ----------------------------------------------------------------------------

SHAPES = {
    ("locon", "3x3"): {"lora_down.weight": (2, 24, 3, 3), "lora_up.weight": (40, 2, 1, 1)},
    ("locon", "1x1"): {"lora_down.weight": (3, 24, 1, 1), "lora_up.weight": (40, 3, 1, 1)},
    ("loha", "linear"): {"hada_w1_a": (40, 3), "hada_w1_b": (3, 24), "hada_w2_a": (40, 3), "hada_w2_b": (3, 24)},
    ("loha", "3x3"): {"hada_w1_a": (40, 2), "hada_w1_b": (2, 216), "hada_w2_a": (40, 2), "hada_w2_b": (2, 216)},
    ("lokr", "linear"): {"lokr_w1": (5, 4), "lokr_w2_a": (8, 3), "lokr_w2_b": (3, 6)},
    ("lokr", "3x3"): {"lokr_w1": (5, 4), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 54)},
    ("lokr factor", "linear"): {"lokr_w1": (2, 2), "lokr_w2_a": (20, 3), "lokr_w2_b": (3, 12)},
    ("lokr full", "linear"): {"lokr_w1": (4, 4), "lokr_w2": (10, 6)},
    ("lokr full", "1x1"): {"lokr_w1": (4, 4), "lokr_w2": (10, 6, 1, 1)},
    ("lokr full", "3x3"): {"lokr_w1": (4, 4), "lokr_w2": (10, 6, 3, 3)},
    ("lokr both", "linear"): {"lokr_w1_a": (5, 1), "lokr_w1_b": (1, 4), "lokr_w2_a": (8, 1), "lokr_w2_b": (1, 6)},
    ("loha dora", "3x3"): {
        "hada_w1_a": (40, 2),
        "hada_w1_b": (2, 216),
        "hada_w2_a": (40, 2),
        "hada_w2_b": (2, 216),
        "dora_scale": (1, 24, 1, 1),
    },
    ("lokr dora", "linear"): {
        "lokr_w1": (2, 2),
        "lokr_w2_a": (20, 3),
        "lokr_w2_b": (3, 12),
        "dora_scale": (1, 24),
    },
    ("oft", "linear"): {"oft_blocks": (10, 4, 4)},
    ("oft", "3x3"): {"oft_blocks": (8, 5, 5)},
    ("dora", "linear"): {"lora_down.weight": (3, 24), "lora_up.weight": (40, 3), "dora_scale": (1, 24)},
    ("dora", "3x3"): {
        "lora_down.weight": (2, 24, 3, 3),
        "lora_up.weight": (40, 2, 1, 1),
        "dora_scale": (1, 24, 1, 1),
    },
}


@pytest.mark.parametrize(("variant", "kind"), SHAPES, ids=", ".join)
def test_files_have_the_names_and_shapes_of_lycoris(variant, kind):
    state = on_layer(variant, kind).network.state_dict_kohya()
    found = {key.removeprefix(f"{NAME}."): tuple(tensor.shape) for key, tensor in state.items()}
    assert found == SHAPES[variant, kind] | {"alpha": ()}


@pytest.mark.parametrize(
    ("dimension", "by_factor"),
    [
        (127, {None: (1, 127), 2: (1, 127), 16: (1, 127)}),
        (128, {None: (8, 16), 2: (2, 64), 4: (4, 32), 8: (8, 16), 16: (8, 16)}),
        (250, {None: (10, 25), 2: (2, 125), 4: (2, 125), 8: (5, 50), 16: (10, 25)}),
        (360, {None: (18, 20), 2: (2, 180), 4: (4, 90), 8: (8, 45)}),
        (1024, {None: (32, 32), 2: (2, 512), 8: (8, 128), 16: (16, 64)}),
        (320, {None: (16, 20), 64: (5, 64)}),
    ],
)
def test_sides_are_split_by_the_rule_of_lycoris(dimension, by_factor):
    assert {factor: factorization(dimension, factor) for factor in by_factor} == by_factor
