"""A .ckpt is a program. None of it may run: neither when it is looked at nor when it is loaded."""

import contextlib
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lora_core.errors import UserError
from lora_core.families.sd_files import Checkpoint, _load_pickle
from lora_core.io.headers import identify, read_header
from tests.models import ldm_state, tiny_parts


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, made: Path, function: Callable = os.mkdir):
        self.made, self.function = made, function

    def __reduce__(self) -> tuple:
        return self.function, (str(self.made),)


def evil_global(made: Path, path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(2), "b": Evil(made)}}, path)


def evil_legacy(made: Path, path: Path) -> None:
    torch.save({"a": Evil(made)}, path, _use_new_zipfile_serialization=False)


def evil_in_preamble(made: Path, path: Path) -> None:
    """In the pickles that old files have before the weights."""
    path.write_bytes(pickle.dumps(Evil(made), 2) * 4)


def evil_builtin(made: Path, path: Path) -> None:
    code = f"__import__('os').mkdir({str(made)!r})"
    program = b"cbuiltins\neval\n(V" + code.encode() + b"\ntR."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)


def evil_reduce_on_torch(made: Path, path: Path) -> None:
    """A function of torch that runs code of its own."""
    program = b"ctorch.utils._config_module\nexec\n(V" + f"open({str(made)!r},'w')".encode() + b"\ntR."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)


EVILS = [evil_global, evil_legacy, evil_in_preamble, evil_builtin, evil_reduce_on_torch]


@pytest.mark.parametrize("plant", EVILS)
@pytest.mark.parametrize("open_it", [identify, read_header, Checkpoint, _load_pickle])
def test_code_in_a_ckpt_never_runs(tmp_path: Path, plant: Callable, open_it: Callable):
    path, made = tmp_path / "m.ckpt", tmp_path / "made"
    plant(made, path)
    with pytest.raises(UserError) as caught:
        open_it(path)
    assert caught.value.key in {"model.holds_code", "model.damaged"}
    assert not made.exists()


def test_the_function_is_named(tmp_path: Path):
    evil_global(tmp_path / "made", tmp_path / "m.ckpt")
    with pytest.raises(UserError, match=r"(posix|nt)\.mkdir"):
        identify(tmp_path / "m.ckpt")


def test_records_of_training_tools_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As in the first Stable Diffusion checkpoints: a callback of pytorch-lightning beside the weights."""
    import sys
    from types import ModuleType

    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = ModuleType(name)
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": name})
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, part, ModuleType(part))
    monkeypatch.setitem(sys.modules, name, module)
    record = module.ModelCheckpoint()
    record.best = 3
    content = {"state_dict": {"a": torch.ones(2)}, "callbacks": {module.ModelCheckpoint: {"best": record}}}
    torch.save(content, tmp_path / "m.ckpt")
    monkeypatch.undo()
    assert torch.equal(Checkpoint(tmp_path / "m.ckpt").part("", torch.float32)["a"], torch.ones(2))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("nested", [False, True])
def test_weights_come_out_as_they_went_in(tmp_path: Path, legacy: bool, nested: bool):
    state = ldm_state(tiny_parts())
    path = tmp_path / "m.ckpt"
    torch.save({"state_dict": state} if nested else state, path, _use_new_zipfile_serialization=not legacy)
    assert set(read_header(path).tensors) == set(state)
    loaded = Checkpoint(path).part("", torch.float32)
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize("seed", range(20))
def test_damaged_pickles_give_a_sentence_or_less_not_a_crash(tmp_path: Path, seed: int):
    torch.save({"a": torch.zeros(10)}, tmp_path / "m.ckpt", _use_new_zipfile_serialization=False)
    raw = bytearray((tmp_path / "m.ckpt").read_bytes())
    generator = torch.Generator().manual_seed(seed)
    for place in torch.randint(2, len(raw), (8,), generator=generator):
        raw[place] = int(torch.randint(256, (1,), generator=generator))
    (tmp_path / "m.ckpt").write_bytes(raw)
    with contextlib.suppress(UserError):  # anything else would be a crash
        read_header(tmp_path / "m.ckpt")


def test_struct_sizes_of_a_hostile_header(tmp_path: Path):
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{" * 100)
    with pytest.raises(UserError):
        read_header(tmp_path / "m.safetensors")
