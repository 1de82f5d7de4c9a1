"""A model on disk, layer by layer: a .safetensors checkpoint or a diffusers folder, read in pieces.

Reading is by plain file access: pages of a mapped file would count as this program's memory, all 4 GB of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_core.errors import UserError
from lora_core.io.arrays import Array, decode
from lora_core.io.folders import read_json
from lora_core.io.headers import identify, read_header
from lora_core.io.kinds import Family
from lora_core.io.tensors import ITEM_SIZES, TensorInfo
from lora_core.merge.weights import Rows, Slot, WeightMap

PARTS: Mapping[str, str] = {
    "unet": "diffusion_pytorch_model",
    "transformer": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
"""Folders of a diffusers model that LoRAs change, and the stem of their weight files."""
PIECE = 1 << 22
"""Numbers in one piece: 32 MB in float64."""


@dataclass(frozen=True)
class TensorFile:
    """A .safetensors file whose tensors are read when they are asked for."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    spans: Mapping[str, tuple[int, int]]
    """First byte of each tensor in the file, and the byte after its last."""

    @classmethod
    def of(cls, path: Path) -> "TensorFile":
        """Raises UserError for a broken file and for a pickle, which cannot be read in pieces."""
        header = read_header(path)
        if header.container != "safetensors":
            raise UserError("model.not_safetensors", path=path)
        _refuse_unreadable(path, header.tensors)
        return cls(path, header.tensors, header.metadata, header.spans)

    def raw(self, key: str, size: int = PIECE * 4) -> Iterator[Array]:
        """The bytes of a tensor as they stand in the file, in pieces."""
        start, end = self.spans[key]
        for position in range(start, end, size):
            yield self._read(position, min(size, end - position))

    def rows(self, key: str, start: int, stop: int) -> Array:
        """Rows of a tensor, (stop - start, ...), float32 (float64 where the file has it). A single number is a row."""
        info = self.tensors[key]
        shape = info.shape or (1,)
        length = info.elements // max(shape[0], 1) * ITEM_SIZES[info.dtype]
        data = self._read(self.spans[key][0] + start * length, (stop - start) * length)
        return decode(data, info.dtype, (stop - start, *shape[1:]))

    def pieces(self, key: str) -> Iterator[tuple[int, int]]:
        """First row and the row after the last of pieces that fit into little memory."""
        info = self.tensors[key]
        rows = info.shape[0] if info.shape else 1
        step = max(1, PIECE * rows // max(info.elements, 1))
        for start in range(0, rows, step):
            yield start, min(start + step, rows)

    def _read(self, position: int, count: int) -> Array:
        """Exactly ``count`` bytes. Raises UserError when they cannot be read, or the file has become shorter."""
        data = np.empty(count, np.uint8)
        try:
            with self.path.open("rb") as file:
                file.seek(position)
                got = file.readinto(data.data)
        except OSError as error:
            raise UserError("model.cannot_read", path=self.path, reason=error.strerror or error) from error
        if got != count:
            raise UserError("model.truncated", path=self.path, missing=f"{count - got} bytes")
        return data


def _refuse_unreadable(path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Unknown number formats, and 8-bit weights with a scale beside them: sums with those would be wrong."""
    for key, info in tensors.items():
        if info.dtype not in ITEM_SIZES:
            raise UserError("tensor.unknown_format", path=path, tensor=key, dtype=info.dtype)
    if "scaled_fp8" in tensors or any(key.endswith((".scale_weight", ".weight_scale")) for key in tensors):
        raise UserError("checkpoint.scaled_fp8", path=path)


@dataclass(frozen=True)
class Spot:
    """A piece of a layer: rows of a tensor in a file."""

    file: TensorFile
    slot: Slot

    @property
    def key(self) -> str:
        return self.slot.key

    @property
    def rows(self) -> Rows:
        return self.slot.rows_in_weight or (0, self.file.tensors[self.key].shape[0])


@dataclass(frozen=True)
class Network:
    """One set of weight files with its map: a single file, or one part of a folder in one variant."""

    files: Sequence[TensorFile]
    weights: WeightMap
    by_key: Mapping[str, TensorFile]

    @classmethod
    def of(cls, files: Sequence[TensorFile], part: str | None = None, family: Family | None = None) -> "Network":
        by_key = {key: file for file in files for key in file.tensors}
        shapes = {key: info.shape for file in files for key, info in file.tensors.items()}
        return cls(files, WeightMap.of(shapes, part=part, family=family), by_key)

    def spots(self, layer: str) -> list[Spot]:
        return [Spot(self.by_key[slot.key], slot) for slot in self.weights.find(layer)]

    def bias_spots(self, layer: str) -> list[Spot]:
        return [Spot(self.by_key[slot.key], slot) for slot in self.weights.find_bias(layer)]

    def read(self, layer: str) -> Array:
        """The whole weight of a layer, float32 (float64 where the file has it). Raises KeyError if it is not there."""
        shape = self.weights.shape(layer)
        parts = [(spot.slot.rows_in_layer, spot.file.rows(spot.key, *spot.rows)) for spot in self.spots(layer)]
        if len(parts) == 1:
            return parts[0][1].reshape(shape)
        whole = np.zeros(shape, np.result_type(*(values for _, values in parts)))
        for rows, values in parts:
            whole[slice(*rows) if rows else slice(None)] = values.reshape(-1, *shape[1:])
        return whole


@dataclass(frozen=True)
class Checkpoint:
    """A model. ``networks`` has one entry for a single file, one for each part and variant of a folder."""

    path: Path
    family: Family
    networks: Sequence[Network]
    is_folder: bool

    @property
    def files(self) -> list[TensorFile]:
        return [file for network in self.networks for file in network.files]

    def layers(self) -> list[str]:
        """Canonical names of all linear and convolution layers, each once, in the order of the files."""
        return list(dict.fromkeys(layer for network in self.networks for layer in network.weights.layers()))

    def network(self, layer: str) -> Network:
        """The first network that has a layer. Raises KeyError if none has."""
        for network in self.networks:
            if network.weights.find(layer):
                return network
        raise KeyError(layer)


def open_checkpoint(path: Path) -> Checkpoint:
    """A model by its headers. Raises UserError for what is no such model, broken, or pickled."""
    kind = identify(path)
    if kind.container == "folder":
        networks = list(_folder_networks(path, kind.family))
    else:
        networks = [Network.of([TensorFile.of(path)])]
    if not any(network.weights.layers() for network in networks):
        raise UserError("checkpoint.none", path=path)
    family = kind.family if kind.container == "folder" and kind.family != "unknown" else networks[0].weights.family
    return Checkpoint(path, family, networks, kind.container == "folder")


def _folder_networks(folder: Path, family: Family) -> Iterator[Network]:
    """Every part in every variant. Raises UserError for a part that has only pickled weights."""
    for part, stem in PARTS.items():
        sets = weight_sets(folder / part, stem)
        if not sets and any((folder / part).glob("*.bin")):
            raise UserError("model.not_safetensors", path=folder / part)
        for files in sets:
            yield Network.of([TensorFile.of(file) for file in files], part, None if family == "unknown" else family)


def weight_sets(folder: Path, stem: str) -> list[list[Path]]:
    """The .safetensors of a part, full precision first: one file for each variant, or the files an index names.

    ``non_ema`` weights are for further training and are left alone.
    """
    sets = [
        [folder / Path(name).name for name in sorted(set(read_json(index).get("weight_map", {}).values()))]
        for index in sorted(folder.glob(f"{stem}*.safetensors.index*.json"))
    ]
    single = [path for path in sorted(folder.glob(f"{stem}*.safetensors")) if "-of-" not in path.name]
    sets += [[path] for path in single if "non_ema" not in path.name]
    for file in (file for files in sets for file in files):
        if not file.is_file():
            raise UserError("folder.part_missing", path=folder, name=file.name)
    return sorted(sets, key=lambda files: len(files[0].suffixes))
