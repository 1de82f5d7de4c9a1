"""Reads what tensors a .ckpt or .pt file holds, without torch and without running anything in it.

A pickle is a small program; every function it names is replaced here by a stand-in that does nothing.
"""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

from lora_core.errors import UserError
from lora_core.io.tensors import Header, TensorInfo

_STORAGES = {
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "DoubleStorage": "F64",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
_HARMLESS_MODULES = ("torch", "collections", "numpy", "pytorch_lightning", "_codecs", "__builtin__", "builtins")
_HARMFUL_BUILTINS = frozenset(
    {"eval", "exec", "compile", "open", "getattr", "setattr", "delattr", "__import__", "input", "breakpoint", "globals"}
)
_LEGACY_PREAMBLE = 3
"""Pickles before the object in files of torch before 1.6: magic number, protocol version, system."""


class _StandIn:
    """Takes the place of any class or function of the file: accepts everything, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_StandIn":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    extend = append


def _tensor(storage: Any, offset: int, size: tuple[int, ...], *rest: Any) -> TensorInfo:
    return TensorInfo(storage if isinstance(storage, str) else "F32", tuple(size))


def _parameter(data: Any, *rest: Any) -> Any:
    return data


class _Reader(pickle.Unpickler):
    """Builds dicts, lists and TensorInfo; collects in ``foreign`` the names of functions no model needs."""

    def __init__(self, file: Any):
        super().__init__(file)
        self.foreign: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        if name in _STORAGES and module.startswith("torch"):
            return _STORAGES[name]
        if name in {"_rebuild_tensor", "_rebuild_tensor_v2"}:
            return _tensor
        if name == "_rebuild_parameter":
            return _parameter
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module.partition(".")[0] not in _HARMLESS_MODULES or name in _HARMFUL_BUILTINS:
            self.foreign.add(f"{module}.{name}")
        return _StandIn

    def persistent_load(self, pid: Any) -> Any:
        """("storage", type, key, device, length): the type says the number format."""
        return pid[1] if isinstance(pid, tuple) and len(pid) > 1 else None


def read_pickle_header(path: Path) -> Header:
    """Tensors of a file written by torch.save, those in a nested ``state_dict`` included.

    Raises UserError for a damaged file and for one that would run code when opened the ordinary way.
    """
    try:
        content, foreign = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except UserError:
        raise
    except Exception as error:  # a damaged or hostile pickle may raise anything at all
        raise UserError("model.damaged", path=path) from error
    if foreign:
        raise UserError("model.holds_code", path=path, names=", ".join(sorted(foreign)[:3]))
    return Header(_tensors_of(content), container="pickle")


def _read_zip(path: Path) -> tuple[Any, set[str]]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
        if not names:
            raise UserError("model.no_model", path=path)
        with archive.open(names[0]) as file:
            reader = _Reader(file)
            return reader.load(), reader.foreign


def _read_legacy(path: Path) -> tuple[Any, set[str]]:
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            raise UserError("model.damaged", path=path)  # a zip archive without its end
        file.seek(0)
        for _ in range(_LEGACY_PREAMBLE):
            _Reader(file).load()
        reader = _Reader(file)
        return reader.load(), reader.foreign


def _tensors_of(content: Any) -> dict[str, TensorInfo]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        return {}
    return {str(name): value for name, value in content.items() if isinstance(value, TensorInfo)}
