"""Previews of a merge are the pictures that the saved LoRA gives, and the model is itself again afterwards."""

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
from lora_core.families import FAMILIES
from lora_core.generate.draw import draw
from lora_core.generate.preview import STRENGTHS, preview, request
from lora_core.io.safetensors import read_tensors
from lora_core.runs import create_run
from lora_core.settings import LoraSettings, SampleSettings, Sd1Model, Sd2Model, SdxlModel
from lora_core.settings.tools import PreviewSettings
from tests.merge import makers
from tests.models import tiny_sd_folder
from tests.models_sdxl import tiny_folder

FOLDERS = {
    "sd1": tiny_sd_folder,
    "sd2": partial(tiny_folder, family="sd2"),
    "sdxl": partial(tiny_folder, family="sdxl"),
}
MODELS = {"sd1": Sd1Model, "sd2": Sd2Model, "sdxl": SdxlModel}


def make_studio(name: str, home: Path) -> tuple:
    """A tiny model, its folder, and a LoRA for it that shows."""
    folder = FOLDERS[name](home / "model")
    family = FAMILIES[name]
    components = family.load(MODELS[name](base=str(folder)), dtype=torch.float32, device=torch.device("cpu"))
    targets = family.adapter_targets(components, text_parts=family.trainable_text_parts)
    network = AdapterNetwork.create(targets, LoraSettings(rank=4), seed=1)
    for index, parameter in enumerate(network.parameters()):
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
    metadata = training_metadata_of(name)
    save_lora(network, metadata, home / "a.safetensors", "float")
    return home, folder, components


def training_metadata_of(name: str) -> dict[str, str]:
    """The family of a small LoRA shows nowhere but here."""
    return {"ss_base_model_version": {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}[name]}


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    return make_studio("sd1", tmp_path_factory.mktemp("studio"))


def settings_for(home, folder, prompts, ratio=1.0, **merge):
    loras = [{"path": home / "a.safetensors", "ratio": ratio}]
    return PreviewSettings.model_validate(
        {
            "merge": {"loras": loras, **merge},
            "base": str(folder),
            "prompts": prompts,
            "steps": 2,
            "width": 64,
            "height": 64,
        }
    )


def drawn(settings, root):
    return [event for event in preview(settings, create_run(settings, root)) if isinstance(event, FileSaved)]


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_it_shows_what_the_lora_does(name, tmp_path):
    home, folder, components = make_studio(name, tmp_path)
    settings = settings_for(home, folder, ["a bear"])
    files = drawn(settings, tmp_path)
    assert [file.facts["strength"] for file in files] == list(STRENGTHS[1])
    family = FAMILIES[name]
    targets = family.adapter_targets(components, text_parts=family.trainable_text_parts)
    network = AdapterNetwork.from_kohya(targets, read_tensors(home / "a.safetensors")).attach()
    try:
        for file in files:
            network.multiplier = file.facts["strength"]
            picture = draw(
                family, components, request("a bear", settings), SampleSettings(prompts="a bear"), MODELS[name]()
            )
            assert np.abs(np.asarray(picture.image).astype(int) - pixels(file.path)).max() <= 1
    finally:
        network.detach()
    assert np.abs(pixels(files[0].path) - pixels(files[2].path)).max() > 5, "with and without look alike"


def test_one_picture_for_each_of_many_prompts(studio, tmp_path):
    home, folder, _ = studio
    files = drawn(settings_for(home, folder, ["a bear", "a cat", "a dog", "a hut", "too many"]), tmp_path)
    assert [file.facts["strength"] for file in files] == [1.0] * 4
    assert len({file.path for file in files}) == 4


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"prompts": [" "]}, "preview.no_prompt"),
        ({"family": "flux"}, "preview.family"),
        ({"family": "sd1"}, "preview.no_layer"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(studio, tmp_path, change, key):
    home, folder, _ = studio
    settings = settings_for(home, folder, change.get("prompts", ["a bear"]))
    if "family" in change:
        makers.write_lora(tmp_path / "other.safetensors", change["family"])
        settings.merge.loras[0].path = tmp_path / "other.safetensors"
    with pytest.raises(UserError) as caught:
        drawn(settings, tmp_path / "runs")
    assert caught.value.key == key
