"""The built-in model: loads as any SD 1.x folder does, stays small, and draws what it is asked for."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from lora_core.demo import MINI_MODEL

MEGABYTE = 1_000_000
WEIGHTS = ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model")


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        MINI_MODEL, safety_checker=None, local_files_only=True, torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline, prompt: str) -> np.ndarray:
    """The middle half of one picture, RGB in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    images = pipeline(
        prompt, num_inference_steps=20, guidance_scale=4, height=64, width=64, generator=generator, output_type="np"
    ).images
    return images[0, 16:48, 16:48]


def test_fits_into_the_repository():
    assert sum(file.stat().st_size for file in MINI_MODEL.rglob("*")) < 36 * MEGABYTE


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_half_precision(name):
    with safe_open(MINI_MODEL / f"{name}.safetensors", "pt") as file:
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}  # noqa: SIM118


def test_text_encoder_is_named_as_in_every_sd1_folder():
    with safe_open(MINI_MODEL / "text_encoder/model.safetensors", "pt") as file:
        assert all(key.startswith("text_model.") for key in file.keys())  # noqa: SIM118


def test_conventions_of_sd1():
    unet = json.loads((MINI_MODEL / "unet/config.json").read_text(encoding="utf-8"))
    scheduler = json.loads((MINI_MODEL / "scheduler/scheduler_config.json").read_text(encoding="utf-8"))
    assert unet["attention_head_dim"] == 8
    assert not unet["use_linear_projection"]
    assert scheduler["prediction_type"] == "epsilon"
    assert (scheduler["beta_start"], scheduler["beta_end"]) == (0.00085, 0.012)
    assert (scheduler["beta_schedule"], scheduler["steps_offset"]) == ("scaled_linear", 1)


def test_tokenizer_is_clips(pipeline):
    assert pipeline.tokenizer("usu bear").input_ids == [49406, 40434, 4298, 49407]
    assert pipeline.tokenizer.model_max_length == 77


@pytest.mark.parametrize(("prompt", "strong", "weak"), [("heart", 0, 2), ("blue heart", 2, 0), ("green apple", 1, 2)])
def test_draws_in_the_colour_of_the_prompt(pipeline, prompt, strong, weak):
    colour = draw(pipeline, prompt).mean((0, 1))
    assert colour[strong] > colour[weak] + 0.15


def test_another_prompt_is_another_picture(pipeline):
    assert np.abs(draw(pipeline, "bear") - draw(pipeline, "cat")).mean() > 0.05
