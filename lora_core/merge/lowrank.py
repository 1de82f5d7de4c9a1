"""The mathematics of low-rank changes of a weight, without ever forming the whole matrix.

A change is D = up @ down with up (O, R) and down (R, I); of a convolution I is inputs x height x width. With thin QR
decompositions up = Q C and down' = P E, D = Q (C E') P', and the singular values of D are those of the small R x R core
C E'. Everything here follows from that (Golub and Van Loan, Matrix Computations, 5.2 and 8.6).

Sums are formed in float64: differences of nearly equal LoRAs keep their digits. Letters: O rows, I columns, R rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Array = np.ndarray

WELL_CONDITIONED = 1e-12
"""Smallest over largest eigenvalue of a Gram matrix above which its square root is trusted.

The factor's singular values then span less than 1e6, and those found through the Gram matrix in float64 are right to
1e-16 x 1e6 = 1e-10. Beyond that, Householder QR is used, which costs three times as much.
"""


@dataclass(frozen=True)
class LowRank:
    """The change up @ down of a weight of ``shape``, (O, I) or (O, inputs, height, width). Scale is in the factors."""

    up: Array
    down: Array
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        rows, columns = flat_shape(self.shape)
        assert self.up.shape == (rows, self.rank), (self.up.shape, self.shape)
        assert self.down.shape == (self.rank, columns), (self.down.shape, self.shape)

    @property
    def rank(self) -> int:
        """The number of columns of ``up``: an upper bound of the matrix's rank."""
        return self.up.shape[1]

    def scaled(self, factor: float) -> "LowRank":
        return LowRank(self.up * np.asarray(factor, self.up.dtype), self.down, self.shape)

    def dense(self) -> Array:
        """The change itself in the weight's shape, float32."""
        return (self.up @ self.down).astype(np.float32, copy=False).reshape(self.shape)

    @cached_property
    def svd(self) -> "Svd":
        return svd(self)

    def norm(self) -> float:
        """Frobenius norm."""
        return norm(self)


def flat_shape(shape: Sequence[int]) -> tuple[int, int]:
    """(rows, columns) of a weight written as a matrix: outputs, and all the rest."""
    return shape[0], int(np.prod(shape[1:], dtype=np.int64))


def zero(shape: Sequence[int]) -> LowRank:
    """No change; rank 0."""
    rows, columns = flat_shape(shape)
    return LowRank(np.zeros((rows, 0), np.float32), np.zeros((0, columns), np.float32), tuple(shape))


