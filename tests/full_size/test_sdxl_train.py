"""Whole Stable Diffusion 2.1 and SDXL checkpoints in fp16 train three steps and save; diffusers loads the LoRA.

With random weights under the real keys. Prints seconds and peak memory (run with -s).
"""

import importlib.util
import json

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from peft.tuners.lora import LoraLayer

from lora_core.families import FAMILIES
from lora_core.io.safetensors import read_tensors
from lora_core.settings import Sd2Model, SdxlModel
from tests.families.test_sdxl_keys import shapes
from tests.models import PROJECT, full_size_file

pytestmark = pytest.mark.full_size

CASES = {
    "sd2": (Sd2Model, StableDiffusionPipeline, 138 + 192, 16),
    "sdxl": (SdxlModel, StableDiffusionXLPipeline, 72 + 192 + 722, 20),
}


@pytest.mark.parametrize("family", CASES)
def test_three_steps_and_into_diffusers(tmp_path, family: str):
    settings, pipeline, modules, most = CASES[family]
    spec = importlib.util.spec_from_file_location("full_size", PROJECT / "benchmarks" / "full_size.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    checkpoint = full_size_file(tmp_path / "model.safetensors", shapes(family), torch.float16)
    model = {"family": family, "prediction_type": "epsilon"}
    found = benchmark.measure(
        checkpoint,
        tmp_path,
        steps=3,
        size=128,
        model=model | {"base": str(checkpoint)},
        train={"mixed_precision": "bf16"},
    )
    print(f"\n{family}: {json.dumps(found)}")
    assert found["steps"] == 3
    assert found["peak_memory_gb"] < most
    lora = tmp_path / "out" / "full_size.safetensors"
    assert len({key.partition(".")[0] for key in read_tensors(lora)}) == modules

    components = FAMILIES[family].load(
        settings(base=str(checkpoint), prediction_type="epsilon"), dtype=torch.bfloat16, device=torch.device("cpu")
    )
    parts = {part: components.part(part) for part in ("unet", "vae", *FAMILIES[family].text_parts)}
    tokenizers = {part.replace("text_encoder", "tokenizer"): t for part, t in components.tokenizers.items()}
    others = {} if family == "sdxl" else {"safety_checker": None, "feature_extractor": None}
    pipe = pipeline(**parts, **tokenizers, scheduler=EulerDiscreteScheduler(), **others)
    pipe.load_lora_weights(lora.parent, weight_name=lora.name)
    loaded = [m for part in parts.values() for m in part.modules() if isinstance(m, LoraLayer)]
    assert len(loaded) == modules
