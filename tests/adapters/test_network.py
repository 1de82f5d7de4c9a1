"""The network on a whole tiny model: what is trained, switched, saved, loaded and scaled."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lora_core.adapters import AdapterNetwork
from lora_core.adapters.lora import Lora
from lora_core.errors import UserError
from lora_core.families.base import Target
from tests.adapters.helpers import make_network, randomise, run_model, targets_of


def test_counts(tiny):
    network, targets = tiny.network, tiny.targets
    assert (
        network.count_modules() == len(targets) == network.count_modules("unet") + network.count_modules("text_encoder")
    )
    assert network.count_parameters() == sum(p.numel() for p in network.parameters())
    assert sum(len(network.parameters_of(part)) for part in ("unet", "text_encoder")) == 2 * len(targets)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in network.parameters())


def test_no_target_is_an_error():
    with pytest.raises(AssertionError):
        make_network([])


def test_same_seed_same_network_whatever_else_is_trained(tiny):
    again, other = make_network(tiny.targets), make_network(tiny.targets, seed=1)
    unet_only = make_network(targets_of(tiny.parts, text_encoder=False))
    state, state_again, state_other = (n.state_dict_kohya() for n in (tiny.network, again, other))
    for name, tensor in unet_only.state_dict_kohya().items():
        assert torch.equal(tensor, state_again[name])
    downs = [name for name in state if name.endswith("lora_down.weight")]
    assert all(torch.equal(state[name], state_again[name]) for name in downs)
    assert not any(torch.equal(state[name], state_other[name]) for name in downs)
    same_shape = [n for n in downs if state[n].shape == state[downs[0]].shape]
    assert len({state[n].flatten()[0].item() for n in same_shape}) == len(same_shape)


def test_creating_draws_nothing_from_the_global_generator(tiny):
    before = torch.get_rng_state()
    make_network(tiny.targets)
    assert torch.equal(before, torch.get_rng_state())


@torch.no_grad()
def test_attach_detach_and_multiplier(tiny):
    base = run_model(tiny.parts)
    make_network(tiny.targets).attach()
    assert torch.equal(run_model(tiny.parts), base)  # a new network changes nothing
    network = tiny.network.attach()
    changed = run_model(tiny.parts)
    assert (changed - base).abs().max() > 1e-3
    network.multiplier = 0
    assert torch.equal(run_model(tiny.parts), base)
    network.multiplier = 1
    assert torch.equal(run_model(tiny.parts), changed)
    network.detach()
    assert torch.equal(run_model(tiny.parts), base)
    assert network.attach().attached
    assert torch.equal(run_model(tiny.parts), changed)


@torch.no_grad()
@pytest.mark.parametrize("multiplier", [1.0, 0.5])
def test_merged_weights_answer_like_the_attached_network(tiny, multiplier):
    tiny.network.multiplier = multiplier
    tiny.network.attach()
    attached = run_model(tiny.parts)
    tiny.network.detach()
    for adapter in tiny.network:
        adapter.layer.weight.data = adapter.apply_to(adapter.layer.weight)
    torch.testing.assert_close(run_model(tiny.parts), attached, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_shared_inputs_change_no_gradient(tiny, dtype, checkpointing):
    """Query, key and value computed together, against each adapter by itself with plain operations."""
    tiny.parts.unet.to(dtype)
    tiny.parts.text_encoder.to(dtype)
    gradients = []
    for way in (Lora.forward, Lora.composed):
        network = randomise(make_network(tiny.targets)).attach()
        for adapter in network:
            adapter.layer.forward = way.__get__(adapter)
        if checkpointing and way is Lora.forward:
            tiny.parts.unet.train().enable_gradient_checkpointing()
        loss = run_model(tiny.parts, dtype).float().square().mean()
        loss.backward()
        gradients.append([p.grad for p in network.parameters()])
        for adapter in network:
            del adapter.layer.forward
    largest = max(g.abs().max() for g in gradients[1])
    for ours, plain in zip(*gradients, strict=True):
        tolerance = 1e-5 if dtype == torch.float32 else 0.05
        assert (ours - plain).abs().max() <= tolerance * largest


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn1_to_q, self.attn1_to_k, self.attn1_to_v = (nn.Linear(8, 8) for _ in range(3))


@pytest.fixture
def shared():
    torch.manual_seed(0)
    model = Attention().requires_grad_(False)
    targets = [Target(f"lora_unet_{name}", layer, "unet") for name, layer in model.named_children()]
    return model, randomise(make_network(targets)).attach()


def test_layers_sharing_an_input_may_be_called_in_any_order_and_with_other_inputs(shared):
    model, network = shared
    layers = [model.attn1_to_q, model.attn1_to_k, model.attn1_to_v]
    adapters = list(network)
    inputs = [torch.randn(2, 3, 8) for _ in range(2)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        which, what = (int(torch.randint(0, n, (), generator=generator)) for n in (3, 2))
        if torch.rand((), generator=generator) < 0.2:
            inputs[what] += 1  # changed in place: what was computed before no longer counts
        torch.testing.assert_close(layers[which](inputs[what]), adapters[which].composed(inputs[what]))


def test_an_answer_computed_without_gradients_is_not_used_with_them(shared):
    model, _ = shared
    x = torch.randn(2, 8)
    with torch.no_grad():
        model.attn1_to_q(x)
    assert model.attn1_to_k(x).requires_grad
    with torch.inference_mode():
        model.attn1_to_q(torch.randn(2, 8))


def test_nothing_is_kept_after_the_last_of_them_was_called(shared):
    model, network = shared
    x = torch.randn(2, 8)
    for layer in model.children():
        layer(x)
    group = next(iter(network)).together
    assert group._input is None
    assert not group._waiting
    model.attn1_to_q(x)
    network.detach()
    assert group._input is None


@pytest.mark.parametrize("reentrant", [True, False])
def test_shared_inputs_under_checkpointing(shared, reentrant):
    model, network = shared
    x = torch.randn(2, 3, 8, requires_grad=True)

    def block(x):
        return model.attn1_to_q(x) * model.attn1_to_k(x).sigmoid() + model.attn1_to_v(x).square()

    results = []
    for run in (block, lambda x: checkpoint(block, x, use_reentrant=reentrant)):
        for leaf in (x, *network.parameters()):
            leaf.grad = None
        run(run(x)).sum().backward()
        results.append([leaf.grad for leaf in (x, *network.parameters())])
    for plain, again in zip(*results, strict=True):
        torch.testing.assert_close(plain, again)


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@torch.no_grad()
def test_saved_and_loaded_is_the_same_network(tiny, dtype):
    state = tiny.network.state_dict_kohya(dtype)
    assert all(t.dtype == dtype and t.is_contiguous() and t.device.type == "cpu" for t in state.values())
    other = make_network(tiny.targets, seed=9)
    other.load_kohya(state)
    assert all(torch.equal(state[k], t) for k, t in other.state_dict_kohya(dtype).items())
    from_file = AdapterNetwork.from_kohya(tiny.targets, state)
    for a, b in zip(other, from_file, strict=True):
        assert torch.equal(a.delta_weight(), b.delta_weight())


def test_a_state_is_a_copy(tiny):
    state = tiny.network.state_dict_kohya()
    kept = {key: tensor.clone() for key, tensor in state.items()}
    for parameter in tiny.network.parameters():
        parameter.data += 1
    assert all(torch.equal(state[key], kept[key]) for key in kept)


def without(state, *keys):
    return {key: tensor for key, tensor in state.items() if not key.startswith(keys)}


def test_files_that_do_not_fit_are_named(tiny):
    state, first = tiny.network.state_dict_kohya(), tiny.targets[0].name
    faults = {
        "lacks a layer": without(state, first),
        "does not have: lora_unet_other": state
        | {f"lora_unet_other.{k}": torch.zeros(4, 4) for k in ("lora_down.weight", "lora_up.weight")},
        "not part of a plain LoRA layer": state | {f"{first}.hada_w1_a": torch.zeros(1)},
        "incomplete": without(state, f"{first}.lora_up"),
        "has the shape": make_network(tiny.targets, rank=8).state_dict_kohya(),
        "network alpha": make_network(tiny.targets, alpha=1.0).state_dict_kohya(),
    }
    for words, faulty in faults.items():
        with pytest.raises(UserError, match=words):
            tiny.network.load_kohya(faulty)


def test_from_kohya_reads_part_of_a_model_and_a_file_without_alpha(tiny):
    unet = targets_of(tiny.parts, text_encoder=False)
    state = {k: t for k, t in make_network(unet, rank=3).state_dict_kohya().items() if not k.endswith("alpha")}
    network = AdapterNetwork.from_kohya(tiny.targets, state)
    assert network.count_modules("text_encoder") == 0
    assert {(a.rank, a.alpha) for a in network} == {(3, 3.0)}
    with pytest.raises(UserError, match="no LoRA layer"):
        AdapterNetwork.from_kohya(tiny.targets, {})
    with pytest.raises(UserError, match="does not have: lora_te"):
        AdapterNetwork.from_kohya(unet, tiny.network.state_dict_kohya())


# ---- weight norms ----------------------------------------------------------------------------------------------------


def max_norm_of_sd_scripts(adapters, limit):
    """scale_weight_norms as it is documented there: the norm of the whole product, both factors times sqrt(ratio)."""
    scaled, norms = 0, []
    for a in adapters:
        norm = (a.up.double() @ a.down.double() * (a.alpha / a.rank)).norm().clamp(min=limit / 2)
        ratio = norm.clamp(max=limit) / norm
        scaled += int(ratio != 1)
        norms.append((norm * ratio, ratio.sqrt()))
    return scaled, norms


@pytest.mark.parametrize("limit", [0.05, 1.0, 1e6])
def test_scale_weight_norms(tiny, limit):
    with torch.no_grad():
        for number, adapter in enumerate(tiny.network):
            adapter.up.mul_(1 + number % 5)
    before = [adapter.delta_weight() for adapter in tiny.network]
    scaled, norms = max_norm_of_sd_scripts(tiny.network, limit)
    count, mean = tiny.network.scale_weight_norms(limit)
    assert int(count) == scaled
    for adapter, old, (norm, root) in zip(tiny.network, before, norms, strict=True):
        torch.testing.assert_close(adapter.delta_weight(), old * root.float() ** 2, rtol=1e-4, atol=1e-7)
        assert adapter.delta_weight().norm() <= limit * 1.0001
        assert norm >= 0
    assert float(mean) == pytest.approx(
        sum(float(a.delta_weight().norm()) for a in tiny.network) / len(before), rel=1e-4
    )


def test_train_and_eval_reach_every_adapter(tiny):
    assert not any(a.training for a in tiny.network.eval())
    assert all(a.training for a in tiny.network.train())
