"""The same LoRA with other names, another number format, other metadata, or without what no program reads."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_core.errors import UserError
from lora_core.events import EventBase, FileSaved, StageChanged
from lora_core.io.arrays import (
    FLOATS,
    PRECISIONS,
    Array,
    ArrayFile,
    decode,
    encode,
    hashes_of,
    open_arrays,
    overflows,
    write_stream,
)
from lora_core.io.tensors import TensorInfo
from lora_core.merge import recipe
from lora_core.merge.blocks import block_of, parse_names
from lora_core.merge.deltas import algorithm_of
from lora_core.merge.layer import Layer
from lora_core.merge.lora import LoraFile, load_lora
from lora_core.merge.lowrank import LowRank, svd
from lora_core.merge.names import Style, spell, split_key, tensor_key
from lora_core.merge.outputs import check_output
from lora_core.merge.sizes import Sizes
from lora_core.settings.tools import CleanSettings, ConvertSettings

DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"
ESSENTIAL = ("ss_v2", "ss_base_model_version", "ss_network_module", "ss_network_dim", "ss_network_alpha")
EDITABLE_LIMIT = 10_000_000
"""Characters one metadata entry may have; more is no text but an attack or a mistake."""


@dataclass(frozen=True)
class Stored:
    """A tensor as it will stand in a file."""

    dtype: str
    shape: tuple[int, ...]
    raw: Array


def convert(settings: ConvertSettings) -> Iterator[EventBase]:
    """Reads, renames, writes. Raises UserError; nothing is then left behind."""
    yield StageChanged(stage="reading")
    if settings.lora is None:
        raise UserError("merge.no_lora")
    file = load_lora(settings.lora)
    output = check_output(settings, [file.path])
    yield StageChanged(stage="computing")
    with open_arrays(file.path) as opened:
        if settings.names == "same":
            tensors = {key: stored(opened, key, settings.precision) for key in opened.tensors}
        else:
            tensors = renamed(file, opened, settings.names, settings.precision)
        metadata = edited(file, settings, tensors)
        yield StageChanged(stage="writing")
        save_stored(tensors, metadata, output)
    yield FileSaved(path=output, kind="lora", facts={"tensors": len(tensors), "size": output.stat().st_size})


def clean(settings: CleanSettings) -> Iterator[EventBase]:
    """Drops keys that no program reads, layers that do nothing, and blocks nobody wants; the rest stays bit for bit."""
    yield StageChanged(stage="reading")
    if settings.lora is None:
        raise UserError("merge.no_lora")
    file = load_lora(settings.lora)
    output = check_output(settings, [file.path])
    yield StageChanged(stage="computing")
    unwanted = dropped_layers(file, settings)
    with open_arrays(file.path) as opened:
        kept = [key for key in opened.tensors if key not in file.junk and _layer_of(key) not in unwanted]
        if not kept:
            raise UserError("merge.nothing_left")
        tensors = {key: stored(opened, key, settings.precision) for key in kept}
        metadata = cleaned_metadata(file, settings, unwanted)
        yield StageChanged(stage="writing")
        save_stored(tensors, metadata, output)
        facts = {
            "tensors": len(tensors),
            "junk": len(file.junk),
            "layers_dropped": len(unwanted),
            "size": output.stat().st_size,
            "size_before": file.path.stat().st_size,
        }
    yield FileSaved(path=output, kind="lora", facts=facts)


def _layer_of(key: str) -> str:
    parted = split_key(key)
    return parted[0] if parted else ""


def dropped_layers(file: LoraFile, settings: CleanSettings) -> set[str]:
    """Layers, as the file spells them, that go: in unwanted blocks, or without any effect."""
    blocks = set(parse_names(settings.remove_blocks, file.family)) if settings.remove_blocks.strip() else set()
    unwanted: set[str] = set()
    for name, pieces in file.layers.items():
        if block_of(name, file.family) in blocks:
            unwanted |= {piece.spelled for piece in pieces}
        elif settings.zero_layers:
            unwanted |= {piece.spelled for piece in pieces if does_nothing(piece)}
    return unwanted


def does_nothing(layer: Layer) -> bool:
    """Whether one of the factors of a plain LoRA layer is zero throughout, or its alpha is."""
    tensors = layer.tensors
    if algorithm_of(tensors) not in ("lora", "locon"):
        return False
    if ALPHA in tensors and not np.any(tensors[ALPHA]):
        return True
    return any(key in tensors and not np.any(tensors[key]) for key in (DOWN, UP))


# ---- names -----------------------------------------------------------------------------------------------------------


def renamed(file: LoraFile, opened: ArrayFile, style: Style, precision: str) -> dict[str, Stored]:
    """All layers in another style of names. Junk is left out; what has no place in the style is refused by name.

    diffusers and PEFT know no alpha in the file: there the scale is multiplied into the up matrix.
    """
    tensors: dict[str, Stored] = {}
    for name, pieces in file.layers.items():
        if _needs_factors(pieces, style, name, file):
            for spelled, factors in factors_in(file, name, style).items():
                tensors |= _encoded(spelled, factors, style, opened, pieces[0], precision)
        else:
            for piece in pieces:
                spelled = spell(name, file.family, style)[0][0]
                own = [key for key in opened.tensors if _layer_of(key) == piece.spelled]
                tensors |= {_renamed_key(key, spelled, style): stored(opened, key, precision) for key in own}
    return tensors


def _renamed_key(key: str, spelled: str, style: Style) -> str:
    parted = split_key(key)
    assert parted
    return tensor_key(spelled, parted[1], style)


def _needs_factors(pieces: list[Layer], style: Style, name: str, file: LoraFile) -> bool:
    """Whether numbers change: parts are joined or split, or a scale is multiplied in."""
    if style != "kohya":
        for piece in pieces:
            if algorithm_of(piece.tensors) not in ("lora", "locon") or "lora_mid.weight" in piece.tensors:
                raise UserError("convert.only_lora", layer=piece.spelled, style=style)
        return True
    return len(pieces) > 1 or pieces[0].rows is not None


def factors_in(file: LoraFile, name: str, style: Style) -> dict[str, LowRank]:
    """A layer as the layers of a style: a fused one in parts, parts as a fused one."""
    whole = file.change(name)
    if not isinstance(whole, LowRank):
        raise UserError("convert.only_lora", layer=name, style=style)
    whole = joined(file.layers[name], whole)
    places = spell(name, file.family, style)
    if len(places) == 1:
        return {places[0][0]: whole}
    return {spelled: _rows_of(whole, rows) for spelled, rows in places}


def joined(pieces: list[Layer], whole: LowRank) -> LowRank:
    """Parts that share their down matrix, as those of a split layer do, need not stand side by side."""
    if len(pieces) == 1:
        return whole
    found = svd(whole)
    rank = Sizes().choose(found.values, whole.shape)
    return found.truncate(rank) if rank < whole.rank else whole


def _rows_of(whole: LowRank, rows: tuple[int, int] | None) -> LowRank:
    assert rows is not None
    start, stop = rows
    return LowRank(whole.up[start:stop], whole.down, (stop - start, *whole.shape[1:]))


def _encoded(
    spelled: str, factors: LowRank, style: Style, opened: ArrayFile, like: Layer, precision: str
) -> dict[str, Stored]:
    rank, kernel = factors.rank, factors.shape[2:]
    down = factors.down.reshape(rank, factors.shape[1], *kernel) if kernel else factors.down
    up = factors.up.reshape(-1, rank, 1, 1) if kernel else factors.up
    dtype = PRECISIONS.get(precision) or _dtype_of(opened, like)
    values = {DOWN: down, UP: up}
    if style == "kohya":
        values[ALPHA] = np.array(rank, np.float32)
    return {tensor_key(spelled, kind, style): as_stored(spelled, array, dtype) for kind, array in values.items()}


def _dtype_of(opened: ArrayFile, layer: Layer) -> str:
    """Number format of a layer in its file; 8-bit floats, which factors do not survive twice, become half precision."""
    keys = [key for key in opened.tensors if _layer_of(key) == layer.spelled and opened.tensors[key].shape]
    dtype = opened.tensors[keys[0]].dtype if keys else "F16"
    return dtype if dtype in ("F32", "BF16", "F16") else "F16"


# ---- numbers ---------------------------------------------------------------------------------------------------------


def stored(opened: ArrayFile, key: str, precision: str) -> Stored:
    """A tensor of a file in a precision; "same" keeps its bytes."""
    info = opened.tensors[key]
    wanted = PRECISIONS.get(precision)
    if wanted is None or wanted == info.dtype or info.dtype not in FLOATS:
        return Stored(info.dtype, info.shape, opened.raw(key))
    return as_stored(key, opened.read(key), wanted)


def as_stored(name: str, values: Array, dtype: str) -> Stored:
    """Numbers in a format. Raises UserError when one is too large for it."""
    if overflows(values, dtype):
        raise UserError("convert.overflow", layer=name, precision=dtype.lower())
    return Stored(dtype, tuple(values.shape), encode(values, dtype))


def save_stored(tensors: Mapping[str, Stored], metadata: Mapping[str, str], path: Path) -> None:
    """Writes a LoRA with its hashes."""
    metadata = {key: value for key, value in metadata.items() if not key.startswith("sshs_")}
    hashes = hashes_of({key: (one.dtype, one.shape, one.raw) for key, one in tensors.items()}, metadata)
    infos = {key: TensorInfo(one.dtype, one.shape) for key, one in tensors.items()}
    write_stream(infos, lambda key: [tensors[key].raw], metadata | hashes, path)


# ---- metadata --------------------------------------------------------------------------------------------------------


def edited(file: LoraFile, settings: ConvertSettings, tensors: Mapping[str, Stored]) -> dict[str, str]:
    """The file's metadata after the wanted edits, true of the converted tensors."""
    metadata = dict(file.metadata)
    if settings.strip_metadata or settings.no_metadata:
        metadata = {key: metadata[key] for key in ESSENTIAL if key in metadata}
    if settings.names != "same":
        metadata |= _network_of(tensors, metadata)
    for key, value in settings.metadata.items():
        check_entry(key, value)
        if value is None:
            metadata.pop(key, None)
        else:
            metadata[key] = value
    return metadata


