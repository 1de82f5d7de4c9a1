"""LoRAs of Stable Diffusion 2 and SDXL saved by us, read by diffusers: every number arrives, and both answer alike."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft.tuners.lora import LoraLayer

from lora_core.adapters import AdapterNetwork
from lora_core.adapters.files import save_lora
from lora_core.families import FAMILIES
from lora_core.merge.names import locate
from lora_core.settings import LoconSettings, LoraSettings, Sd2Model, SdxlModel
from tests.adapters.helpers import make_network, randomise
from tests.models_sdxl import tiny_folder

MODELS = {"sd2": (Sd2Model, StableDiffusionPipeline), "sdxl": (SdxlModel, StableDiffusionXLPipeline)}


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory) -> tuple[str, Path]:
    return request.param, tiny_folder(tmp_path_factory.mktemp("tiny") / "model", request.param)


@pytest.mark.parametrize("texts", [True, False], ids=["with text encoders", "U-Net only"])
@pytest.mark.parametrize("convolutions", [False, True], ids=["", "with convolutions"])
@torch.no_grad()
def test_diffusers_loads_the_file_and_answers_alike(folder, tmp_path, texts: bool, convolutions: bool):
    name, path = folder
    settings, pipeline = MODELS[name]
    family, model = FAMILIES[name], settings(base=str(path))
    components = family.load(model, dtype=torch.float32, device=torch.device("cpu"))
    parts = family.trainable_text_parts if texts else ()
    targets = family.adapter_targets(components, text_parts=parts, convolutions=convolutions)
    rank = (
        LoconSettings(rank=4, alpha=1.0, conv_rank=2, conv_alpha=1.0)
        if convolutions
        else LoraSettings(rank=4, alpha=1.0)
    )
    network = randomise(AdapterNetwork.create(targets, rank, 0))
    save_lora(network, {}, tmp_path / "x.safetensors", "float")

    pipe = pipeline.from_pretrained(path, local_files_only=True)
    pipe.load_lora_weights(tmp_path, weight_name="x.safetensors")
    modules = {
        "unet": pipe.unet,
        "text_encoder": pipe.text_encoder,
        "text_encoder_2": getattr(pipe, "text_encoder_2", None),
    }
    layers = {
        f"{part}.{place.removeprefix('text_model.')}": module
        for part, network_of_part in modules.items()
        if network_of_part is not None
        for place, module in network_of_part.named_modules()
        if isinstance(module, LoraLayer)
    }
    arrived = {locate(layer, name).name: module for layer, module in layers.items()}
    assert len(arrived) == len(layers)
    assert arrived.keys() == {adapter.name for adapter in network}
    for adapter in network:
        layer = arrived[adapter.name]
        (own,) = layer.scaling
        assert layer.scaling[own] == pytest.approx(adapter.alpha / adapter.rank)
        assert torch.equal(layer.lora_A[own].weight.flatten(), adapter.down.flatten())
        assert torch.equal(layer.lora_B[own].weight.flatten(), adapter.up.flatten())

    noisy, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 900])
    prompts = ["a bear", "snow, a long way off"]
    bare = answer(family, components, model, prompts, noisy, t)
    network.attach()
    ours = answer(family, components, model, prompts, noisy, t)
    theirs = of_diffusers(pipe, prompts, noisy, t)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert (ours[0] - bare[0]).abs().max() > 0.01
    assert torch.equal(ours[1], bare[1]) == (not texts)


def answer(family, components, model, prompts, noisy, t) -> tuple[torch.Tensor, ...]:
    told = family.encode_prompts(components, prompts, model)
    return family.predict(components, noisy, t, told), *told.tensors.values()


def of_diffusers(pipe, prompts, noisy, t) -> tuple[torch.Tensor, ...]:
    if isinstance(pipe, StableDiffusionPipeline):
        hidden, _ = pipe.encode_prompt(prompts, "cpu", 1, False)
        return pipe.unet(noisy, t, hidden).sample, hidden
    hidden, _, pooled, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False)
    added = {"text_embeds": pooled, "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)}
    return pipe.unet(noisy, t, hidden, added_cond_kwargs=added).sample, hidden, pooled


def test_query_key_and_value_share_their_input_under_these_names(folder):
    """As in SD 1: three products with one input become one."""
    name, path = folder
    family = FAMILIES[name]
    components = family.load(MODELS[name][0](base=str(path)), dtype=torch.float32, device=torch.device("cpu"))
    network = make_network(family.adapter_targets(components, text_parts=family.trainable_text_parts))
    shared = {adapter.name for adapter in network if adapter.together is not None}
    assert shared == {
        n for n in network.adapters if re.search(r"(attn1_to_[qkv]|attn2_to_[kv]|self_attn_[qkv]_proj)$", n)
    }
    assert any("_input_blocks_" in n for n in shared) == (name == "sdxl")
