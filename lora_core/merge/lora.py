"""LoRA files as changes of named layers: reading any spelling and algorithm, writing kohya's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lora_core.errors import UserError
from lora_core.io.arrays import FLOATS, PRECISIONS, ArrayFile, Precision, decode, encode, open_arrays, save_arrays
from lora_core.io.kinds import FAMILY_NAMES, Family, FileKind, classify
from lora_core.io.tensors import Header
from lora_core.merge import known
from lora_core.merge.algorithms.plain import DOWN, UP
from lora_core.merge.deltas import algorithm_of, change_of, check_layer, needs_base, vectors_of
from lora_core.merge.layer import Array, Change, Dense, Layer, Rows
from lora_core.merge.lora_alphas import Alphas
from lora_core.merge.lowrank import LowRank, concat
from lora_core.merge.names import Place, locate, split_key

__all__ = ["Layer", "LoraFile", "load_lora", "save_result"]

FAMILIES: tuple[Family, ...] = ("sd1", "sd2", "sdxl", "flux")
"""Families whose layers have names here."""


@dataclass(frozen=True)
class LoraFile:
    """A LoRA in memory. Numbers are float32 whatever the file has (float64 for float64)."""

    path: Path
    family: Family
    layers: Mapping[str, list[Layer]]
    """Canonical name -> one layer, or the parts of a fused one."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    junk: list[str] = field(default_factory=list)
    """Keys that belong to no layer of the family."""
    dtype: str = ""
    """Number format of most weights: fp32, fp16, bf16, fp8 ..."""

    def names(self) -> list[str]:
        """Canonical layers whose weight the file changes (all but those with vectors only), in the file's order."""
        return [name for name in self.layers if self.algorithm(name) != "norm"]

    def algorithm(self, name: str) -> str:
        """The algorithm of a canonical layer; see deltas.algorithm_of. "norm" if none of its parts changes a matrix."""
        found = [algorithm_of(part.tensors) for part in self.layers[name]]
        return next((algorithm for algorithm in found if algorithm != "norm"), "norm")

    def needs_base(self) -> list[str]:
        """The layers whose change can only be told with the base model's weights at hand."""
        return [name for name, parts in self.layers.items() if any(needs_base(part.tensors) for part in parts)]

    def change(self, name: str, base: Array | None = None) -> Change:
        """The change of a canonical layer's weight at strength 1; parts of a fused layer summed up.

        ``base`` is the whole weight (needed by DoRA, GLoRA, IA3). The shape is the base's; without it, with the kernel
        that the family's layer has. Of a layer with vectors only it is nothing. Raises UserError as deltas.change_of.
        """
        model = known.layers(self.family).get(name)
        parts = [part for part in self.layers[name] if algorithm_of(part.tensors) != "norm"]
        if not parts:
            return change_of(self.layers[name][0], base, model)
        changes = [change_of(part, base) for part in parts]
        whole = changes[0] if len(changes) == 1 else _sum(changes)
        return whole if base is not None else _with_kernel(whole, model)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the layer's weight: the real model's where it has the layer, else as the file tells it."""
        return known.layers(self.family).get(name) or self.change(name).shape

    def vectors(self) -> dict[str, dict[str, Array]]:
        """Canonical layer -> {"w_norm" | "b_norm" | "diff_b": vector}, for layers that have any."""
        found = {name: _sum_vectors(map(vectors_of, parts)) for name, parts in self.layers.items()}
        return {name: vectors for name, vectors in found.items() if vectors}


def _sum(changes: list[Change]) -> Change:
    factors = [change for change in changes if isinstance(change, LowRank)]
    if len(factors) == len(changes):
        return concat(factors, [1.0] * len(factors))
    total = changes[0].dense().copy()
    for change in changes[1:]:
        total += change.dense()
    return Dense(total, changes[0].shape)


def _sum_vectors(parts: Iterable[Mapping[str, Array]]) -> dict[str, Array]:
    total: dict[str, Array] = {}
    for part in parts:
        for name, values in part.items():
            total[name] = total[name] + values if name in total else values
    return total


def _with_kernel(change: Change, model: tuple[int, ...] | None) -> Change:
    """The change with the kernel of the model's layer: files of LoHa, LoKr and PEFT may tell a convolution as a matrix.

    Sides may differ from the model's, as a small model's do.
    """
    kernel = model[2:] if model else change.shape[2:]
    places = int(np.prod(kernel, dtype=np.int64))
    columns = int(np.prod(change.shape[1:], dtype=np.int64))
    shape = (change.shape[0], columns // places, *kernel)
    if columns % places or shape == change.shape or len(change.shape) < 2:
        return change
    if isinstance(change, LowRank):
        return LowRank(change.up, change.down, shape)
    return Dense(change.array, shape)


# ---- reading ---------------------------------------------------------------------------------------------------------


def load_lora(path: Path, *, strict: bool = True) -> LoraFile:
    """Reads a LoRA file whole.

    Raises UserError for what is no LoRA, broken, pickled, of no known family or of two, for a layer that stands there
    twice, and, if ``strict``, for a layer with a half missing or of no known algorithm. What ``change`` finds out
    later: shapes that do not fit, NaN, rank 0.
    """
    with open_arrays(path) as file:
        keys, junk = _by_layer(path, file.tensors)
        kind = classify(path, Header(file.tensors, file.metadata))
        family = _checked_family(kind, keys)
        places, lost = _places(path, keys, family)
        junk += [key for spelled in lost for key in keys[spelled].values()]
        alphas = Alphas(path, file.metadata)
        layers: dict[str, list[Layer]] = {}
        for spelled, place in places.items():
            layer = _read_layer(file, place, spelled, keys[spelled], family, alphas)
            if strict:
                check_layer(layer)
            layers.setdefault(place.name, []).append(layer)
        for parts in layers.values():
            _check_parts(parts)
        return LoraFile(path, family, layers, dict(file.metadata), junk, kind.dtype)


Keys = dict[str, dict[str, str]]
"""Layer as spelled -> canonical tensor -> key in the file."""


def _by_layer(path: Path, names: Iterable[str]) -> tuple[Keys, list[str]]:
    """The keys of each layer, and those that belong to none. Raises UserError for two keys of one tensor."""
    layers: Keys = {}
    junk = []
    for key in names:
        split = split_key(key)
        if split is None:
            junk.append(key)
            continue
        own = layers.setdefault(split[0], {})
        if split[1] in own:
            raise UserError("lora.layer_twice", path=path, first=own[split[1]], second=key)
        own[split[1]] = key
    # A model's own "weight" looks like IA3's, which never comes alone.
    for spelled in [spelled for spelled, own in layers.items() if set(own) <= {"weight", "alpha"}]:
        junk += layers.pop(spelled).values()
    return layers, junk


def _checked_family(kind: FileKind, keys: Keys) -> Family:
    """Raises UserError for what is no LoRA, and for one of a model whose layers have no names here."""
    if kind.kind != "lora" or not keys:
        raise UserError("lora.not_a_lora", path=kind.path)
    if kind.family not in FAMILIES:
        families = ", ".join(FAMILY_NAMES[family] for family in FAMILIES)
        raise UserError("lora.no_known_family", path=kind.path, layer=next(iter(keys)), families=families)
    return kind.family


def _places(path: Path, keys: Keys, family: Family) -> tuple[dict[str, Place], list[str]]:
    """Where each layer belongs, and layers that the family does not have. Raises UserError for another family's."""
    places = {spelled: locate(spelled, family) for spelled in keys}
    lost = [spelled for spelled, place in places.items() if place is None]
    for spelled in lost:
        for other in FAMILIES:
            if other != family and locate(spelled, other):
                names = {"family": FAMILY_NAMES[family], "other": FAMILY_NAMES[other]}
                raise UserError("lora.mixed_families", path=path, layer=spelled, **names)
    found = {spelled: place for spelled, place in places.items() if place is not None}
    if not found:
        raise UserError("lora.not_a_lora", path=path)
    return found, lost


