"""Hashes against computations of their own."""

import hashlib
import json
import os
import struct
from pathlib import Path

import pytest
import torch

from lora_core.io import hashes
from lora_core.io.hashes import legacy_model_hash, model_hash
from lora_core.io.safetensors import save_atomic, with_lora_hashes


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(os.urandom(0x120000))
    return path


def test_model_hashes(big: Path, tmp_path: Path):
    raw = big.read_bytes()
    assert legacy_model_hash(big) == hashlib.sha256(raw[0x100000:0x110000]).hexdigest()[:8]
    assert model_hash(big, tmp_path / "cache.json") == hashlib.sha256(raw).hexdigest()


def test_a_small_file_has_the_legacy_hash_of_nothing(tmp_path: Path):
    (tmp_path / "m").write_bytes(b"small")
    assert legacy_model_hash(tmp_path / "m") == hashlib.sha256(b"").hexdigest()[:8]


def test_a_hash_is_computed_once_until_the_file_changes(big: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = tmp_path / "cache" / "hashes.json"
    first = model_hash(big, cache)
    monkeypatch.setattr(hashes, "sha256", lambda path: "computed again")
    assert model_hash(big, cache) == first
    big.write_bytes(b"changed")
    assert model_hash(big, cache) == "computed again"


@pytest.mark.parametrize("content", ["", "not json", "[]", '{"a": 3}'])
def test_a_broken_cache_costs_only_time(big: Path, tmp_path: Path, content: str):
    cache = tmp_path / "hashes.json"
    cache.write_text(content)
    assert model_hash(big, cache) == hashlib.sha256(big.read_bytes()).hexdigest()
    assert str(big.resolve()) in json.loads(cache.read_text())


def test_a_cache_that_cannot_be_written_costs_only_time(big: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    assert model_hash(big, tmp_path / "file" / "hashes.json") == hashlib.sha256(big.read_bytes()).hexdigest()


def test_lora_hashes_are_those_of_the_file_with_training_metadata_only(tmp_path: Path):
    """The file is written and taken apart here byte by byte."""
    tensors = {"a.alpha": torch.tensor(4.0).half(), "a.lora_up.weight": torch.randn(600_000).view(600, 1000).half()}
    metadata = {"ss_epoch": "1", "ss_tag_frequency": '{"クマ": 3}', "modelspec.title": "x"}
    hashed = with_lora_hashes(tensors, metadata)
    assert hashed.items() >= metadata.items()
    save_atomic(tensors, {k: v for k, v in metadata.items() if k.startswith("ss_")}, tmp_path / "m.safetensors")
    raw = (tmp_path / "m.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    assert hashed["sshs_model_hash"] == hashlib.sha256(raw[8 + length :]).hexdigest()
    assert hashed["sshs_legacy_hash"] == hashlib.sha256(raw[0x100000:0x110000]).hexdigest()[:8]
    assert hashed["sshs_legacy_hash"] != hashlib.sha256(b"").hexdigest()[:8]


def test_editing_other_metadata_leaves_the_hashes(tmp_path: Path):
    tensors = {"a": torch.ones(10)}
    one, two = (with_lora_hashes(tensors, {"ss_epoch": "1", "modelspec.title": title}) for title in ("x", "other"))
    assert one["sshs_model_hash"] == two["sshs_model_hash"]
    assert one["sshs_legacy_hash"] == two["sshs_legacy_hash"]
