"""Every algorithm on a whole tiny model: trained, stopped, saved, merged, and gone on with from a file."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lora_core.adapters import AdapterNetwork
from lora_core.adapters.files import load_lora, save_lora
from lora_core.errors import UserError
from lora_core.families import FAMILIES
from lora_core.merge.lora import load_lora as read_lora
from tests.adapters.helpers import frozen_parts, run_model
from tests.adapters.variants import VARIANTS, randomised, settings_of

on_models = pytest.mark.parametrize("variant", VARIANTS)


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