def check_entry(key: str, value: str | None) -> None:
    """Raises UserError for an entry that no file should have."""
    if not key.strip() or key.startswith("sshs_") or key == "__metadata__":
        raise UserError("convert.metadata_key", name=key or "(empty)")
    if value is not None and len(value) > EDITABLE_LIMIT:
        raise UserError("convert.metadata_long", name=key, limit=f"{EDITABLE_LIMIT:,}")


def _network_of(tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> dict[str, str]:
    """Rank and alpha after a change of names, where they were given: joined and split layers have other ranks."""
    if "ss_network_dim" not in metadata:
        return {}
    ranks: set[int] = set()
    alphas: set[float] = set()
    for key, one in tensors.items():
        parted = split_key(key)
        if parted and parted[1] == DOWN:
            ranks.add(one.shape[0])
        if parted and parted[1] == ALPHA and one.dtype in FLOATS:
            alphas.add(float(_scalar(one)))
    dim = str(ranks.pop()) if len(ranks) == 1 else recipe.DYNAMIC
    alpha = f"{alphas.pop():g}" if len(alphas) == 1 else dim if not alphas else recipe.DYNAMIC
    return {"ss_network_dim": dim, "ss_network_alpha": alpha}


def _scalar(one: Stored) -> float:
    return decode(np.array(one.raw, copy=True), one.dtype, one.shape).reshape(-1)[0]


def cleaned_metadata(file: LoraFile, settings: CleanSettings, unwanted: set[str]) -> dict[str, str]:
    if settings.no_metadata:
        return recipe.minimal(file.metadata)
    metadata = dict(file.metadata)
    if settings.remove_blocks.strip():
        steps = {"job": "clean", "remove_blocks": settings.remove_blocks.strip(), "layers_dropped": len(unwanted)}
        metadata |= recipe.recipe_entry(steps, [recipe.Source(file.path, file.metadata)])
    return metadata
