"""Pictures of FLUX.1 against diffusers' pipeline, and LoRAs that it loads."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from lora_core.adapters import AdapterNetwork
from lora_core.families import FAMILIES
from lora_core.families.encoded import EncodedTexts
from lora_core.flow import FlowMatching
from lora_core.generate.draw import draw, prompts_asked
from lora_core.generate.flow_euler import FlowEuler
from lora_core.generate.prompts import SamplePrompt
from lora_core.generate.samplers import sample
from lora_core.settings import FluxModel, LoraSettings, SampleSettings
from tests.models_flux import T5_LENGTH, tiny_flux_folder

FAMILY = FAMILIES["flux"]
CPU = torch.device("cpu")
PROMPT = "a red (bear:1.2) in the snow"


@pytest.fixture(scope="module", params=["dev", "schnell"])
def folder(request, tmp_path_factory):
    return tiny_flux_folder(tmp_path_factory.mktemp("flux") / request.param, guidance=request.param == "dev")


@pytest.fixture(scope="module")
def model(folder):
    return FluxModel(base=str(folder), t5_max_token_length=T5_LENGTH)


@pytest.fixture
def components(model):
    return FAMILY.load(model, dtype=torch.float32, device=CPU)


@pytest.fixture
def pipeline(folder):
    pipe = FluxPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("tokens", [16, 1024, 4096])
@pytest.mark.parametrize("dev", [True, False])
def test_the_schedule_is_diffusers(dev, tokens):
    steps = 7
    oracle = FlowMatchEulerDiscreteScheduler(shift=3.0 if dev else 1.0, use_dynamic_shifting=dev)
    oracle.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=calculate_shift(tokens))
    ours = FlowEuler(FlowMatching(shifts_with_size=dev), tokens)
    noise = torch.randn(1, 16, 4, 4)

    def predict(x, t):
        return torch.sin(x) * (t / 1000).view(-1, 1, 1, 1)

    drawn = sample(predict, ours, noise, steps, torch.Generator())
    torch.testing.assert_close(ours.timesteps, oracle.timesteps, rtol=0, atol=1e-3)
    expected = noise
    for t in oracle.timesteps:
        expected = oracle.step(predict(expected, t.expand(1)), t, expected).prev_sample
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-5)


def latents_of_the_pipeline(pipeline, noise, guidance, steps=3):
    packed = FluxPipeline._pack_latents(noise, *noise.shape)
    height, width = noise.shape[2] * 8, noise.shape[3] * 8
    options = {"guidance_scale": guidance, "num_inference_steps": steps, "max_sequence_length": T5_LENGTH}
    images = pipeline(PROMPT, height=height, width=width, latents=packed, output_type="pt", **options).images
    return images[0] * 2 - 1


def pixels(picture) -> torch.Tensor:
    return torch.from_numpy(np.array(picture.image)).permute(2, 0, 1).float() / 127.5 - 1


def drawn_latents(components, model, request, monkeypatch) -> torch.Tensor:
    """The picture before it is rounded to bytes."""
    seen = []
    decode = FAMILY.decode
    monkeypatch.setattr(type(FAMILY), "decode", lambda self, *args: seen.append(decode(*args)) or seen[-1])
    picture = draw(FAMILIES["flux"], components, request, SampleSettings(prompts="x"), model)
    assert np.abs(pixels(picture).numpy() - seen[0][0].clamp(-1, 1).numpy()).max() < 1 / 127
    return seen[0][0]


REQUEST = SamplePrompt(PROMPT, negative="blurry", width=71, height=50, seed=5, guidance=3.5, steps=3, sampler="euler")


def test_a_picture_is_that_of_the_pipeline(components, model, pipeline, monkeypatch):
    ours = drawn_latents(components, model, REQUEST, monkeypatch)
    noise = torch.randn(1, 16, 48 // 8, 64 // 8, generator=torch.Generator().manual_seed(5))
    expected = latents_of_the_pipeline(pipeline, noise, 3.5)
    assert ours.shape == (3, 48, 64)
    torch.testing.assert_close(ours.clamp(-1, 1), expected, rtol=0, atol=1e-4)


def test_guidance_is_told_to_dev_only(components, model):
    pictures = [
        np.array(draw(FAMILY, components, SamplePrompt(PROMPT, guidance=g, **SMALL), SampleSettings(), model).image)
        for g in (1.0, 30.0)
    ]
    assert np.array_equal(*pictures) != components.guidance


SMALL = {"width": 32, "height": 32, "steps": 2}


@pytest.mark.parametrize(
    ("sampler", "said"), [("euler", "Euler (flow)"), ("ddim", "Euler (flow) in place of DDIM"), ("euler_a", None)]
)
def test_a_picture_says_how_it_was_drawn(components, model, sampler, said):
    request = SamplePrompt(PROMPT, guidance=3.5, sampler=sampler, **SMALL)
    details = draw(FAMILY, components, request, SampleSettings(), model).details
    assert details["Sampler"] == said or (said is None and "in place of Euler a" in details["Sampler"])
    assert (details["CFG scale"], details["Distilled CFG Scale"]) == (1.0, 3.5)


def test_prompts_can_be_read_before_the_transformer_comes(components, model):
    texts = EncodedTexts(FAMILY, components, model)
    request = SamplePrompt(PROMPT, negative="never asked", guidance=3.5, **SMALL)
    prompts_asked(FAMILY, components, request, model, texts)
    texts.release_encoders()
    assert not components.is_loaded("unet")
    picture = draw(FAMILY, components, request, SampleSettings(), model, encode=texts)
    assert not components.is_loaded("text_encoder_2")
    direct = draw(FAMILY, components, request, SampleSettings(), model)
    assert np.array_equal(np.array(picture.image), np.array(direct.image))


# ---- LoRAs ---------------------------------------------------------------------------------------------------------


def test_diffusers_loads_our_file_and_draws_the_same(components, model, pipeline, monkeypatch):
    """All but linear1: its converter takes that one apart at the widths of the real model (see tests/full_size)."""
    targets = FAMILY.adapter_targets(components, text_parts=("text_encoder",))
    targets = [target for target in targets if not target.name.endswith("_linear1")]
    network = AdapterNetwork.create(targets, LoraSettings(rank=4, alpha=2.0), seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    for adapter in network:
        adapter.up.data.normal_(0, 0.3, generator=generator)
    base = drawn_latents(components, model, REQUEST, monkeypatch)
    network.attach()
    ours = drawn_latents(components, model, REQUEST, monkeypatch)
    assert not torch.allclose(ours, base, atol=1e-2)
    pipeline.load_lora_weights(network.state_dict_kohya())
    noise = torch.randn(1, 16, 48 // 8, 64 // 8, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(ours.clamp(-1, 1), latents_of_the_pipeline(pipeline, noise, 3.5), rtol=0, atol=1e-4)
