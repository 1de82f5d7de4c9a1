"""The tiny model as our loader gives it and as diffusers' own pipeline."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionPipeline

from lora_core.adapters import AdapterNetwork
from lora_core.families import FAMILIES
from lora_core.settings import LoraSettings, Sd1Model
from tests.models import tiny_sd_folder


@pytest.fixture(scope="session", params=["epsilon", "v_prediction"])
def folder(request, tmp_path_factory):
    return tiny_sd_folder(tmp_path_factory.mktemp("tiny") / request.param, prediction_type=request.param)


@pytest.fixture
def loaded(folder):
    """Family, components and a trained-looking network, not yet attached."""
    model = Sd1Model(base=str(folder))
    family = FAMILIES["sd1"]
    components = family.load(model, dtype=torch.float32, device=torch.device("cpu"))
    targets = family.adapter_targets(components, text_parts=("text_encoder",))
    network = AdapterNetwork.create(targets, LoraSettings(rank=4, alpha=2.0), seed=0)
    generator = torch.Generator().manual_seed(1)
    for adapter in network:
        adapter.up.data.normal_(0, 0.3, generator=generator)
    return SimpleNamespace(family=family, components=components, network=network.eval(), model=model)


@pytest.fixture
def pipeline(folder):
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe
