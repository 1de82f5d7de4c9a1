"""Pictures of Stable Diffusion 2 and SDXL: the same as diffusers' pipelines draw."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from lora_core.adapters import AdapterNetwork
from lora_core.adapters.files import save_lora
from lora_core.families import FAMILIES
from lora_core.generate import draw as drawing
from lora_core.generate.prompts import SAMPLER_NAMES, SamplePrompt
from lora_core.generate.samplers import make_scheduler
from lora_core.noise import Ddpm
from lora_core.settings import LoraSettings, SampleSettings, Sd2Model, SdxlModel
from tests.models_sdxl import tiny_folder

MODELS = {"sd2": (Sd2Model, StableDiffusionPipeline), "sdxl": (SdxlModel, StableDiffusionXLPipeline)}
PROMPT = SamplePrompt("a bear in the snow", "blurry", width=64, height=48, seed=5, guidance=4.0, steps=4)
SCHEDULERS = {
    "epsilon": {},
    "v": {"prediction_type": "v_prediction"},
    "v from pure noise": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
}


CASES = [
    ("sd2", "epsilon", "ddim"),
    ("sd2", "v", "dpmpp_2m_karras"),
    ("sdxl", "epsilon", "euler"),
    ("sdxl", "v", "dpmpp_2m_karras"),
    ("sdxl", "v from pure noise", "ddim"),
    ("sdxl", "v from pure noise", "euler"),
]


def decoded(monkeypatch: pytest.MonkeyPatch, family, *arguments) -> torch.Tensor:
    """What is drawn before it is rounded to bytes, in [0, 1]."""
    pixels = []
    monkeypatch.setattr(drawing, "to_image", lambda found: pixels.append(found) or drawing.Image.new("RGB", (8, 8)))
    drawing.draw(family, *arguments)
    return (pixels[0] / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize(("name", "scheduler", "sampler"), CASES)
def test_diffusers_draws_the_same_picture(monkeypatch, tmp_path, name: str, scheduler: str, sampler: str):
    path = tiny_folder(tmp_path / "model", name, **SCHEDULERS[scheduler])
    settings, cls = MODELS[name]
    family, model = FAMILIES[name], settings(base=str(path))
    components = family.load(model, dtype=torch.float32, device=torch.device("cpu"))
    network = AdapterNetwork.create(
        family.adapter_targets(components, text_parts=family.trainable_text_parts), LoraSettings(rank=4, alpha=2.0), 0
    )
    draws = torch.Generator().manual_seed(1)
    for adapter in network:
        adapter.up.data.normal_(0, 0.2, generator=draws)
    network.attach().eval()
    prompt = replace(PROMPT, sampler=sampler)
    ours = decoded(monkeypatch, family, components, prompt, SampleSettings(), model)

    save_lora(network, {}, tmp_path / "usu.safetensors", "float")
    pipe = cls.from_pretrained(path, local_files_only=True, **({"add_watermarker": False} if name == "sdxl" else {}))
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(tmp_path, weight_name="usu.safetensors")
    pipe.scheduler = make_scheduler(sampler, family.noise_process(components))
    pipe.vae.config.force_upcast = False
    call = partial(pipe, prompt.text, negative_prompt=prompt.negative, output_type="pt")
    theirs = call(
        width=64,
        height=48,
        num_inference_steps=4,
        guidance_scale=4.0,
        latents=torch.randn((1, 4, 6, 8), generator=torch.Generator().manual_seed(5)),
    ).images[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert ours.std() > 0.01


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_from_pure_noise_every_sampler_begins_at_the_last_step_without_signal(sampler: str):
    scheduler = make_scheduler(sampler, Ddpm(prediction_type="v_prediction", zero_terminal_snr=True))
    scheduler.set_timesteps(20)
    assert scheduler.timesteps[0] == 999
    assert scheduler.alphas_cumprod[-1] < 1e-6
    assert make_scheduler(sampler, Ddpm()).alphas_cumprod[-1] > 1e-3
