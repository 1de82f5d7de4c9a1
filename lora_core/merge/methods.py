"""How several changes of one weight become one: a method is a function with a formula and a source.

Every method's effect is the stated sum: a ratio of 0.5 plays as half. Those that work on the factors (svd, concat,
linear) never form the whole matrix; the others must, one layer at a time.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from lora_core.errors import UserError
from lora_core.merge import lowrank
from lora_core.merge.lowrank import Array, LowRank

Parameter = Literal["density", "seed"]


@dataclass(frozen=True)
class Options:
    """What the methods on whole matrices ask for: the share of numbers kept, and the seed of DARE's draws."""

    density: float = 0.5
    seed: int = 0
    layer: str = ""
    """Name of the layer; the draws of DARE depend on it."""


# ---- on the factors --------------------------------------------------------------------------------------------------


def concat(changes: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """sum_i w_i D_i, exactly, in rank sum_i R_i (factors side by side)."""
    return lowrank.concat(changes, weights)


def linear(changes: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """sum_i w_i D_i in the rank of one of them: only for changes that share a factor, where it is exact.

    With a common ``down`` the sum is (sum_i w_i up_i) down, with a common ``up`` it is up (sum_i w_i down_i). Adding
    factors that differ would add cross terms up_i down_j, which is another LoRA: that raises UserError.
    """
    first = changes[0]
    if len({change.rank for change in changes}) == 1:
        if all(_same(change.down, first.down) for change in changes):
            return LowRank(_weighted([c.up for c in changes], weights), first.down, first.shape)
        if all(_same(change.up, first.up) for change in changes):
            return LowRank(first.up, _weighted([c.down for c in changes], weights), first.shape)
    raise UserError("merge.linear_basis")


def _same(a: Array, b: Array) -> bool:
    """Equal to the rounding of half precision."""
    return a.shape == b.shape and bool(np.abs(a - b).max(initial=0) <= 1e-3 * np.abs(b).max(initial=0))


def _weighted(arrays: Sequence[Array], weights: Sequence[float]) -> Array:
    total = np.zeros(arrays[0].shape)
    for array, weight in zip(arrays, weights, strict=True):
        total += weight * array
    return total


# ---- on whole matrices -----------------------------------------------------------------------------------------------


def trim(matrix: Array, density: float) -> Array:
    """The matrix with only its largest numbers, a share ``density`` of them (at least one); the rest is 0."""
    keep = max(1, round(density * matrix.size))
    if keep >= matrix.size:
        return matrix
    sizes = np.abs(matrix).reshape(-1)
    threshold = np.partition(sizes, matrix.size - keep)[matrix.size - keep]
    return np.where(np.abs(matrix) >= threshold, matrix, 0)


def magnitude_prune(matrices: Sequence[Array], weights: Sequence[float], options: Options) -> Array:
    """sum_i w_i trim(D_i): every change without its smallest numbers."""
    return _sum([trim(matrix, options.density) for matrix in matrices], weights)


def ties(matrices: Sequence[Array], weights: Sequence[float], options: Options) -> Array:
    """TIES (Yadav et al. 2023): trim, elect a sign for each number, add only what agrees with it.

    The sign is that of the weighted sum of the trimmed changes. The paper averages what agrees; here it is summed, so
    that one LoRA alone plays with its ratio and LoRAs that nowhere meet simply add up.
    """
    parts = [w * trim(matrix, options.density) for matrix, w in zip(matrices, weights, strict=True)]
    sign = np.sign(_sum(parts, [1.0] * len(parts)))
    return _sum([np.where(np.sign(part) == sign, part, 0) for part in parts], [1.0] * len(parts))


def drop(matrix: Array, options: Options, which: int) -> Array:
    """DARE's drop and rescale (Yu et al. 2024): each number stays with probability ``density``, then / density."""
    name = f"{options.seed}:{which}:{options.layer}".encode()
    draws = np.random.default_rng(int.from_bytes(hashlib.sha256(name).digest()[:8], "little"))
    return np.where(draws.random(matrix.shape, np.float32) < options.density, matrix / options.density, 0)


def dare_linear(matrices: Sequence[Array], weights: Sequence[float], options: Options) -> Array:
    """sum_i w_i drop(D_i): random numbers dropped, the rest scaled so that the expectation stays."""
    return _sum([drop(matrix, options, i) for i, matrix in enumerate(matrices)], weights)


def dare_ties(matrices: Sequence[Array], weights: Sequence[float], options: Options) -> Array:
    """DARE's drop and rescale, then TIES' election of signs (nothing is trimmed: the drop has done it)."""
    dropped = [drop(matrix, options, i) for i, matrix in enumerate(matrices)]
    return ties(dropped, weights, Options(1.0, options.seed, options.layer))


def _sum(matrices: Sequence[Array], weights: Sequence[float]) -> Array:
    total = np.zeros(matrices[0].shape, np.float32)
    for matrix, weight in zip(matrices, weights, strict=True):
        total += np.float32(weight) * matrix
    return total


# ---- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A row of the table. ``key`` + ".title" and ".help" are its words."""

    key: str
    formula: str
    source: str
    on_factors: Callable[[Sequence[LowRank], Sequence[float]], LowRank] | None = None
    on_matrices: Callable[[Sequence[Array], Sequence[float], Options], Array] | None = None
    truncates: bool = True
    """Whether the result is brought to the wanted rank; concat and linear have a rank of their own."""
    parameters: tuple[Parameter, ...] = field(default=())


METHODS: Mapping[str, Method] = {
    "svd": Method(
        "merge.method.svd",
        "best rank-r approximation of sum w_i D_i",
        "Eckart and Young, The approximation of one matrix by another of lower rank, 1936",
        on_factors=concat,
    ),
    "concat": Method(
        "merge.method.concat",
        "sum w_i D_i, rank = sum of ranks",
        "block matrices: [U1 U2] [V1; V2] = U1 V1 + U2 V2",
        on_factors=concat,
        truncates=False,
    ),
    "linear": Method(
        "merge.method.linear",
        "(sum w_i up_i) down, for one common down",
        "distributivity; LoRAs that share a frozen factor, as LoRA-FA (Zhang et al. 2023)",
        on_factors=linear,
        truncates=False,
    ),
    "ties": Method(
        "merge.method.ties",
        "trim, elect signs, sum what agrees",
        "Yadav et al., TIES-Merging, arXiv 2306.01708",
        on_matrices=ties,
        parameters=("density",),
    ),
    "dare_linear": Method(
        "merge.method.dare_linear",
        "sum w_i m_i D_i / density, m_i Bernoulli(density)",
        "Yu et al., Language Models are Super Mario, arXiv 2311.03099",
        on_matrices=dare_linear,
        parameters=("density", "seed"),
    ),
    "dare_ties": Method(
        "merge.method.dare_ties",
        "TIES on m_i D_i / density",
        "Yu et al., arXiv 2311.03099, with Yadav et al., arXiv 2306.01708",
        on_matrices=dare_ties,
        parameters=("density", "seed"),
    ),
    "magnitude_prune": Method(
        "merge.method.magnitude_prune",
        "sum w_i trim(D_i, density)",
        "Han et al., Learning both Weights and Connections, arXiv 1506.02626",
        on_matrices=magnitude_prune,
        parameters=("density",),
    ),
}
