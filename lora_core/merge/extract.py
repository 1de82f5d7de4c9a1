"""A LoRA out of two checkpoints: the best low-rank approximation of tuned minus base, layer by layer.

Memory holds a few copies of the largest layer, and the result.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_core.errors import UserError
from lora_core.events import EventBase, FileSaved, StageChanged
from lora_core.io.arrays import Array, decode, encode
from lora_core.io.hashes import legacy_model_hash, model_hash
from lora_core.io.kinds import FAMILY_NAMES
from lora_core.merge import recipe
from lora_core.merge.checkpoint import Checkpoint, Network, open_checkpoint
from lora_core.merge.combine import PROGRESS_EVERY, facts_of
from lora_core.merge.lora import save_result
from lora_core.merge.lowrank import LowRank, flat_shape
from lora_core.merge.outputs import check_output
from lora_core.merge.parallel import in_order
from lora_core.merge.randomized import Approximation, checked
from lora_core.merge.sizes import Sizes
from lora_core.settings.tools import ExtractSettings

BYTES = {"fp16": 2, "bf16": 2, "float": 4}
"""Of a number in the result."""


def extract(settings: ExtractSettings) -> Iterator[EventBase]:
    """Reads, compares, decomposes, writes. Raises UserError; nothing is then left behind."""
    yield StageChanged(stage="reading")
    pair = Pair.of(settings)
    sizes = Sizes.of(settings)
    output = check_output(settings, [pair.base.path, pair.tuned.path], expected_size(pair, sizes, settings.precision))
    found: dict[str, Approximation] = {}
    largest = 0.0

    def approximated(layer: str) -> tuple[float, Approximation | None]:
        """The largest difference of a layer, and its approximation if that is wanted."""
        difference = pair.difference(layer)
        size = float(np.abs(difference).max(initial=0.0))
        if size <= settings.min_diff:
            return size, None
        limit = sizes.limit(difference.shape)
        return size, checked(difference, rank=limit, energy=sizes.energy, name=layer)

    for done, (layer, (size, approximation)) in enumerate(in_order(approximated, pair.layers), 1):
        largest = max(largest, size)
        if approximation:
            found[layer] = approximation
        if done % PROGRESS_EVERY == 0 or done == len(pair.layers):
            yield StageChanged(stage="computing", done=done, total=len(pair.layers))
    if not found:
        _refuse_equal(pair, largest, settings.min_diff)
    if sizes.same_rank:
        yield from _alike(pair, found)
    yield StageChanged(stage="writing")
    changes = {layer: approximation.change for layer, approximation in found.items()}
    save_result(output, changes, {}, metadata(settings, pair, changes, output), settings.precision)
    yield FileSaved(path=output, kind="lora", facts=facts_of(changes, output) | {"kept": kept(found.values())})


def _alike(pair: "Pair", found: dict[str, Approximation]) -> Iterator[EventBase]:
    """Gives every layer the largest rank that one of its kind needs; those that have less are decomposed again."""
    ranks: dict[bool, int] = {}
    for approximation in found.values():
        kind = recipe.is_spatial(approximation.change.shape)
        ranks[kind] = max(ranks.get(kind, 0), approximation.change.rank)

    def enlarged(layer: str) -> Approximation:
        change = found[layer].change
        wanted = min(ranks[recipe.is_spatial(change.shape)], *flat_shape(change.shape))
        if change.rank >= wanted:
            return found[layer]
        return checked(pair.difference(layer), rank=wanted, name=layer)

    for done, (layer, approximation) in enumerate(in_order(enlarged, list(found)), 1):
        found[layer] = approximation
        if done % PROGRESS_EVERY == 0:
            yield StageChanged(stage="computing", done=done, total=len(found))


def kept(found: Iterable[Approximation]) -> float:
    """The share of the squared norm of all differences that the result holds, 0 to 1."""
    energies = [(float(np.square(one.values).sum()), one.error**2) for one in found]
    held, missed = (math.fsum(part) for part in zip(*energies, strict=True))
    return held / (held + missed) if held else 1.0


# ---- the two models --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two checkpoints of one family, and the layers to compare."""

    base: Checkpoint
    tuned: Checkpoint
    layers: Mapping[str, tuple[Network, Network]]
    """Canonical layer -> where base and tuned have it, in the order of the tuned model."""

    @classmethod
    def of(cls, settings: ExtractSettings) -> "Pair":
        """Raises UserError for what cannot be read or compared."""
        if settings.base is None:
            raise UserError("extract.no_base")
        if settings.tuned is None:
            raise UserError("extract.no_tuned")
        base, tuned = open_checkpoint(settings.base), open_checkpoint(settings.tuned)
        if base.family != tuned.family:
            raise UserError(
                "extract.other_family",
                base=base.path.name,
                base_family=FAMILY_NAMES[base.family],
                tuned=tuned.path.name,
                tuned_family=FAMILY_NAMES[tuned.family],
            )
        return cls(base, tuned, _common(base, tuned, settings))

    def shape(self, layer: str) -> tuple[int, ...]:
        return self.layers[layer][1].weights.shape(layer)

    def difference(self, layer: str) -> Array:
        """tuned - base in the tuned model's shape, float32; zero where the models differ by their number format alone.

        Raises UserError for numbers that are not finite.
        """
        base_network, tuned_network = self.layers[layer]
        tuned, base = tuned_network.read(layer), base_network.read(layer).reshape(self.shape(layer))
        formats = {_format(base_network, layer), _format(tuned_network, layer)}
        if len(formats) > 1 and any(_same_in(dtype, tuned, base) for dtype in formats):
            return np.zeros(tuned.shape, np.float32)
        difference = np.subtract(tuned, base, out=tuned).astype(np.float32, copy=False)
        if not np.isfinite(difference).all():
            raise UserError("extract.not_finite", base=self.base.path.name, tuned=self.tuned.path.name, layer=layer)
        return difference


