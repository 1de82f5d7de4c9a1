"""A whole Stable Diffusion 1.5 checkpoint in float32 trains ten steps at 256 px and saves, without the network."""

import importlib.util

import pytest

from tests.models import PROJECT, full_size_sd15

pytestmark = pytest.mark.full_size


def test_ten_steps_within_24_gb(tmp_path):
    spec = importlib.util.spec_from_file_location("full_size", PROJECT / "benchmarks" / "full_size.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    found = benchmark.measure(full_size_sd15(tmp_path / "sd15.safetensors"), tmp_path, steps=10, size=256)
    assert found["steps"] == 10
    assert found["peak_memory_gb"] < 24
    assert found["lora_mb"] > 15  # 264 modules at rank 16 in fp16
