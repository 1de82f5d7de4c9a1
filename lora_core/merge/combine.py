"""Merging LoRAs: the weighted sum of their changes, layer by layer, as one LoRA."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from lora_core.errors import UserError
from lora_core.events import EventBase, FileSaved, StageChanged, warned
from lora_core.io.kinds import FAMILY_NAMES, Family
from lora_core.merge import lowrank, recipe
from lora_core.merge.blocks import BlockWeights, parse
from lora_core.merge.checkpoint import Checkpoint, open_checkpoint
from lora_core.merge.layer import Change, Dense
from lora_core.merge.lora import LoraFile, load_lora, save_result
from lora_core.merge.lowrank import Array, LowRank, Svd
from lora_core.merge.methods import METHODS, Method, Options
from lora_core.merge.outputs import check_output
from lora_core.merge.parallel import in_order
from lora_core.merge.randomized import approximate
from lora_core.merge.sizes import Sizes, alike
from lora_core.settings.tools import LoraSource, MergeSettings, Size

CANCELLED = 3e-7
"""A sum this much smaller than its parts is rounding: a LoRA minus itself, at the rounding of float32."""
PROGRESS_EVERY = 16
"""Layers between two reports."""
LARGEST_SHOWN = 256
"""Singular values looked for in a change that is no product of factors, before a rank is chosen."""


@dataclass(frozen=True)
class Weighted:
    """A LoRA with the strength it has in a merge."""

    file: LoraFile
    source: LoraSource
    blocks: BlockWeights

    def weight(self, layer: str) -> float:
        return self.source.ratio * self.blocks.of(layer)

    def change(self, layer: str, base: Checkpoint | None) -> Change:
        """The change of a layer; the base model's weight is read only where the algorithm depends on it."""
        if base is None or layer not in self.on_base:
            return self.file.change(layer)
        try:
            return self.file.change(layer, base.network(layer).read(layer))
        except KeyError:
            raise UserError("base.no_layer", path=base.path, layer=layer) from None

    @cached_property
    def layers(self) -> frozenset[str]:
        """The layers whose weight it changes."""
        return frozenset(self.file.names())

    @cached_property
    def on_base(self) -> frozenset[str]:
        return frozenset(self.file.needs_base())

    @property
    def used(self) -> bool:
        return self.source.ratio != 0


def load_sources(sources: Sequence[LoraSource]) -> list[Weighted]:
    """The LoRAs with their weights. Raises UserError for a broken one, none at all, and a mix of families."""
    files = [load_lora(require_path(source)) for source in sources]
    if not files:
        raise UserError("merge.no_lora")
    same_family(files)
    return [Weighted(f, s, parse(s.block_weights, f.family)) for f, s in zip(files, sources, strict=True)]


def require_path(source: LoraSource) -> Path:
    if source.path is None:
        raise UserError("merge.no_lora")
    return source.path


def same_family(files: Sequence[LoraFile]) -> Family:
    """The one family of all files. Raises UserError naming two that differ."""
    first = files[0]
    for other in files[1:]:
        if other.family != first.family:
            raise UserError(
                "merge.family_mix",
                first=first.path.name,
                first_family=FAMILY_NAMES[first.family],
                other=other.path.name,
                other_family=FAMILY_NAMES[other.family],
            )
    return first.family


def layer_names(sources: Sequence[Weighted]) -> list[str]:
    """Every layer that any of the LoRAs changes, in the order they come."""
    return list(dict.fromkeys(name for source in sources if source.used for name in source.file.names()))


# ---- one layer -------------------------------------------------------------------------------------------------------


def changes_of(sources: Sequence[Weighted], layer: str, base: Checkpoint | None) -> tuple[list[Change], list[float]]:
    """What each LoRA that has the layer does to it, and how strongly it counts. A weight of 0 is left out."""
    changes: list[Change] = []
    weights: list[float] = []
    for source in sources:
        weight = source.weight(layer)
        if weight and layer in source.layers:
            changes.append(source.change(layer, base))
            weights.append(weight)
    return _same_shape(layer, changes), weights


