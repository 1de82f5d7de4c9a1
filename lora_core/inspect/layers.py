"""The tensors of a LoRA file sorted by layer, as far as they can be: nothing is refused here, only noted."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lora_core.inspect import bounded
from lora_core.inspect.report import Naming, Part
from lora_core.io.kinds import Family
from lora_core.io.tensors import TensorInfo
from lora_core.merge.blocks import REST, block_of, names
from lora_core.merge.deltas import algorithm_of
from lora_core.merge.known import layers as known_layers
from lora_core.merge.names import locate, split_key

Shape = tuple[int, ...]

FACTORED = frozenset({"lora", "locon", "loha", "lokr", "dora", "glora"})
"""Algorithms with a rank."""
VECTORS = frozenset({"w_norm", "b_norm", "diff_b", "lora_up.bias"})

HALVES: tuple[tuple[str, ...], ...] = (
    ("lora_down.weight", "lora_up.weight"),
    ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    ("lokr_w1_a", "lokr_w1_b"),
    ("lokr_w2_a", "lokr_w2_b"),
    ("a1.weight", "a2.weight", "b1.weight", "b2.weight"),
    ("weight", "on_input"),
)
"""Tensors that are of no use without each other."""


@dataclass(frozen=True)
class FileLayer:
    """What the header says of one layer."""

    spelled: str
    name: str
    """Canonical; as spelled where the family has no such layer."""
    known: bool
    """Whether the family has such a layer."""
    rows: tuple[int, int] | None
    swapped: bool
    """Whether its two halves stand the other way round; see merge.names.Place."""
    part: Part
    block: str
    algorithm: str
    keys: Mapping[str, str]
    """Tensor as kohya and LyCORIS call it -> key in the file."""
    infos: Mapping[str, TensorInfo]

    @property
    def shapes(self) -> dict[str, Shape]:
        return {tensor: info.shape for tensor, info in self.infos.items()}

    @property
    def parameters(self) -> int:
        return sum(info.elements for tensor, info in self.infos.items() if tensor != "alpha")

    @property
    def rank(self) -> int | None:
        return rank_of(self.shapes)

    @property
    def missing(self) -> tuple[str, ...]:
        """Tensors without which those that are there are of no use; "weights" where there is an alpha alone."""
        have = self.infos.keys()
        if have <= {"alpha", "dora_scale", "scalar"}:
            return ("weights",)
        if have & {"lokr_w1", "lokr_w1_a", "lokr_w1_b"} and not have & {"lokr_w2", "lokr_w2_a", "lokr_w2_b"}:
            return ("lokr_w2",)
        if have & {"lokr_w2", "lokr_w2_a", "lokr_w2_b"} and not have & {"lokr_w1", "lokr_w1_a", "lokr_w1_b"}:
            return ("lokr_w1",)
        return tuple(tensor for group in HALVES if have & set(group) for tensor in group if tensor not in have)


@dataclass(frozen=True)
class Layers:
    """A file's layers, and what fits nowhere."""

    family: Family
    layers: tuple[FileLayer, ...]
    junk: tuple[str, ...] = ()
    """Keys that belong to no LoRA."""
    twice: tuple[str, ...] = ()
    """Layers or keys that are there in two spellings."""
    table: Mapping[str, Shape] = field(default_factory=dict)
    """The family's layers with their weight's shape."""

    @property
    def unknown(self) -> tuple[FileLayer, ...]:
        return tuple(layer for layer in self.layers if not layer.known)

    def weight_shape(self, layer: FileLayer) -> Shape | None:
        """Shape of the weight that a layer changes, as far as the file tells it; the model's where they agree."""
        told = told_shape(layer.shapes)
        known = self.table.get(layer.name)
        if known is None or (told is not None and layer.rows is None and not agrees(told, known)):
            return told
        return known

    @property
    def real_size(self) -> bool:
        """Whether the layers have the sizes of the family's real models (small test models have others)."""
        compared = [(told_shape(layer.shapes), self.table.get(layer.name)) for layer in self.layers if not layer.rows]
        fits = [agrees(told, known) for told, known in compared if told and known]
        return bool(self.table) and sum(fits) * 2 >= len(fits)


def group(tensors: Mapping[str, TensorInfo], family: Family) -> Layers:
    """Sorts a file's tensors by layer."""
    keys: dict[str, dict[str, str]] = {}
    junk, twice = [], []
    for key in tensors:
        parts = split_key(key)
        if parts is None:
            junk.append(key)
        elif parts[1] in keys.setdefault(parts[0], {}):
            twice.append(key)
        else:
            keys[parts[0]][parts[1]] = key
    layers = [_layer(spelled, own, tensors, family) for spelled, own in keys.items()]
    return Layers(family, tuple(layers), tuple(junk), (*twice, *_twice(layers)), known_layers(family))