def _read_layer(
    file: ArrayFile, place: Place, spelled: str, keys: Mapping[str, str], family: Family, alphas: Alphas
) -> Layer:
    tensors = {}
    for tensor, key in keys.items():
        dtype = file.tensors[key].dtype
        if dtype not in FLOATS and tensor not in ("alpha", "on_input"):
            raise UserError("lora.whole_numbers", layer=f"{file.path.name}: {key}", dtype=dtype)
        tensors[tensor] = file.read(key)
        if tensor == "dora_scale" and "magnitude" in key:  # PEFT's is of the outputs, in whatever shape
            tensors[tensor] = tensors[tensor].reshape(-1)
    if "alpha" not in tensors and DOWN in tensors and tensors[DOWN].ndim:
        alpha = alphas.of(spelled, tensors[DOWN].shape[0])
        if alpha is not None:
            tensors["alpha"] = np.array(alpha, np.float64)
    total = known.layers(family)[place.name][0] if place.rows else None
    return Layer(place.name, spelled, tensors, place.rows, total, place.swapped, file.path)


def _check_parts(parts: list[Layer]) -> None:
    """Raises UserError if two of a canonical layer's parts change the same rows."""
    for index, part in enumerate(parts):
        for other in parts[:index]:
            if _overlap(part.rows, other.rows):
                raise UserError("lora.layer_twice", path=part.path, first=other.spelled, second=part.spelled)


def _overlap(a: Rows | None, b: Rows | None) -> bool:
    return a is None or b is None or (a[0] < b[1] and b[0] < a[1])


# ---- writing ---------------------------------------------------------------------------------------------------------


def save_result(
    path: Path,
    changes: Mapping[str, LowRank],
    vectors: Mapping[str, Mapping[str, Array]],
    metadata: Mapping[str, str],
    precision: Precision,
) -> None:
    """Writes changes as a kohya LoRA: alpha = rank in each layer, so that strength 1 plays the changes as they are.

    Ranks may differ between layers; a layer of rank 0 is left out. ``vectors`` are canonical layer -> {"w_norm",
    "b_norm" or "diff_b": vector}. Raises UserError where a number is too large for the precision or not finite, and
    when the file cannot be written.
    """
    state: dict[str, Array] = {}
    for name, change in changes.items():
        if change.rank:
            state |= {f"{name}.{tensor}": values for tensor, values in _kohya(change, precision).items()}
    for name, own in vectors.items():
        state |= {f"{name}.{tensor}": values for tensor, values in own.items()}
    for key, values in state.items():
        if not np.isfinite(values).all():
            raise UserError("lora.result_not_finite", path=path, tensor=key)
    save_arrays(state, metadata, path, precision)


def _kohya(change: LowRank, precision: Precision) -> dict[str, Array]:
    """lora_down (R, I, h, w), lora_up (O, R, 1, 1) and alpha = R.

    bf16 has 8 bits and cannot hold a rank such as 257: where alpha is rounded, the factor makes up for it.
    """
    rank = change.rank
    dtype = PRECISIONS[precision]
    alpha = float(decode(encode(np.array([rank], np.float32), dtype), dtype, (1,))[0])
    up = change.up if alpha == rank else change.up * (rank / alpha)
    ones = (1,) * (len(change.shape) - 2)
    return {
        DOWN: change.down.reshape(rank, *change.shape[1:]),
        UP: up.reshape(change.shape[0], rank, *ones),
        "alpha": np.array(alpha, np.float32),
    }
