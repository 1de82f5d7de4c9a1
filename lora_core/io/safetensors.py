"""Reading tensors one by one and writing files that are whole or not there at all."""

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
from lora_core.io.writing import replacing, write_error

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
    try:
        with replacing(path) as temporary:
            save_file(_plain(tensors), temporary, dict(metadata))
    except (OSError, SafetensorError) as error:
        raise write_error(error, path, sum(t.nbytes for t in tensors.values())) from error


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
