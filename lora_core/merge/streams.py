"""Writing a .safetensors file piece by piece, as steps of a job that can be stopped between them."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from lora_core.io.arrays import Chunks, _header, byte_size
from lora_core.io.tensors import TensorInfo
from lora_core.io.writing import replacing, write_error


def writing(
    tensors: Mapping[str, TensorInfo], chunks: Callable[[str], Chunks], metadata: Mapping[str, str], path: Path
) -> Iterator[int]:
    """As arrays.write_stream, and yields the number of bytes after each piece.

    When the steps are not taken to the end nothing is left behind. Raises UserError when it cannot be written.
    """
    header, order = _header(tensors, metadata or None)
    needed = len(header) + sum(map(byte_size, tensors.values()))
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(header)
            for name in order:
                expected = file.tell() + byte_size(tensors[name])
                for piece in chunks(name):
                    yield file.write(np.ascontiguousarray(piece).data)
                assert file.tell() == expected, f"{name}: not as long as its shape says"
    except OSError as error:
        raise write_error(error, path, needed) from error
