"""Pictures: the same as diffusers draws, repeatable, and without a trace left behind."""

import numpy as np
import pytest
import torch
from PIL import Image

from lora_core.adapters.files import save_lora
from lora_core.errors import UserError
from lora_core.generate.draw import draw, to_image, tokens_needed
from lora_core.generate.picture import Picture, sample_file_name, save_png
from lora_core.generate.prompts import SAMPLER_NAMES, SamplePrompt
from lora_core.generate.samplers import SAMPLERS, Stopped, make_scheduler, sample
from lora_core.noise import Ddpm
from lora_core.settings import SampleSettings

PROMPT = SamplePrompt(
    "a bear in the snow", "blurry", width=64, height=48, seed=5, guidance=4.0, steps=4, sampler="ddim"
)


def picture_of(loaded, prompt=PROMPT, **more):
    return draw(loaded.family, loaded.components, prompt, SampleSettings(), loaded.model, **more)


def pixels(picture):
    return np.asarray(picture.image).astype(int)


def with_diffusers(pipe, loaded, prompt):
    """The same picture by diffusers' own pipeline, from the same first noise."""
    noise = torch.randn(
        (1, 4, prompt.height // 8, prompt.width // 8), generator=torch.Generator().manual_seed(prompt.seed)
    )
    pipe.scheduler = make_scheduler(prompt.sampler, loaded.family.noise_process(loaded.components))
    image = pipe(
        prompt.text,
        negative_prompt=prompt.negative,
        width=prompt.width,
        height=prompt.height,
        num_inference_steps=prompt.steps,
        guidance_scale=prompt.guidance,
        latents=noise,
    ).images[0]
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m_karras", "unipc"])
def test_diffusers_draws_the_same_picture(loaded, pipeline, sampler):
    prompt = SamplePrompt(**{**PROMPT.__dict__, "sampler": sampler})
    assert np.abs(with_diffusers(pipeline, loaded, prompt) - pixels(picture_of(loaded, prompt))).max() <= 1


def test_diffusers_draws_the_same_picture_with_the_saved_lora(loaded, pipeline, tmp_path, capfd):
    bare = pixels(picture_of(loaded))
    loaded.network.attach()
    ours = pixels(picture_of(loaded))
    save_lora(loaded.network, {}, tmp_path / "usu.safetensors", "float")
    pipeline.load_lora_weights(tmp_path, weight_name="usu.safetensors")
    assert np.abs(with_diffusers(pipeline, loaded, PROMPT) - ours).max() <= 1
    assert np.abs(ours - bare).max() > 5


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_every_sampler_finds_what_an_all_knowing_model_points_at(sampler, steps):
    """A model that always knows the clean latents leads every sampler to them, in any number of steps."""
    noise = Ddpm("epsilon")
    scheduler = make_scheduler(sampler, noise)
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(1, 4, 6, 6, generator=generator)

    def knows(x, t):
        alpha_bar = torch.from_numpy(np.interp(t.numpy(), np.arange(1000), noise.alpha_bar.numpy())).float()
        return (x - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()

    start = torch.randn(clean.shape, generator=generator)
    drawn = sample(knows, scheduler, start, steps, generator)
    assert (drawn - clean).abs().mean() < 0.15


def test_samplers_are_those_that_prompts_know():
    assert SAMPLERS.keys() == SAMPLER_NAMES.keys()


@pytest.mark.parametrize("sampler", ["euler_a", "ddim"])
def test_a_seed_is_a_picture(loaded, sampler):
    def image(seed):
        return pixels(
            picture_of(loaded, SamplePrompt("bear", width=32, height=32, seed=seed, steps=3, sampler=sampler))
        )

    assert np.array_equal(image(0), image(0))
    assert not np.array_equal(image(0), image(1))


def test_drawing_leaves_no_trace(loaded):
    components, network = loaded.components, loaded.network.attach()
    components.denoiser.train().enable_gradient_checkpointing()
    components.denoiser.mid_block.eval()
    modes = [module.training for module in components.denoiser.modules()]
    state = torch.get_rng_state()
    picture_of(loaded)
    assert torch.equal(state, torch.get_rng_state())
    assert [module.training for module in components.denoiser.modules()] == modes
    assert not components.text_encoder.training
    assert network.attached
    with pytest.raises(Stopped):
        picture_of(loaded, on_step=lambda done, total: False)
    assert [module.training for module in components.denoiser.modules()] == modes


def test_progress_is_told_and_drawing_can_be_stopped(loaded):
    seen = []
    picture_of(loaded, on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 4) for n in range(1, 5)]
    with pytest.raises(Stopped):
        picture_of(loaded, on_step=lambda done, total: done < 2)


def test_prompt_values_come_first_then_settings_then_the_model(loaded):
    picture = draw(
        loaded.family,
        loaded.components,
        SamplePrompt("x", seed=0),
        SampleSettings(steps=2, sampler="unipc"),
        loaded.model,
    )
    side = loaded.family.drawing(loaded.components).side
    assert picture.image.size == (side, side) == (64, 64)
    assert picture.details["Steps"] == 2
    assert picture.details["Sampler"] == "UniPC"
    assert picture.details["Seed"] == picture.seed == 0


def test_sides_are_multiples_of_eight(loaded):
    assert picture_of(loaded, SamplePrompt("x", width=71, height=39, steps=1)).image.size == (64, 32)


def test_guidance_one_needs_no_negative_and_zero_is_the_negative(loaded):
    def image(text, negative, guidance):
        return pixels(
            picture_of(loaded, SamplePrompt(text, negative, 32, 32, seed=1, guidance=guidance, steps=2, sampler="ddim"))
        )

    assert np.array_equal(image("bear", "a", 1.0), image("bear", "b", 1.0))
    assert np.abs(image("bear", "a", 0.0) - image("a", "x", 1.0)).max() <= 1


def test_long_and_weighted_prompts_are_read_whole(loaded):
    family, components = loaded.family, loaded.components
    long = "bear, " * 80
    assert tokens_needed(family, components, "bear") == 75
    assert tokens_needed(family, components, long) == 225
    assert tokens_needed(family, components, "bear BREAK snow") == 150

    def image(text):
        return pixels(picture_of(loaded, SamplePrompt(text, width=32, height=32, seed=1, steps=1, sampler="ddim")))

    assert not np.array_equal(image(long + "snow"), image(long + "fire"))
    assert not np.array_equal(image("(bear:1.5) snow"), image("bear snow"))


# ---- pictures and files ----------------------------------------------------------------------------------------------


def test_parameters_are_written_as_other_programs_read_them(loaded, tmp_path):
    picture = picture_of(loaded)
    path = save_png(picture, tmp_path / "sample" / "くま.png")
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), np.asarray(picture.image))
        lines = image.text["parameters"].splitlines()
    assert lines[:2] == ["a bear in the snow", "Negative prompt: blurry"]
    assert lines[2].startswith("Steps: 4, Sampler: DDIM, CFG scale: 4, Seed: 5, Size: 64x48, Model: ")
    assert [p.name for p in path.parent.iterdir()] == ["くま.png"]


