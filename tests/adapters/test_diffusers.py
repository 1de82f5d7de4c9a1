"""A LoRA saved by us, read by diffusers: every number arrives, and both models answer alike."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft.tuners.lora import LoraLayer

from lora_core.adapters import AdapterNetwork
from lora_core.adapters.files import save_lora
from lora_core.families import FAMILIES
from lora_core.settings import Sd1Model
from tests.adapters.helpers import make_network, randomise
from tests.models import tiny_sd_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_sd_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(params=[True, False], ids=["with text encoder", "U-Net only"])
def trained(request, folder) -> tuple:
    """Components and a network that changes them, not yet attached."""
    family = FAMILIES["sd1"]
    components = family.load(Sd1Model(base=str(folder)), dtype=torch.float32, device=torch.device("cpu"))
    targets = family.adapter_targets(components, text_parts=("text_encoder",) if request.param else ())
    return components, randomise(make_network(targets, rank=4, alpha=1.0))


@pytest.fixture
def pipe(folder, trained, tmp_path):
    save_lora(trained[1], {}, tmp_path / "x.safetensors", "float")
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    pipe.load_lora_weights(tmp_path, weight_name="x.safetensors")
    return pipe


def peft_layers(pipe) -> dict[str, LoraLayer]:
    """diffusers' LoRA layers by the names that our file has for them."""
    te = {f"lora_te_text_model_{n.removeprefix('text_model.')}": m for n, m in pipe.text_encoder.named_modules()}
    unet = {f"lora_unet_{n}": m for n, m in pipe.unet.named_modules()}
    return {n.replace(".", "_"): m for n, m in (te | unet).items() if isinstance(m, LoraLayer)}


def test_every_layer_arrives_with_its_numbers_and_scale(trained, pipe):
    network: AdapterNetwork = trained[1]
    theirs = peft_layers(pipe)
    assert theirs.keys() == {adapter.name for adapter in network}
    for adapter in network:
        layer = theirs[adapter.name]
        (name,) = layer.scaling
        assert layer.scaling[name] == pytest.approx(adapter.alpha / adapter.rank)
        assert torch.equal(layer.lora_A[name].weight.flatten(), adapter.down.flatten())
        assert torch.equal(layer.lora_B[name].weight.flatten(), adapter.up.flatten())


@torch.no_grad()
def test_both_models_answer_alike(trained, pipe):
    components, network = trained
    tokens = torch.randint(0, 40_000, (2, 77), generator=torch.Generator().manual_seed(0))
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([3, 900])

    def answers(text_encoder, unet):
        hidden = text_encoder(tokens).last_hidden_state
        return hidden, unet(noisy, t, hidden).sample

    bare = answers(components.text_encoder, components.denoiser)
    network.attach()
    ours, theirs = answers(components.text_encoder, components.denoiser), answers(pipe.text_encoder, pipe.unet)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert (ours[1] - bare[1]).abs().max() > 0.01
    assert torch.equal(ours[0], bare[0]) == (network.count_modules("text_encoder") == 0)