def _layer(spelled: str, keys: Mapping[str, str], tensors: Mapping[str, TensorInfo], family: Family) -> FileLayer:
    infos = {tensor: tensors[key] for tensor, key in keys.items()}
    place = locate(spelled, family)
    name = place.name if place else bounded.plain(spelled, 200)
    block = block_of(name, family) if place else REST
    return FileLayer(
        spelled=spelled,
        name=name,
        known=place is not None,
        rows=place.rows if place else None,
        swapped=place.swapped if place else False,
        part=part_of(name),
        block=block,
        algorithm=algorithm_of(infos),
        keys=keys,
        infos=infos,
    )


def _twice(layers: Sequence[FileLayer]) -> list[str]:
    """Layers whose rows another layer of the file changes too, under another name."""
    seen: dict[str, list[FileLayer]] = {}
    found = []
    for layer in layers:
        others = seen.setdefault(layer.name, [])
        if layer.known and any(_overlap(layer.rows, other.rows) for other in others):
            found.append(layer.spelled)
        others.append(layer)
    return found


def _overlap(a: tuple[int, int] | None, b: tuple[int, int] | None) -> bool:
    return a is None or b is None or (a[0] < b[1] and b[0] < a[1])


_PARTS: tuple[tuple[str, Part], ...] = (
    (r"lora_te2_|text_encoder_2\.", "te2"),
    (r"lora_te3_|text_encoder_3\.|t5", "te3"),
    (r"lora_te1?_|text_encoder\.|text_model", "te1"),
)


def part_of(name: str) -> Part:
    """The network a layer is of."""
    return next((part for mark, part in _PARTS if re.match(mark, name)), "unet")


def block_order(family: Family) -> tuple[str, ...]:
    """Blocks of a family in the order of the model, REST last."""
    return (*(names(family) if family in ("sd1", "sd2", "sdxl", "flux") else ()), REST)


# ---- what shapes tell ------------------------------------------------------------------------------------------------


def rank_of(shapes: Mapping[str, Shape]) -> int | None:
    """The rank of a layer by the shapes of its tensors; None for algorithms without one."""
    sides = (
        ("lora_down.weight", 0),
        ("hada_w1_b", 0),
        ("lokr_w1_b", 0),
        ("lokr_w2_b", 0),
        ("b2.weight", 0),
        ("lora_up.weight", 1),
        ("hada_w1_a", 1),
    )
    for tensor, side in sides:
        if len(shapes.get(tensor, ())) > side:
            return min(shapes[tensor][:2]) if tensor == "b2.weight" else shapes[tensor][side]
    return None


def told_shape(shapes: Mapping[str, Shape]) -> Shape | None:
    """The shape of the changed weight, as far as the tensors tell it: (O, I) or (O, I, height, width)."""
    if "diff" in shapes:
        return shapes["diff"]
    up, down = shapes.get("lora_up.weight"), shapes.get("lora_down.weight")
    if up and down and len(up) >= 2 and len(down) >= 2:
        window = shapes.get("lora_mid.weight", down)[2:]
        return (up[0], down[1], *(window if len(down) == 4 else ()))
    first, second = shapes.get("hada_w1_a"), shapes.get("hada_w1_b")
    if first and second and "hada_t1" not in shapes and len(first) == len(second) == 2:
        return (first[0], second[1])
    return _kronecker_shape(shapes)


def _kronecker_shape(shapes: Mapping[str, Shape]) -> Shape | None:
    """The shape of LoKr's w1 (x) w2; a convolution of factors w2_a w2_b looks flattened, as a linear layer's."""
    small, large = (_side_shape(shapes, f"lokr_w{side}") for side in "12")
    if small is None or large is None or "lokr_t1" in shapes or "lokr_t2" in shapes:
        return None
    return (small[0] * large[0], small[1] * large[1], *large[2:])


def _side_shape(shapes: Mapping[str, Shape], name: str) -> Shape | None:
    """One of LoKr's matrices, full or as two factors."""
    full, left, right = (shapes.get(key, ()) for key in (name, f"{name}_a", f"{name}_b"))
    if len(full) >= 2:
        return full
    return (left[0], right[1]) if len(left) == len(right) == 2 else None


def agrees(told: Shape, known: Shape) -> bool:
    """Whether two shapes are of one weight: 1x1 windows may be left out, convolutions may be flattened."""
    return told[0] == known[0] and _product(told[1:]) == _product(known[1:])


def _product(sides: Sequence[int]) -> int:
    count = 1
    for side in sides:
        count *= side
    return count


# ---- spelling --------------------------------------------------------------------------------------------------------


def naming_of(layers: Layers) -> Naming:
    """How the file spells layers and tensors: kohya (lora_unet_ ... lora_down), diffusers (unet. ... lora_A), peft."""
    found = {_naming(layer) for layer in layers.layers}
    if len(found) > 1:
        return "mixed"
    return found.pop() if found else "unknown"


def _naming(layer: FileLayer) -> Naming:
    if re.match(r"(lora|oft|lycoris)_", layer.spelled) and "." not in layer.spelled:
        return "kohya"
    peft = layer.spelled.startswith("base_model.") or any(".default." in key for key in layer.keys.values())
    if peft:
        return "peft"
    return "diffusers" if "." in layer.spelled else "unknown"
