"""Files that are whole or not there at all."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lora_core.errors import UserError
from lora_core.io import safetensors as files
from lora_core.io.safetensors import open_tensors, read_tensors, save_atomic

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.float16), "n": torch.tensor(3)}


def test_what_is_written_is_read_back(tmp_path: Path):
    path = tmp_path / "出力 1" / "クマ.safetensors"
    save_atomic(TENSORS, {"ss_epoch": "1"}, path)
    assert all(torch.equal(load_file(path)[name], tensor) for name, tensor in TENSORS.items())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"ss_epoch": "1"}
    assert os.listdir(path.parent) == [path.name]


def test_any_tensor_can_be_written(tmp_path: Path):
    """Transposed views, parameters that require grad, tensors that share memory."""
    whole = torch.randn(4, 4)
    tensors = {"view": whole.T, "parameter": torch.nn.Parameter(whole), "same": whole, "part": whole[1:2]}
    save_atomic(tensors, {}, tmp_path / "m.safetensors")
    assert all(torch.equal(load_file(tmp_path / "m.safetensors")[k], t) for k, t in tensors.items())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_others_may_read_it_as_any_other_file(tmp_path: Path):
    (tmp_path / "usual").touch()
    save_atomic(TENSORS, {}, tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_reading_converts_floats_only(tmp_path: Path):
    save_atomic(TENSORS, {}, tmp_path / "m.safetensors")
    read = read_tensors(tmp_path / "m.safetensors", dtype=torch.bfloat16)
    assert [read[name].dtype for name in "abn"] == [torch.bfloat16, torch.bfloat16, torch.int64]


def test_reading_one_tensor_of_many(tmp_path: Path):
    save_atomic(TENSORS, {}, tmp_path / "m.safetensors")
    assert set(read_tensors(tmp_path / "m.safetensors", ["b"])) == {"b"}
    with open_tensors(tmp_path / "m.safetensors") as (names, read):
        assert set(names) == set(TENSORS)
        assert torch.equal(read("a"), TENSORS["a"])


def refusing(error: OSError):
    def write(*args: object) -> None:
        args[1].write_bytes(b"half a file")
        raise error

    return write


@pytest.mark.parametrize(
    ("error", "key"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "file.disk_full"),
        (files.SafetensorError("I/O error: No space left on device (os error 28)"), "file.disk_full"),
        (OSError(errno.EACCES, "Permission denied"), "file.cannot_write"),
    ],
    ids=["full", "full, said by the library", "not permitted"],
)
def test_a_failed_write_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, key: str):
    path = tmp_path / "m.safetensors"
    save_atomic(TENSORS, {}, path)
    before = path.read_bytes()
    monkeypatch.setattr(files, "save_file", refusing(error))
    with pytest.raises(UserError) as caught:
        save_atomic({"a": torch.zeros(9)}, {}, path)
    assert caught.value.key == key
    assert str(path) in caught.value.message("ja")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_a_place_that_is_no_folder(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError) as caught:
        save_atomic(TENSORS, {}, tmp_path / "file" / "m.safetensors")
    assert caught.value.key == "file.cannot_write"


def test_a_damaged_file_is_a_sentence(tmp_path: Path):
    save_atomic(TENSORS, {}, tmp_path / "m.safetensors")
    raw = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(raw.replace(b"F16", b"F17"))
    with pytest.raises(UserError) as caught:
        read_tensors(tmp_path / "m.safetensors")
    assert caught.value.key == "model.damaged"