def test_parameters_in_any_script_and_with_commas(tmp_path):
    picture = Picture(Image.new("RGB", (8, 8)), "うすいくま", 1, details={"Model": "a, b: c", "CFG scale": 7.5})
    with Image.open(save_png(picture, tmp_path / "x.png")) as image:
        assert image.text["parameters"] == 'うすいくま\nModel: "a, b: c", CFG scale: 7.5'


def test_file_names():
    picture = Picture(Image.new("RGB", (8, 8)), "x", 42)
    for step, when in ((None, "e000003"), (100, "000100")):
        prefix, stamp, end = sample_file_name("usu", picture, index=7, step=step, epoch=3).rsplit("_", 2)
        assert (prefix, end) == (f"usu_{when}_07", "42.png")
        assert len(stamp) == 14
        assert stamp.isdecimal()


def test_a_picture_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        save_png(Picture(Image.new("RGB", (8, 8)), "x", 1), tmp_path / "file" / "x.png")


def test_pixels_out_of_range_and_no_numbers():
    pixels = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0, float("nan")]).expand(3, 1, 6)
    assert np.asarray(to_image(pixels))[0, :, 0].tolist() == [0, 0, 128, 255, 255, 128]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_every_sampler_begins_at_pure_noise_with_zero_terminal_snr(sampler, steps):
    """Where nothing of the picture is left, a model that always knows the clean latents still leads to them."""
    noise = Ddpm("v_prediction", zero_terminal_snr=True)
    scheduler = make_scheduler(sampler, noise)
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(1, 4, 6, 6, generator=generator)
    asked = []

    def knows(x, t):
        asked.append(float(t[0]))
        alpha_bar = torch.from_numpy(np.interp(t.numpy(), np.arange(1000), noise.alpha_bar.numpy())).float()
        epsilon = (x - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()
        return alpha_bar.sqrt() * epsilon - (1 - alpha_bar).sqrt() * clean

    drawn = sample(knows, scheduler, torch.randn(clean.shape, generator=generator), steps, generator)
    assert asked[0] == 999
    assert drawn.isfinite().all()
    assert (drawn - clean).abs().mean() < 0.15