def _same_shape(layer: str, changes: list[Change]) -> list[Change]:
    """A 1x1 convolution and a linear layer are one thing. Raises UserError for sizes that differ."""
    if len({change.shape for change in changes}) <= 1:
        return changes
    flat = {lowrank.flat_shape(change.shape) for change in changes}
    if len(flat) > 1:
        a, b = sorted(flat)[:2]
        raise UserError("merge.shape_mix", layer=layer, a=f"{a[0]} x {a[1]}", b=f"{b[0]} x {b[1]}")
    shape = max((change.shape for change in changes), key=len)
    return [reshaped(change, shape) for change in changes]


def reshaped(change: Change, shape: tuple[int, ...]) -> Change:
    return Dense(change.array, shape) if isinstance(change, Dense) else LowRank(change.up, change.down, shape)


def combine_layer(method: Method, changes: Sequence[Change], weights: Sequence[float], options: Options) -> Change:
    """One change out of several by a method: factors as long as they are factors."""
    if method.on_matrices:
        matrices = [change.dense() for change in changes]
        return Dense(method.on_matrices(matrices, weights, options), changes[0].shape)
    assert method.on_factors
    factors = [change for change in changes if isinstance(change, LowRank)]
    if len(factors) == len(changes):
        return method.on_factors(factors, weights)
    if not method.truncates:
        raise UserError("merge.needs_svd", layer=options.layer)
    total = sum((w * change.dense() for change, w in zip(changes, weights, strict=True)), start=np.float32(0))
    return Dense(np.asarray(total), changes[0].shape)


def decompose(change: Change, sizes: Sizes, layer: str) -> Svd | LowRank:
    """The singular values of a change; of a dense one as many as can be needed, already as factors."""
    if isinstance(change, LowRank):
        return change.svd
    return approximate(change.dense(), rank=sizes.limit(change.shape), energy=sizes.energy, name=layer)


def merged_layer(
    settings: MergeSettings, changes: Sequence[Change], weights: Sequence[float], layer: str, sizes: Sizes
) -> tuple[Change, Svd | LowRank]:
    """One layer's combined change, and its singular values. What cancels out to rounding is no change at all."""
    options = Options(settings.density, settings.seed, layer)
    whole = combine_layer(METHODS[settings.method], changes, weights, options)
    scale = sum(abs(w) * at_most(change) for change, w in zip(changes, weights, strict=True))
    found = decompose(whole, sizes, layer)
    left = found.values if isinstance(found, Svd) else found.svd.values
    if np.linalg.norm(left) <= CANCELLED * scale:
        nothing = lowrank.zero(whole.shape)
        return nothing, nothing
    return whole, found


def at_most(change: Change) -> float:
    """A bound of the Frobenius norm: |up| |down|, which is quicker to have than |up down|."""
    if isinstance(change, LowRank):
        return float(np.linalg.norm(change.up) * np.linalg.norm(change.down))
    return change.norm()


# ---- the whole -------------------------------------------------------------------------------------------------------


def merge(settings: MergeSettings) -> Iterator[EventBase]:
    """Reads, combines, writes. Raises UserError; nothing is then left behind."""
    yield StageChanged(stage="reading")
    check_size(settings)
    sources = load_sources(settings.loras)
    paths = [source.file.path for source in sources]
    output = check_output(settings, [*paths, *([settings.base] if settings.base else [])])
    yield from junk_warnings([source.file for source in sources])
    changes: dict[str, LowRank] = {}
    for done, total, layer, change in combined(settings, sources, opened_base(settings.base)):
        if change is not None:
            changes[layer] = change
        if done % PROGRESS_EVERY == 0 or done == total:
            yield StageChanged(stage="computing", done=done, total=total)
    changes = {layer: change for layer, change in changes.items() if change.rank}
    vectors = merged_vectors(sources)
    if not changes and not vectors:
        raise UserError("merge.nothing_left")
    yield StageChanged(stage="writing")
    save_result(output, changes, vectors, merge_metadata(settings, sources, changes, output), settings.precision)
    yield FileSaved(path=output, kind="lora", facts=facts_of(changes, output))