def concat(changes: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """sum_i w_i up_i @ down_i exactly: factors side by side. The rank is the sum of the ranks.

    |w_i| is shared by both factors as its square root, so that neither outgrows the other in half precision.
    """
    assert changes
    assert len({change.shape for change in changes}) == 1, "shapes differ"
    kept = [(change, weight) for change, weight in zip(changes, weights, strict=True) if weight != 0 and change.rank]
    if not kept:
        return zero(changes[0].shape)
    ups = [change.up * np.float64(np.copysign(np.sqrt(abs(weight)), weight)) for change, weight in kept]
    downs = [change.down * np.float64(np.sqrt(abs(weight))) for change, weight in kept]
    return LowRank(np.concatenate(ups, 1), np.concatenate(downs, 0), changes[0].shape)


@dataclass(frozen=True)
class Basis:
    """An orthonormal basis Q = matrix @ turn of a factor's columns, and the factor in it: factor = Q @ core."""

    matrix: Array
    turn: Array | None
    core: Array

    def __matmul__(self, inside: Array) -> Array:
        return self.matrix @ (inside if self.turn is None else self.turn @ inside)


def basis(factor: Array) -> Basis:
    """The thin decomposition Q C of a tall matrix (O, R), float64."""
    factor = factor.astype(np.float64, copy=False)
    rows, rank = factor.shape
    if rank < rows:
        values, vectors = np.linalg.eigh(factor.T @ factor)
        if values[0] > WELL_CONDITIONED * values[-1]:
            roots = np.sqrt(values)
            return Basis(factor, vectors / roots, roots[:, None] * vectors.T)
    q, r = np.linalg.qr(factor)
    return Basis(q, None, r)


@dataclass(frozen=True)
class Svd:
    """D = left diag(values) right', kept as bases and small matrices until a rank is chosen."""

    left: Basis
    right: Basis
    turn_left: Array
    values: Array
    turn_right: Array
    shape: tuple[int, ...]

    def truncate(self, rank: int) -> LowRank:
        """The best approximation of a rank in the Frobenius and spectral norms (Eckart and Young 1936), float64.

        Singular values are shared by both factors as their square roots, which suits half precision best.
        """
        rank = min(rank, len(self.values))
        roots = np.sqrt(self.values[:rank])
        up = self.left @ (self.turn_left[:, :rank] * roots)
        down = (self.right @ (self.turn_right[:rank].T * roots)).T
        return LowRank(up, np.ascontiguousarray(down), self.shape)


def svd(change: LowRank) -> Svd:
    """The singular value decomposition of up @ down, by that of a small core. Singular values fall."""
    if not change.rank:
        nothing = np.zeros((0, 0))
        up, down = Basis(change.up, None, nothing), Basis(change.down.T, None, nothing)
        return Svd(up, down, nothing, np.zeros(0), nothing, change.shape)
    left, right = basis(change.up), basis(change.down.T)
    turn_left, values, turn_right = np.linalg.svd(left.core @ right.core.T, full_matrices=False)
    return Svd(left, right, turn_left, values, turn_right, change.shape)


def norm(change: LowRank) -> float:
    """Frobenius norm without forming the matrix: |up down|^2 = sum((up' up) * (down down'))."""
    return float(np.sqrt(max(inner(change, change), 0.0)))


def inner(a: LowRank, b: LowRank) -> float:
    """Frobenius inner product <a, b> = sum((a.up' b.up) * (a.down b.down')), float64."""
    if not (a.rank and b.rank):
        return 0.0
    ups = a.up.astype(np.float64, copy=False).T @ b.up.astype(np.float64, copy=False)
    downs = a.down.astype(np.float64, copy=False) @ b.down.astype(np.float64, copy=False).T
    return float(np.sum(ups * downs))


def cosine(a: LowRank, b: LowRank) -> float:
    """Cosine of the angle between two changes, 0 where one of them is nothing."""
    lengths = norm(a) * norm(b)
    return inner(a, b) / lengths if lengths else 0.0


# ---- ranks by singular values (falling, at least one) -------------------------------------------------------------


def energy(values: Array, rank: int) -> float:
    """The share of |D|^2 that the best approximation of a rank keeps, 0 to 1. Of nothing, everything is kept."""
    squares = np.square(values, dtype=np.float64)
    total = squares.sum()
    return float(squares[:rank].sum() / total) if total else 1.0


def rank_for_energy(values: Array, share: float, total: float | None = None) -> int:
    """The smallest rank that keeps a share (0 to 1] of |D|^2; 0 for a change that is nothing.

    ``total`` is |D|^2 where not all singular values are known; where they do not reach the share, all are needed.
    """
    squares = np.square(values, dtype=np.float64)
    kept = np.cumsum(squares)
    if not kept.size or not kept[-1]:
        return 0
    # Rounding must not ask for a rank more where the share is reached exactly.
    wanted = share * (kept[-1] if total is None else total) * (1 - 1e-12)
    return min(int(np.searchsorted(kept, wanted)) + 1, len(values))


def effective_rank(values: Array) -> float:
    """exp of the entropy of the normalised singular values (Roy and Vetterli 2007): 1 to the number of them."""
    total = float(np.sum(values))
    if not total:
        return 0.0
    p = values[values > 0] / total
    return float(np.exp(-np.sum(p * np.log(p))))


def from_dense(matrix: Array, rank: int | None = None) -> LowRank:
    """A full change (float, any shape) as factors: exact to its own rank, or the best approximation of ``rank``."""
    rows, columns = flat_shape(matrix.shape)
    u, values, vt = np.linalg.svd(matrix.reshape(rows, columns).astype(np.float64), full_matrices=False)
    tiny = values[0] * max(rows, columns) * np.finfo(np.float64).eps if values.size else 0.0
    keep = int(np.sum(values > tiny)) if rank is None else min(rank, len(values))
    roots = np.sqrt(values[:keep])
    return LowRank(u[:, :keep] * roots, roots[:, None] * vt[:keep], tuple(matrix.shape))