def _common(base: Checkpoint, tuned: Checkpoint, settings: ExtractSettings) -> dict[str, tuple[Network, Network]]:
    """Layers that both have and that are wanted. Raises UserError for none, and for one of two sizes."""
    own = set(base.layers())
    layers: dict[str, tuple[Network, Network]] = {}
    for layer in tuned.layers():
        if layer not in own or (layer.startswith("lora_te") and not settings.text_encoder):
            continue
        pair = base.network(layer), tuned.network(layer)
        first, second = (network.weights.shape(layer) for network in pair)
        if flat_shape(first) != flat_shape(second):
            sizes = {"a": " x ".join(map(str, first)), "b": " x ".join(map(str, second))}
            raise UserError("extract.other_shape", layer=layer, **sizes)
        if settings.conv or not recipe.is_spatial(second):
            layers[layer] = pair
    if not layers:
        raise UserError("extract.nothing_common", base=base.path.name, tuned=tuned.path.name)
    return layers


def _format(network: Network, layer: str) -> str:
    spot = network.spots(layer)[0]
    return spot.file.tensors[spot.key].dtype


def _same_in(dtype: str, a: Array, b: Array) -> bool:
    """Whether two weights are one once rounded to a number format."""
    first, second = encode(a, dtype), encode(b, dtype)
    return bool(np.array_equal(decode(first, dtype, a.shape), decode(second, dtype, a.shape)))


def _refuse_equal(pair: Pair, largest: float, min_diff: float) -> None:
    names = {"base": pair.base.path.name, "tuned": pair.tuned.path.name}
    if largest > 0:
        raise UserError("extract.below_min_diff", **names, largest=f"{largest:.3g}", min_diff=f"{min_diff:g}")
    raise UserError("extract.identical", **names)


# ---- what the result says of itself ----------------------------------------------------------------------------------


def expected_size(pair: Pair, sizes: Sizes, precision: str) -> int:
    """Bytes of the result at most."""
    numbers = 0
    for layer in pair.layers:
        rows, columns = flat_shape(pair.shape(layer))
        numbers += (rows + columns) * min(sizes.limit(pair.shape(layer)) or rows, rows, columns)
    return numbers * BYTES[precision]


def metadata(settings: ExtractSettings, pair: Pair, changes: Mapping[str, LowRank], output: Path) -> dict[str, str]:
    """Of the result: what it was made of, and which model it is for."""
    steps = settings.model_dump(exclude={"base", "tuned", "output", "overwrite", "no_metadata"}, exclude_none=True)
    made = recipe.lora_metadata(
        title=output.stem,
        family=pair.tuned.family,
        changes=changes,
        sources=[recipe.Source(model.path, _own_metadata(model)) for model in (pair.tuned, pair.base)],
        recipe=steps,
    ) | base_entries(pair.base)
    return recipe.minimal(made) if settings.no_metadata else made


def _own_metadata(model: Checkpoint) -> Mapping[str, str]:
    return {} if model.is_folder else model.files[0].metadata


def base_entries(base: Checkpoint) -> dict[str, str]:
    """The model to use the LoRA on, by name and hashes."""
    entries = {"ss_sd_model_name": base.path.name}
    if base.path.is_file():
        entries["ss_sd_model_hash"] = legacy_model_hash(base.path)
        entries["ss_new_sd_model_hash"] = model_hash(base.path)
    return entries