def junk_warnings(files: Sequence[LoraFile]) -> Iterator[EventBase]:
    """Says which keys are left behind because they belong to no layer of the model; nothing is skipped silently."""
    for file in files:
        if file.junk:
            values = {"name": file.path.name, "count": len(file.junk), "first": file.junk[0][:120]}
            yield warned("loras", "merge.junk_left", values)


FACTORED = frozenset({"lora", "locon", "loha", "lokr"})
"""Algorithms whose change is a product of factors, so that its singular values are quick to have."""


def is_quick(settings: MergeSettings, sources: Sequence[Weighted]) -> bool:
    """Whether the whole merge is a matter of a second: nothing in it forms whole matrices."""
    layers = (source.file.algorithm(name) for source in sources for name in source.layers)
    return METHODS[settings.method].on_matrices is None and all(algorithm in FACTORED for algorithm in layers)


def check_size(settings: MergeSettings) -> None:
    """Raises UserError where the result would have no end: whole matrices do not say how large their factors may be."""
    if METHODS[settings.method].on_matrices and settings.rank is None and settings.energy is None:
        raise UserError("merge.rank_needed", method=settings.method)


def opened_base(path: Path | None) -> Checkpoint | None:
    """The base model for algorithms that need it, or nothing."""
    return open_checkpoint(path) if path else None


def combined(
    settings: MergeSettings, sources: Sequence[Weighted], base: Checkpoint | None = None
) -> Iterator[tuple[int, int, str, LowRank | None]]:
    """(done, total, layer, result) for every layer; None where all weights are 0.

    With ``same_rank`` the results come at the end, when the largest rank is known.
    """
    method, sizes = METHODS[settings.method], Sizes.of(settings)
    layers = layer_names(sources)
    waiting: dict[str, Svd | LowRank] = {}

    def one(layer: str) -> LowRank | Svd | None:
        changes, ratios = changes_of(sources, layer, base)
        if not changes:
            return None
        if method.truncates:
            return merged_layer(settings, changes, ratios, layer, sizes)[1]
        whole = combine_layer(method, changes, ratios, Options(layer=layer))
        assert isinstance(whole, LowRank), "methods that do not truncate work on factors"
        return whole

    # Whole matrices are worth several threads; factors are so small that handing them over takes longer.
    results = ((n, one(n)) for n in layers) if is_quick(settings, sources) else in_order(one, layers)
    for number, (layer, found) in enumerate(results, 1):
        result: LowRank | None = None
        if found is not None and method.truncates and sizes.same_rank:
            waiting[layer] = found
        elif found is not None:
            result = sizes.cut(found)
        yield number, len(layers), layer, result
    for layer, result in sizes.cut_alike(waiting).items():
        yield len(layers), len(layers), layer, result


def merged_vectors(sources: Sequence[Weighted]) -> dict[str, dict[str, Array]]:
    """The weighted sums of what the LoRAs add to norms and biases; these are added whatever the method."""
    sums: dict[str, dict[str, Array]] = {}
    for source in sources:
        for layer, vectors in source.file.vectors().items():
            if weight := source.weight(layer):
                into = sums.setdefault(layer, {})
                for kind, vector in vectors.items():
                    into[kind] = into.get(kind, 0) + np.float32(weight) * vector
    return sums


