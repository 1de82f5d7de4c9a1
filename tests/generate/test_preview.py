"""Previews of a merge are the pictures that the saved LoRA gives, and the model is itself again afterwards."""

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
from lora_core.settings import LoraSettings, SampleSettings, Sd1Model
from lora_core.settings.tools import PreviewSettings
from tests.merge import makers
from tests.models import tiny_sd_folder


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """A tiny model, its folder, and a LoRA for it that shows."""
    home = tmp_path_factory.mktemp("studio")
    folder = tiny_sd_folder(home / "model")
    family = FAMILIES["sd1"]
    components = family.load(Sd1Model(base=str(folder)), dtype=torch.float32, device=torch.device("cpu"))
    network = AdapterNetwork.create(
        family.adapter_targets(components, text_parts=("text_encoder",)), LoraSettings(rank=4), seed=1
    )
    for index, parameter in enumerate(network.parameters()):
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
    save_lora(network, {"ss_base_model_version": "sd_v1"}, home / "a.safetensors", "float")
    return home, folder, components


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


def test_it_shows_what_the_lora_does(studio, tmp_path):
    home, folder, components = studio
    settings = settings_for(home, folder, ["a bear"])
    files = drawn(settings, tmp_path)
    assert [file.facts["strength"] for file in files] == list(STRENGTHS[1])
    family = FAMILIES["sd1"]
    targets = family.adapter_targets(components, text_parts=("text_encoder",))
    network = AdapterNetwork.from_kohya(targets, read_tensors(home / "a.safetensors")).attach()
    try:
        for file in files:
            network.multiplier = file.facts["strength"]
            picture = draw(
                family, components, request("a bear", settings), SampleSettings(prompts="a bear"), Sd1Model()
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
        ({"family": "sdxl"}, "preview.family"),
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
