"""Small LoRA files, and folders as the programs have them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from lora_core.io.arrays import save_arrays
from tests.merge import makers

DATA = {
    "ss_tag_frequency": json.dumps({"20_usu bear": {"usu bear": 6, "hat": 2}, "1_bear": {"bear": 9}}),
    "ss_dataset_dirs": json.dumps({"20_usu bear": {"n_repeats": 20, "img_count": 6}}),
    "ss_reg_dataset_dirs": json.dumps({"1_bear": {"n_repeats": 1, "img_count": 9}}),
}
"""What a training on "20_usu bear" with regularisation images writes."""


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch) -> Path:
    """Runs that say which file was kept at which strength: none but a test's own."""
    folder = tmp_path_factory.mktemp("kumakobo")
    monkeypatch.setenv("KUMAKOBO_HOME", str(folder))
    return folder


@pytest.fixture
def make_lora():
    """A LoRA file with a few layers of a family: cross attention tells Stable Diffusion 1 from 2."""

    def make(path: Path, family: str = "sd1", **metadata: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        small = makers.SMALL[family]
        layers = {name: shape for name, shape in small.items() if name in [*small][:2] or "attn2" in name}
        state = makers.lora_state(layers, family=family)
        save_arrays(state, makers.METADATA[family] | DATA | metadata, path, "fp16")
        return path

    return make


@pytest.fixture
def lora(tmp_path, make_lora) -> Path:
    return make_lora(tmp_path / "out put" / "うす.safetensors")


def picture(path: Path, color: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), color).save(path)
    return path


@pytest.fixture
def webui(tmp_path) -> Path:
    top = tmp_path / "my programs" / "webui"
    (top / "models" / "Lora").mkdir(parents=True)
    (top / "webui.py").touch()
    return top


@pytest.fixture
def forge(tmp_path) -> Path:
    top = tmp_path / "f"
    (top / "modules_forge").mkdir(parents=True)
    (top / "models" / "Lora").mkdir(parents=True)
    (top / "webui.py").touch()
    return top


@pytest.fixture
def comfy(tmp_path) -> Path:
    top = tmp_path / "ComfyUI"
    (top / "models" / "loras" / "bears").mkdir(parents=True)
    return top