def merge_metadata(
    settings: MergeSettings, sources: Sequence[Weighted], changes: Mapping[str, LowRank], output: Path
) -> dict[str, str]:
    steps = settings.model_dump(include={"job", "method", "rank", "conv_rank", "energy", "same_rank", "precision"})
    parameters = {name: getattr(settings, name) for name in METHODS[settings.method].parameters}
    metadata = recipe.lora_metadata(
        title=output.stem,
        family=sources[0].file.family,
        changes=changes,
        sources=[recipe.Source.of(source.source, source.file.metadata) for source in sources],
        recipe={key: value for key, value in steps.items() if value not in (None, False)} | parameters,
    )
    return recipe.minimal(metadata) if settings.no_metadata else metadata


def facts_of(changes: Mapping[str, LowRank], output: Path) -> dict[str, object]:
    """Numbers about a result for whoever shows it."""
    ranks = [change.rank for change in changes.values()]
    return {
        "layers": len(ranks),
        "rank_min": min(ranks, default=0),
        "rank_max": max(ranks, default=0),
        "size": output.stat().st_size if output.exists() else 0,
    }


# ---- before it is saved ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spectrum:
    """Singular values of every layer of a merge, falling. What a rank keeps can be told from these alone."""

    values: Mapping[str, Array]
    shapes: Mapping[str, tuple[int, ...]]
    squares: Mapping[str, float]
    """Squared Frobenius norm of every layer's change; of a dense one more than the values found add up to."""
    truncates: bool = True
    """False for methods that keep everything whatever the rank."""

    @property
    def total(self) -> float:
        """The squared Frobenius norm of everything."""
        return sum(self.squares.values())

    def ranks(self, sizes: Sizes) -> dict[str, int]:
        """The rank that every layer gets."""
        wanted = {n: sizes.choose(values, self.shapes[n], self.squares[n]) for n, values in self.values.items()}
        if sizes.same_rank:
            wanted = alike(wanted, self.shapes)
        return {layer: min(rank, len(self.values[layer])) for layer, rank in wanted.items()}

    def kept(self, sizes: Size) -> "Kept":
        """What sizes keep: of everything, and of the layer that loses most."""
        chosen = self.ranks(Sizes.of(sizes) if self.truncates else Sizes())
        kept = {layer: float(np.square(values[: chosen[layer]]).sum()) for layer, values in self.values.items()}
        shares = {layer: min(kept[layer] / square, 1.0) for layer, square in self.squares.items() if square}
        worst = min(shares, key=lambda layer: shares[layer], default="")
        share = min(sum(kept.values()) / self.total, 1.0) if self.total else 1.0
        return Kept(share, shares.get(worst, 1.0), worst, chosen)


@dataclass(frozen=True)
class Kept:
    """The share (0 to 1) of the squared norm that is kept, overall and in the worst layer, and the ranks."""

    share: float
    worst_share: float
    worst_layer: str
    ranks: Mapping[str, int]


def spectrum(settings: MergeSettings) -> Spectrum:
    """Singular values of the merge, remembered until a file, a ratio or the method changes."""
    stamps = tuple((s.path, s.path.stat().st_mtime_ns if s.path and s.path.is_file() else 0) for s in settings.loras)
    relevant = settings.model_copy(update={"rank": None, "conv_rank": None, "energy": None, "output": None})
    return _spectrum(relevant.model_dump_json(), stamps)


@lru_cache(maxsize=4)
def _spectrum(settings_json: str, stamps: tuple) -> Spectrum:
    settings = MergeSettings.model_validate_json(settings_json)
    sources = load_sources(settings.loras)
    method, most = METHODS[settings.method], Sizes(rank=LARGEST_SHOWN)
    values: dict[str, Array] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    squares: dict[str, float] = {}
    base = opened_base(settings.base)
    for layer in layer_names(sources):
        changes, ratios = changes_of(sources, layer, base)
        if changes:
            change, found = merged_layer(settings, changes, ratios, layer, most)
            values[layer] = found.values if isinstance(found, Svd) else found.svd.values
            shapes[layer], squares[layer] = change.shape, change.norm() ** 2
    return Spectrum(values, shapes, squares, method.truncates)
