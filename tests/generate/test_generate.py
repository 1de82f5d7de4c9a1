"""Pictures with LoRAs: those that the LoRA gives when it is attached, and the model is itself again afterwards."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora_core.adapters import AdapterNetwork
from lora_core.adapters.files import save_lora
from lora_core.errors import UserError
from lora_core.events import FileSaved
from lora_core.generate.job import generate
from lora_core.generate.loras import LoraSwap
from lora_core.generate.request import Shot, model_of
from lora_core.generate.studio import Studio, weights_hash
from lora_core.generate.tags import Worn
from lora_core.io.safetensors import read_tensors
from lora_core.settings import LoraSettings
from lora_core.settings.generate import GenerateSettings
from lora_core.tool_commands import add_commands
from tests.merge import makers
from tests.models import tiny_sd_folder
from tests.models_flux import tiny_flux_folder
from tests.models_sdxl import tiny_folder

FOLDERS = {
    "sd1": tiny_sd_folder,
    "sd2": partial(tiny_folder, family="sd2"),
    "sdxl": partial(tiny_folder, family="sdxl"),
    "flux": tiny_flux_folder,
}
VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0", "flux": "flux1"}


def make_lora(components, family, path: Path, seed: int = 1) -> Path:
    """A LoRA for a tiny model that shows."""
    targets = family.adapter_targets(components, text_parts=family.trainable_text_parts)
    network = AdapterNetwork.create(targets, LoraSettings(rank=4), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    save_lora(network, {"ss_base_model_version": VERSIONS[family.name]}, path, "float")
    return path


def make_studio(name: str, home: Path) -> tuple[Studio, Path]:
    folder = FOLDERS[name](home / "model")
    studio = Studio(model_of(GenerateSettings(base=str(folder))), torch.device("cpu"))
    return studio, make_lora(studio.components, studio.family, home / "a.safetensors")


def shot(*loras: Worn, **changes) -> Shot:
    plain = {"negative": "", "width": 64, "height": 64, "seed": 3, "steps": 2, "guidance": 4.0, "sampler": "euler_a"}
    return Shot(**{"prompt": "a bear", "loras": loras, **plain, **changes})


def pixels(picture) -> np.ndarray:
    return np.asarray(picture.image if hasattr(picture, "image") else picture).astype(int)


def numbers(studio: Studio) -> dict[str, torch.Tensor]:
    parts = studio.components.loaded.items()
    return {f"{name}.{key}": tensor.clone() for name, part in parts for key, tensor in part.state_dict().items()}


@pytest.fixture(scope="module", params=list(FOLDERS))
def studio(request, tmp_path_factory):
    return make_studio(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return make_studio("sd1", tmp_path_factory.mktemp("sd1"))


def test_a_lora_does_what_it_does_when_attached(studio):
    made, path = studio
    base = pixels(made.draw(shot()))
    baked = pixels(made.draw(shot(Worn(path, 0.8, 0.8))))
    made.swap.take_off()
    family, components = made.family, made.components
    targets = family.adapter_targets(components, text_parts=family.trainable_text_parts)
    network = AdapterNetwork.from_kohya(targets, read_tensors(path)).attach().eval()
    network.multiplier = 0.8
    try:
        attached = pixels(made.draw(shot()))
    finally:
        network.detach()
    assert np.abs(baked - attached).max() <= 1
    assert np.abs(baked - base).max() > 5, "with and without look alike"


def test_the_model_is_itself_again_to_the_last_bit(studio):
    made, path = studio
    first = pixels(made.draw(shot()))
    before = numbers(made)
    for strength in (1.0, -0.5, 0.3):
        made.draw(shot(Worn(path, strength, strength), Worn(path, 0.1, 0.1)))
    made.draw(shot(Worn(path, 0.0, 0.0)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in numbers(made).items())
    assert np.array_equal(first, pixels(made.draw(shot())))


def test_two_at_half_strength_are_one(sd1):
    made, path = sd1
    once = pixels(made.draw(shot(Worn(path))))
    twice = pixels(made.draw(shot(Worn(path, 0.5, 0.5), Worn(path, 0.5, 0.5))))
    assert np.abs(once - twice).max() <= 1


def test_parts_and_blocks_count_as_the_tag_says(sd1):
    made, path = sd1
    base, whole = pixels(made.draw(shot())), pixels(made.draw(shot(Worn(path))))
    text = pixels(made.draw(shot(Worn(path, 0.0, 1.0))))
    by_block = pixels(made.draw(shot(Worn(path, layers="TEXT"))))
    assert np.array_equal(text, by_block)
    assert not np.array_equal(text, base)
    assert not np.array_equal(text, whole)
    assert np.array_equal(pixels(made.draw(shot(Worn(path, layers="NONE")))), base)


@pytest.mark.parametrize("algorithm", ["loha", "lokr", "dora lora", "ia3"])
def test_other_algorithms_come_off_again(sd1, tmp_path, algorithm):
    made, _ = sd1
    made.draw(shot())
    before = numbers(made)
    layers = {name: tuple(module.weight.shape) for name, module in made.family.named_layers(made.components).items()}
    chosen = {name: shape for name, shape in layers.items() if name.endswith(("attn1_to_q", "attn2_to_v"))}
    state = makers.lora_state(chosen, algorithm, rank=2, alpha=1.0, family="sd1")
    makers.save_arrays(state, makers.METADATA["sd1"], tmp_path / "other.safetensors", "float")
    swap = LoraSwap(made.family, made.components)
    swap.wear([Worn(tmp_path / "other.safetensors")])
    assert any(not torch.equal(tensor, before[name]) for name, tensor in numbers(made).items())
    swap.take_off()
    assert all(torch.equal(tensor, before[name]) for name, tensor in numbers(made).items())


def test_a_lora_that_does_not_fit_leaves_the_base(sd1, tmp_path):
    made, path = sd1
    first = pixels(made.draw(shot()))
    makers.write_lora(tmp_path / "large.safetensors", "sd1", size="full")
    with pytest.raises(UserError) as caught:
        made.draw(shot(Worn(path), Worn(tmp_path / "large.safetensors")))
    assert caught.value.key == "preview.no_layer"
    assert np.array_equal(first, pixels(made.draw(shot())))


# ---- the job ---------------------------------------------------------------------------------------------------------


def settings(sd1, folder: Path, **changes) -> GenerateSettings:
    made, path = sd1
    values = {"base": made.model.base, "prompts": ["a (bear:1.2)"], "width": 64, "height": 64, "steps": 1}
    lora = {"path": path, "strength": 0.8}
    return GenerateSettings.model_validate({**values, "loras": [lora], "output": folder, **changes})


def saved(job: GenerateSettings) -> list[FileSaved]:
    return [event for event in generate(job) if isinstance(event, FileSaved)]


def test_a_job_draws_every_prompt_with_every_seed(sd1, tmp_path):
    prompts = ["a (bear:1.2)", "a cat <lora:a:0.5>"]
    files = saved(settings(sd1, tmp_path, prompts=prompts, count=2, seed=5))
    assert [file.facts["seed"] for file in files] == [5, 6, 5, 6]
    assert [file.path.name for file in files] == ["00000-5.png", "00001-6.png", "00002-5.png", "00003-6.png"]
    assert saved(settings(sd1, tmp_path))[0].path.name == "00004-1.png"
    text = Image.open(files[2].path).text["parameters"]
    assert text.startswith("a cat <lora:a:0.5>\nSteps: 1, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 64x64")
    assert text.endswith(f'Lora hashes: "a: {weights_hash(sd1[1])[:12]}"')


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"prompts": [" "]}, "preview.no_prompt"),
        ({"prompts": ["a bear <lora:gone:1>"]}, "generate.lora_missing"),
        ({"loras": [{"path": "other.safetensors"}]}, "generate.lora_family"),
        ({"loras": [{"path": "gone.safetensors"}]}, "model.missing"),
        ({"loras": [], "output": None}, "generate.no_output"),
        ({"prompts": ["<lora:a:1:lbw=1,2,3>"]}, "blocks.length"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(sd1, tmp_path, monkeypatch, change, key):
    monkeypatch.chdir(tmp_path)
    makers.write_lora(tmp_path / "other.safetensors", "sdxl")
    with pytest.raises(UserError) as caught:
        saved(settings(sd1, tmp_path / "pictures", **change))
    assert caught.value.key == key
    assert not (tmp_path / "pictures").exists()


def test_the_command_line_fills_the_settings_in():
    import argparse

    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(), "en")
    words = ["generate", "a bear", "--base", "m.safetensors", "--lora", "a.safetensors:0.8", "--cfg", "5", "-o", "out"]
    found = parser.parse_args([*words, "--lora-dir", "loras", "--count", "2"])
    made = found.settings(found)
    assert (made.base, made.guidance, made.count, made.steps) == ("m.safetensors", 5, 2, 28)
    assert [(lora.path, lora.strength) for lora in made.loras] == [(Path("a.safetensors"), 0.8)]
    assert made.folders == [Path("loras")]
    assert made.output == Path("out")
