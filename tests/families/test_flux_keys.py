"""FLUX.1's names and layers, against the published key list, LoRA names and a straightforward diffusers model."""

import pytest
import torch
from diffusers import FluxTransformer2DModel

from lora_core.families import flux_keys
from lora_core.families.flux_fused import join_layers
from tests.merge.model_facts import checkpoint, lora_targets
from tests.models_flux import bfl_state, tiny_flux


def joined(config: dict, device: str = "meta") -> FluxTransformer2DModel:
    with torch.device(device):
        transformer = FluxTransformer2DModel.from_config(config)
        join_layers(transformer)
    return transformer


@pytest.fixture(scope="module")
def real():
    """Every key and shape of flux1-dev.safetensors, as tensors without data."""
    return {key: torch.empty(shape, device="meta") for key, shape in checkpoint("flux").items()}


def test_every_published_key_has_its_place_in_the_real_network(real):
    state = flux_keys.from_original({key.removeprefix(flux_keys.TRANSFORMER): t for key, t in real.items()})
    config = flux_keys.transformer_config({key: tuple(t.shape) for key, t in state.items()})
    assert config == flux_keys.bundled_config("transformer")
    wanted = joined(config).state_dict()
    assert {key: tuple(t.shape) for key, t in state.items()} == {key: tuple(t.shape) for key, t in wanted.items()}


def test_the_layers_of_the_real_network_are_those_of_a_lora():
    found = {}
    for path, module in joined(flux_keys.bundled_config("transformer")).named_modules():
        if isinstance(module, torch.nn.Linear) and (name := flux_keys.original_layer(path)):
            found[f"lora_unet_{name.replace('.', '_')}"] = tuple(module.weight.shape)
    assert len(found) == 304
    assert found == lora_targets("flux")


@pytest.mark.parametrize("guidance", [True, False])
def test_both_ways_to_our_names_give_the_same(guidance):
    transformer = tiny_flux(guidance=guidance).transformer
    original = flux_keys.from_original(bfl_state(transformer))
    other = flux_keys.from_diffusers(transformer.state_dict())
    assert original.keys() == other.keys()
    assert all(torch.equal(original[key], other[key]) for key in other)
    config = flux_keys.transformer_config({key: tuple(t.shape) for key, t in other.items()})
    own = {key: value for key, value in transformer.config.items() if key in config}
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in config.items() if key in own} == own


def inputs(batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(batch, 16, 64, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 5, 32, generator=generator),
        "pooled_projections": torch.randn(batch, 64, generator=generator),
        "timestep": torch.tensor([0.3, 0.9])[:batch],
        "guidance": torch.tensor([1.0, 3.5])[:batch],
        "img_ids": torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0)),
        "txt_ids": torch.zeros(5, 3),
    }


@pytest.fixture
def pair():
    """The same weights in diffusers' layers and in joined ones."""
    plain = tiny_flux().transformer.requires_grad_(False)
    ours = joined(dict(plain.config), "cpu").requires_grad_(False).eval()
    ours.load_state_dict(flux_keys.from_diffusers(plain.state_dict()))
    return plain, ours


def test_joined_layers_answer_as_the_parts_do(pair):
    plain, ours = (model(**inputs()).sample for model in pair)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_joined_layers_are_those_of_the_parts(pair, checkpointing):
    ours = pair[1]
    grads = []
    for model in pair:
        model.requires_grad_(True)
        if model is ours and checkpointing:
            model.train().enable_gradient_checkpointing()
        model(**inputs()).sample.square().mean().backward()
        grads.append({key: p.grad for key, p in model.named_parameters()})
    expected = flux_keys.from_diffusers(grads[0])
    assert grads[1].keys() == expected.keys()
    for key, grad in grads[1].items():
        torch.testing.assert_close(grad, expected[key], rtol=1e-4, atol=1e-6, msg=key)


def test_a_joined_layer_is_computed_once_and_kept_no_longer(pair):
    _, ours = pair
    block = ours.single_transformer_blocks[0]
    calls = []
    block.linear1.register_forward_hook(lambda *_: calls.append(1))
    for count in (1, 2):
        ours(**inputs())
        assert len(calls) == count
    assert block.proj_mlp._outputs._input is None


def test_parts_of_a_joined_layer_depend_on_nothing_but_the_input(pair):
    _, ours = pair
    block = ours.single_transformer_blocks[0]
    x = torch.randn(1, 3, 64)
    mlp = block.proj_mlp(x)
    whole = block.linear1(x)
    assert torch.equal(mlp, whole[..., 192:])
    assert torch.equal(block.proj_mlp(x), mlp), "asked for again without the other part in between"
    x += 1
    assert torch.equal(block.attn.to_qkv(x), block.linear1(x)[..., :192]), "changed in place"
    with torch.no_grad():
        block.proj_mlp(x)
    assert block.attn.to_qkv(x.requires_grad_()).requires_grad


def test_nothing_is_dropped_silently():
    state = flux_keys.from_original({"double_blocks.0.img_attn.unheard_of": torch.zeros(1), "other": torch.zeros(1)})
    assert set(state) == {"double_blocks.0.img_attn.unheard_of", "other"}
