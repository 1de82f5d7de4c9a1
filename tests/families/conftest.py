from pathlib import Path

import pytest
import torch

from lora_core.families import FAMILIES
from lora_core.families.base import Components, ModelFamily
from lora_core.settings import Sd1Model
from tests.models import tiny_ldm_file, tiny_sd_folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd_folder(tmp_path_factory.mktemp("tiny") / "モデル 1")


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_ldm_file(tmp_path_factory.mktemp("tiny") / "モデル 1.safetensors")


@pytest.fixture(scope="session")
def sd1() -> ModelFamily:
    return FAMILIES["sd1"]


def load(base: Path | str, dtype: torch.dtype = torch.float32, **settings: object) -> Components:
    model = Sd1Model(base=str(base), **settings)
    return FAMILIES[model.family].load(model, dtype=dtype, device=torch.device("cpu"))


@pytest.fixture(scope="session")
def components(tiny_folder: Path) -> Components:
    return load(tiny_folder)
