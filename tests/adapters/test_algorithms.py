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
from lora_core.adapters.files import load_lora, save_lora
from lora_core.adapters.loha import hadamard
from lora_core.adapters.lokr import factorization
from lora_core.errors import UserError
from lora_core.families import FAMILIES
from lora_core.families.base import Target
from lora_core.merge.deltas import change_of
from lora_core.merge.layer import Layer
from lora_core.merge.lora import load_lora as read_lora
from lora_core.settings import RunSettings
from tests.adapters.helpers import frozen_parts, run_model

VARIANTS = {
    "lora": {"algo": "lora"},
    "lora rs": {"algo": "lora", "rs_lora": True},
    "locon": {"algo": "locon", "conv_rank": 2, "conv_alpha": 1.0},
    "loha": {"algo": "loha", "conv_rank": 2, "conv_alpha": 1.0},
    "loha rs": {"algo": "loha", "conv_rank": 2, "rs_lora": True},
    "lokr": {"algo": "lokr", "conv_rank": 2, "conv_alpha": 1.0},
    "lokr factor": {"algo": "lokr", "conv_rank": 2, "conv_alpha": 1.0, "factor": 2},
    "lokr full": {"algo": "lokr", "conv_rank": 2, "factor": 4, "full_matrix": True},
    "lokr both": {"algo": "lokr", "conv_rank": 1, "rank": 1, "alpha": 0.5, "decompose_both": True},
    "dora": {"algo": "dora", "conv_rank": 2, "conv_alpha": 1.0},
    "dora rs": {"algo": "dora", "conv_rank": 2, "rs_lora": True},
    "loha dora": {"algo": "loha", "conv_rank": 2, "conv_alpha": 1.0, "weight_decompose": True},
    "lokr dora": {"algo": "lokr", "conv_rank": 2, "factor": 2, "weight_decompose": True},
    "lokr full dora": {"algo": "lokr", "conv_rank": 2, "factor": 4, "full_matrix": True, "weight_decompose": True},
    "oft": {"algo": "oft", "rank": 4, "conv_rank": 8},
    "oft limited": {"algo": "oft", "rank": 4, "conv_rank": 8, "constraint": 0.03},
}
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
on_models = pytest.mark.parametrize("variant", VARIANTS)
NAME = "lora_unet_x"


def settings_of(variant: str, **changes):
    values = {"rank": 3, "alpha": 1.5} | VARIANTS[variant] | changes
    if values["algo"] == "oft":
        del values["alpha"]
    return RunSettings.model_validate({"network": values}).network


def randomised(network, seed=3):
    """The network as after some training: every number has moved."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return network


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


# ---- the whole tiny model --------------------------------------------------------------------------------------------


def components_of(parts):
    networks = {"unet": parts.unet, "text_encoder": parts.text_encoder}
    return SimpleNamespace(denoiser=parts.unet, text_encoder=parts.text_encoder, part=networks.__getitem__)


def targets_of(parts, variant):
    components = components_of(parts)
    convolutions = settings_of(variant).convolutions
    return FAMILIES["sd1"].adapter_targets(components, text_parts=("text_encoder",), convolutions=convolutions)


def on_model(variant, seed=1, **changes):
    parts = frozen_parts()
    targets = targets_of(parts, variant)
    network = AdapterNetwork.create(targets, settings_of(variant, **changes), seed)
    return SimpleNamespace(parts=parts, targets=targets, network=network)


def scales_norms(settings):
    return hasattr(settings, "scale_weight_norms") and not getattr(settings, "weight_decompose", False)


def steps(made, first, last, optimizer):
    """Trains the tiny model to answer with zeros; returns the losses."""
    losses = []
    for step in range(first, last):
        torch.manual_seed(step)
        loss = run_model(made.parts).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if scales_norms(made.settings):
            made.network.scale_weight_norms(2.0)
        losses.append(loss.item())
    return losses


def learner(variant, **changes):
    made = on_model(variant, **changes)
    made.settings = settings_of(variant, **changes)
    made.network.attach().train()
    return made, torch.optim.AdamW(made.network.parameters(), lr=6e-3)


@on_models
def test_training_lowers_the_loss_and_moves_every_number_group(variant):
    made, optimizer = learner(variant)
    before = {name: p.detach().clone() for name, p in made.network.named_parameters()}
    losses = steps(made, 0, 8, optimizer)
    assert losses[-1] < 0.8 * losses[0]
    still = [name for name, p in made.network.named_parameters() if torch.equal(p, before[name])]
    assert not still


@on_models
def test_stopped_and_continued_it_is_the_unbroken_run_bit_for_bit(variant):
    dropout = {"rank_dropout": 0.1, "module_dropout": 0.1}
    whole, whole_optimizer = learner(variant, **dropout)
    steps(whole, 0, 4, whole_optimizer)
    first, first_optimizer = learner(variant, **dropout)
    steps(first, 0, 2, first_optimizer)
    second, second_optimizer = learner(variant, **dropout)
    second.network.load_state_dict(first.network.state_dict())
    second_optimizer.load_state_dict(first_optimizer.state_dict())
    steps(second, 2, 4, second_optimizer)
    expected, found = whole.network.state_dict_kohya(), second.network.state_dict_kohya()
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())


@on_models
@torch.no_grad()
def test_merged_into_a_model_it_answers_as_attached(variant):
    made = on_model(variant)
    base = run_model(made.parts)
    randomised(made.network).attach()
    attached = run_model(made.parts)
    made.network.detach()
    assert torch.equal(run_model(made.parts), base)
    assert (attached - base).abs().max() > 1e-2
    for adapter in made.network:
        adapter.layer.weight.data = adapter.apply_to(adapter.layer.weight)
    torch.testing.assert_close(run_model(made.parts), attached, rtol=1e-3, atol=1e-3)


@on_models
@torch.no_grad()
def test_saved_and_loaded_is_the_same_network(variant, tmp_path):
    made = on_model(variant)
    path = tmp_path / "x.safetensors"
    save_lora(randomised(made.network), {}, path, "float")
    again = on_model(variant, seed=9)
    load_lora(again.network, path)
    everything = FAMILIES["sd1"].adapter_targets(
        components_of(made.parts),
        text_parts=("text_encoder",),
        convolutions=True,
    )
    from_file = AdapterNetwork.from_kohya(everything, made.network.state_dict_kohya())
    assert [a.name for a in from_file] == [a.name for a in made.network]
    tolerance = 1e-5 if variant == "oft limited" else 0.0  # the limit is worked into what is saved
    for own, other, read in zip(made.network, again.network, from_file, strict=True):
        torch.testing.assert_close(own.delta_weight(), other.delta_weight(), rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(own.delta_weight(), read.delta_weight(), rtol=tolerance, atol=tolerance)
        assert isinstance(own, type(read)) or own.title == "LoRA"


@on_models
def test_merge_reads_the_whole_file(variant, tmp_path):
    network = randomised(on_model(variant).network)
    save_lora(network, {"ss_base_model_version": "sd_v1"}, tmp_path / "x.safetensors", "float")
    file = read_lora(tmp_path / "x.safetensors")
    assert not file.junk
    assert set(file.names()) == {adapter.name for adapter in network}
    for adapter in network:
        found = file.change(adapter.name, adapter.layer.weight.numpy())
        np.testing.assert_allclose(found.dense(), adapter.delta_weight().numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if scales_norms(settings_of(v))])
@torch.no_grad()
def test_scale_weight_norms(variant):
    network = randomised(on_model(variant).network)
    before = [adapter.delta_weight() for adapter in network]
    norms = torch.stack([delta.norm() for delta in before])
    limit = 1.01 * float(norms.median())
    torch.testing.assert_close(torch.stack([a.weight_norm() for a in network]), norms, rtol=1e-4, atol=1e-5)
    count, mean = network.scale_weight_norms(limit)
    assert int(count) == int((norms > limit).sum())
    assert float(mean) == pytest.approx(float(norms.clamp(max=limit).mean()), rel=1e-4)
    for adapter, old in zip(network, before, strict=True):
        ratio = min(1.0, limit / float(old.norm()))
        torch.testing.assert_close(adapter.delta_weight(), old * ratio, rtol=1e-3, atol=1e-6)


# ---- what is trained -------------------------------------------------------------------------------------------------


def test_convolutions_are_those_that_sd_scripts_and_lycoris_train():
    parts = frozen_parts()
    plain, more = ({t.name for t in targets_of(parts, variant)} for variant in ("lora", "locon"))
    added = more - plain
    assert plain < more
    ends = {name.rsplit("_0_", 1)[-1].rsplit("_1_", 1)[-1] for name in added}
    assert ends == {"conv1", "conv2", "conv_shortcut", "time_emb_proj", "conv"}
    assert {"lora_unet_down_blocks_0_downsamplers_0_conv", "lora_unet_up_blocks_0_upsamplers_0_conv"} <= added
    assert not {"lora_unet_conv_in", "lora_unet_conv_out", "lora_unet_time_embedding_linear_1"} & more


def test_only_kernels_have_the_rank_of_convolutions():
    network = on_model("locon").network
    ranks = {(a.is_conv and a.layer.kernel_size != (1, 1), a.rank, a.alpha) for a in network}
    assert ranks == {(True, 2, 1.0), (False, 3, 1.5)}


# ---- going on from a file --------------------------------------------------------------------------------------------


def continued(variant, state, **changes):
    parts = frozen_parts()
    return AdapterNetwork.continued(targets_of(parts, variant), settings_of(variant, **changes), 1, state)


@on_models
def test_it_goes_on_from_the_numbers_of_a_file(variant):
    state = randomised(on_model(variant).network).state_dict_kohya()
    same, taken = continued(variant, state), continued(variant, state, dim_from_weights=True, rank=7, alpha=7.0)
    for network in (same, taken):
        assert all(torch.equal(state[key], tensor) for key, tensor in network.state_dict_kohya().items())


def test_layers_the_file_lacks_start_new_and_dropout_is_the_settings():
    state = randomised(on_model("locon").network).state_dict_kohya()
    unet = {key: tensor for key, tensor in state.items() if key.startswith("lora_unet")}
    for taken in (False, True):
        network = continued("locon", unet, dim_from_weights=taken, module_dropout=0.25)
        fresh = [bool(a.delta_weight().any()) for a in network.of("text_encoder")]
        assert not any(fresh)
        assert all(a.delta_weight().any() for a in network.of("unet"))
        assert {a.dropout.module for a in network} == {0.25}


@pytest.mark.parametrize(
    ("variant", "changes", "of", "words"),
    [
        ("lora", {}, "locon", "not trained here: lora_unet_"),
        ("loha", {}, "locon", "not part of a plain LoHa"),
        ("lora", {"rank": 4}, "lora", "has the shape"),
        ("lora", {"alpha": 1.0}, "lora", "network alpha is 1"),
        ("locon", {"dim_from_weights": True}, "dora", "not part of a plain LoCon"),
        ("lokr", {}, "lokr full", r"lokr_w2.* is not part of|is missing"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_words(variant, changes, of, words):
    with pytest.raises(UserError, match=words):
        continued(variant, on_model(of).network.state_dict_kohya(), **changes)
    with pytest.raises(UserError, match="no LoRA layer"):
        continued(variant, {})
