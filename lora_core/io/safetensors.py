"""Reading tensors one by one and writing files that are whole or not there at all."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from lora_core.errors import UserError
from lora_core.io.hashes import lora_hashes
from lora_core.io.headers import read_header

Read = Callable[[str], Tensor]


def read_tensors(path: Path, keys: Iterable[str] | None = None, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The named tensors of a file (all by default) as copies of their own, so that the file can be replaced.

    With ``dtype`` floating-point tensors are converted one at a time: memory holds one version of them.
    """
    with open_tensors(path) as (names, read):
        return {key: _own(read(key), dtype) for key in (names if keys is None else keys)}


def _own(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype if tensor.is_floating_point() else None, copy=True)


@contextmanager
def open_tensors(path: Path) -> Iterator[tuple[list[str], Read]]:
    """Names in a .safetensors file and a function that reads one of them. Raises UserError for a broken file."""
    read_header(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield list(file.keys()), file.get_tensor
    except SafetensorError as error:
        raise UserError("model.damaged", path=path) from error


def with_lora_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a LoRA with its sshs_* hashes; tensors as they will be in the file, number format included."""
    serialised = save(_plain(tensors), {key: value for key, value in metadata.items() if key.startswith("ss_")})
    return dict(metadata) | lora_hashes(serialised)


def save_atomic(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    """Writes a .safetensors file under a temporary name beside its place, then renames it.

    Whoever reads ``path`` sees the old file or the whole new one. Raises UserError when the disk is full or the folder
    cannot be written; the old file is then untouched and the temporary one gone.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        _write(tensors, metadata, temporary)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise _write_error(error, path, sum(t.nbytes for t in tensors.values())) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    _to_disk(path.parent)


def _write(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    """Writes and syncs. The library makes files that only their owner may read; a web UI may run as somebody else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    usual_mode = path.stat().st_mode
    save_file(_plain(tensors), path, dict(metadata))
    path.chmod(usual_mode)
    _to_disk(path)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU; those that share memory become copies, for the library refuses them."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return plain


def _to_disk(path: Path) -> None:
    """Waits until the file, or a folder's list of names, is on the disk. Windows has no such wait for folders."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)


_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def _write_error(error: OSError | SafetensorError, path: Path, needed: int) -> UserError:
    """safetensors reports the system's error as text ("No space left on device (os error 28)")."""
    code = getattr(error, "errno", None)
    full = code in _FULL or any(f"os error {number})" in str(error) for number in (*_FULL, 112))  # 112: Windows
    if full:
        return UserError("file.disk_full", path=path, needed=_mb(needed), free=_mb(_free(path.parent)))
    return UserError("file.cannot_write", path=path, reason=getattr(error, "strerror", None) or str(error))


def _free(folder: Path) -> int:
    return next((shutil.disk_usage(p).free for p in (folder, *folder.absolute().parents) if p.exists()), 0)


def _mb(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
