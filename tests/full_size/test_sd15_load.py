"""A Stable Diffusion 1.5 checkpoint of full size, random weights in float32: 4.3 GB on disk, as much in memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import PROJECT, full_size_sd15

pytestmark = pytest.mark.full_size

LOAD = """
import resource, sys, time
import torch
from lora_core.families import FAMILIES
from lora_core.settings import Sd1Model

family = FAMILIES["sd1"]
started = time.perf_counter()
model = Sd1Model(base=sys.argv[1])
components = family.load(model, dtype=getattr(torch, sys.argv[2]), device=torch.device("cpu"))
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
weights = sum(t.nbytes for n in (components.denoiser, components.vae, components.text_encoder) for t in n.parameters())
with torch.no_grad():
    text = family.encode_prompts(components, ["a bear"], clip_skip=1, max_token_length=75)
    predicted = family.predict(components, torch.randn(1, 4, 32, 32), torch.tensor([500]), text)
assert predicted.isfinite().all()
assert len(family.adapter_targets(components, text_parts=("text_encoder",))) == 264
print(f"loaded in {seconds:.1f} s, peak memory {peak:.1f} GB, weights {weights / 2**30:.1f} GB")
assert peak < weights / 2**30 + 4.5 + 2, peak
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_size_sd15(tmp_path_factory.mktemp("sd15") / "sd15.safetensors")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux counts it")
def test_loads_without_holding_the_weights_twice(checkpoint: Path, dtype: str, capsys: pytest.CaptureFixture[str]):
    """Peak = the weights, the pages of the file being read (the system takes them back), and the libraries."""
    command = [sys.executable, "-c", LOAD, str(checkpoint), dtype]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    with capsys.disabled():
        print(f"\n{dtype}: {done.stdout.strip()}")
    assert done.returncode == 0, done.stderr[-3000:]
