"""The best low-rank approximation of a full matrix, many times faster than its SVD, with a checked error.

A random block is multiplied with AA' again and again, and the best of all its images is taken (Halko, Martinsson and
Tropp, "Finding structure with randomness", 2011, section 4.5, in the block Krylov form of Musco and Musco 2015, which
needs half the products). What the result misses is then held against what any matrix of that rank must miss, and the
search goes on until the two agree to 0.1%.

Why the check is a proof. With Q orthonormal and P = QQ', |A - PA|^2 = |A|^2 - |Q'A|^2 exactly. In the bases Q and its
complement AA' is [[D, C'], [C, M]], with D = Q'AA'Q and C, M of the part that Q misses. For any e > 0
[[0, C'], [C, 0]] <= [[C'C/e, 0], [0, e]], so the R largest eigenvalues of AA' sum to no more than the R largest of
D + C'C/e and of M + e together (Weyl, Ky Fan). Only |M| is left to bound: by its trace, which is certain, or with
Gaussian vectors drawn for that purpose (``_may_exceed``), which errs with a probability below DOUBT for any matrix.

Letters: A is rows x columns with rows <= columns (else it is turned), energies are squares of singular values.
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lora_core.merge.lowrank import Array, LowRank, flat_shape, rank_for_energy

FACTOR = 1.001
"""The error may be this many times that of the best approximation."""
NEGLIGIBLE = 1e-5
"""Error over norm that needs no improvement: a fiftieth of what rounding to fp16 does."""
DOUBT = 1e-9
"""Probability, over the program's own draws, that a matrix passes the check wrongly."""
SMALL = 96
"""Matrices with fewer rows are decomposed outright."""
EXTRA = 8
"""Columns of the random block beyond the rank."""
PROBES = 16
"""Gaussian vectors of a check. Fewer need a higher degree, more cost more than they save."""
STEPS = 14
"""Blocks of the Krylov space at most; what needs more is decomposed outright."""
DIRECT_STEPS = 4
"""Blocks found by products with A itself, before AA' is formed: with it products are cheaper, but it costs eight."""
DIRECT_DEGREE, FORMED_DEGREE = 6, 12
"""Products a check may take, with A and with AA'. Where it would take more, the space is not good enough yet."""
KEPT = 2
"""Times the rank: how many vectors of the space the proof is about. Those further down are not settled yet."""
FINE = 1e-3
"""Below this share of energy missed, float32 sums blur what is missed, and float64 takes over."""

Product = Callable[[Array], Array]


@dataclass(frozen=True)
class Approximation:
    """A matrix's approximation as factors, with its proof."""

    change: LowRank
    values: Array
    """The singular values kept, falling, float64."""
    error: float
    """Frobenius norm of what is missed."""
    bound: float
    """No matrix of this rank misses less than this."""


def approximate(matrix: Array, *, rank: int | None = None, energy: float | None = None, name: str = "") -> LowRank:
    """The factors of ``checked``."""
    return checked(matrix, rank=rank, energy=energy, name=name).change


def checked(matrix: Array, *, rank: int | None = None, energy: float | None = None, name: str = "") -> Approximation:
    """The best approximation of a weight's change (any shape, float) of a rank, or the smallest that keeps a share.

    ``rank`` None: as large as needed; with ``energy`` (0 to 1] it is a limit. ``name`` seeds the random vectors, so
    that the same layer gives the same result. The error is at most 1.001 times the optimum, or 1e-5 of the norm.
    Factors are float32 and share the singular values evenly, which suits half precision best.
    """
    shape = tuple(matrix.shape)
    flat = matrix.reshape(flat_shape(shape))
    turned = flat.shape[0] > flat.shape[1]
    a = flat.T if turned else flat
    limit = min(rank or a.shape[0], a.shape[0])
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    found = _search(a, limit, energy, rng)
    roots = np.sqrt(np.where(found.values > 0, found.values, 1))
    left, right = found.left * roots.astype(found.left.dtype), found.right / roots[:, None].astype(found.right.dtype)
    up, down = (right.T, left.T) if turned else (left, right)
    change = LowRank(np.ascontiguousarray(up, np.float32), np.ascontiguousarray(down, np.float32), shape)
    return Approximation(change, found.values, found.error, found.bound)


@dataclass(frozen=True)
class _Found:
    """A ~ left @ right, left orthonormal (rows, rank); values are the lengths of right's rows."""

    left: Array
    right: Array
    values: Array
    error: float
    bound: float


def _search(a: Array, limit: int, energy: float | None, rng: np.random.Generator) -> _Found:
    """Tries ranks 32, 64, ... when only the energy is given: most changes need few."""
    total = _square_sum(a)
    if not total:
        return _Found(np.zeros((a.shape[0], 0), a.dtype), np.zeros((0, a.shape[1]), a.dtype), np.zeros(0), 0.0, 0.0)
    rank = limit if energy is None or limit < a.shape[0] else 32
    while a.shape[0] >= max(SMALL, 4 * (rank + EXTRA)):
        basis = _subspace(a, total, rank, rng)
        if basis is None:
            break
        enough = energy is None or rank == limit or basis.energies[:rank].sum() >= energy * total
        if enough:
            return _finish(a, total, basis, _kept(basis.energies[:rank], total, energy, rank))
        rank *= 2
    exact = _exact(a)
    return _finish(a, total, exact, _kept(exact.energies, total, energy, limit))


def _kept(energies: Array, total: float, share: float | None, limit: int) -> int:
    """The smallest rank that keeps a share of the total, up to a limit."""
    if share is None:
        return min(limit, int(np.count_nonzero(energies)))
    rest = max(total - float(energies.sum()), 0.0)
    return min(rank_for_energy(np.sqrt(np.append(energies, rest)), share), limit, len(energies))


@dataclass(frozen=True)
class _Basis:
    """Orthonormal vectors (rows, width) with the energy each holds, falling, and a bound for what any may hold.

    ``slack`` is how much more energy the best subspace of the wanted rank can hold.
    """

    vectors: Array
    energies: Array
    slack: float


def _finish(a: Array, total: float, basis: _Basis, rank: int) -> _Found:
    """The approximation in the first vectors of a basis. Its error is measured where subtraction would blur it."""
    left = np.ascontiguousarray(basis.vectors[:, :rank], dtype=a.dtype)
    right = left.T @ a
    squares = np.einsum("ij,ij->i", right, right, dtype=np.float64)
    missed = total - float(squares.sum())
    if missed < FINE * total:
        rest = a - left @ right
        missed = _square_sum(rest)
    bound = math.sqrt(max(missed - basis.slack, 0.0))
    return _Found(left, right, np.sqrt(squares), math.sqrt(max(missed, 0.0)), bound)


def _square_sum(a: Array) -> float:
    """|A|^2, summed in float64 over pieces that are short enough for float32."""
    flat = a.ravel(order="K")
    return math.fsum(float(np.dot(piece, piece)) for piece in (flat[i : i + 4096] for i in range(0, flat.size, 4096)))


def _exact(a: Array) -> _Basis:
    """All left singular vectors in float64: directly, or of a larger matrix through AA' (good to 1e-8 of the norm)."""
    a = a.astype(np.float64)
    if a.shape[0] < SMALL:
        vectors, values, _ = np.linalg.svd(a, full_matrices=False)
        return _Basis(vectors, _without_noise(values**2, a.shape), 0.0)
    energies, vectors = np.linalg.eigh(a @ a.T)
    return _Basis(vectors[:, ::-1], _without_noise(energies[::-1], a.shape), 0.0)


def _without_noise(energies: Array, shape: tuple[int, ...]) -> Array:
    """Zero where rounding of the float32 input is all there is."""
    smallest = (max(shape) * float(np.finfo(np.float32).eps) * 1e-2) ** 2
    return np.where(energies > smallest * energies[0], energies, 0.0)


# ---- the search ------------------------------------------------------------------------------------------------------


def _subspace(a: Array, total: float, rank: int, rng: np.random.Generator) -> _Basis | None:
    """A subspace whose first ``rank`` vectors miss at most 1.001 times the optimum; None when it would take too long.

    Three passes over A settle a change of low rank.
    """
    block = rng.standard_normal((a.shape[0], rank + EXTRA)).astype(a.dtype)
    product, degree = _through(a), DIRECT_DEGREE
    space = _Krylov(product(block))
    for step in range(1, STEPS + 1):
        space.extend(product)
        ritz = _Ritz.of(space, total, rank)
        fine = ritz.missed < FINE * total
        if fine:
            ritz = ritz.measured(a)
        slack = _proven(ritz, product, degree if step > 2 and step % 2 else 0, rng)
        if slack is not None:
            return _Basis(ritz.vectors, ritz.energies, slack)
        if fine and space.basis.dtype == np.float32:
            product, degree = _gram(a, np.float64), FORMED_DEGREE
            space = _Krylov(product(ritz.vectors[:, : rank + EXTRA]))
        elif step == DIRECT_STEPS and degree == DIRECT_DEGREE:
            product, degree = _gram(a, space.basis.dtype), FORMED_DEGREE
        if 2 * (space.basis.shape[1] + rank) > a.shape[0]:
            break
    return None


def _through(a: Array) -> Product:
    return lambda x: a @ (a.T @ x)


def _gram(a: Array, dtype: type) -> Product:
    """Products with AA', formed once."""
    a = a.astype(dtype, copy=False)
    gram = a @ a.T
    return lambda x: gram @ x.astype(dtype, copy=False)


class _Krylov:
    """An orthonormal basis of the images of a block under powers of AA', with the image of every basis vector."""

    def __init__(self, block: Array):
        self._next = block
        self.basis = np.zeros((len(block), 0), block.dtype)
        self.images = self.basis

    def extend(self, product: Product) -> None:
        """One power more. Taking out what is there twice keeps the basis orthonormal to rounding."""
        new = np.linalg.qr(_without(self.basis, self._next))[0]
        new = np.linalg.qr(_without(self.basis, new))[0] if self.basis.size else new
        self._next = product(new)
        self.basis = np.concatenate((self.basis, new), 1)
        self.images = np.concatenate((self.images, self._next), 1)


@dataclass(frozen=True)
class _Ritz:
    """What a subspace tells of A: Ritz vectors, their energies (falling) and how they couple to the rest of A."""

    vectors: Array
    energies: Array
    coupling: Array
    """C'C, (width, width), float64."""
    total: float
    rank: int
    missed: float
    """Energy outside the whole subspace."""
    missed_by_rank: float
    """Energy outside the first ``rank`` vectors."""

    @classmethod
    def of(cls, space: _Krylov, total: float, rank: int) -> "_Ritz":
        """The Rayleigh-Ritz step with AA' (Halko et al., algorithm 5.1 without forming the right side)."""
        vectors, image = space.basis, space.images
        core = (vectors.T @ image).astype(np.float64)
        energies, turn = np.linalg.eigh((core + core.T) / 2)
        energies, turn = np.maximum(energies[::-1], 0.0)[: KEPT * rank], turn[:, ::-1][:, : KEPT * rank]
        turn = turn.astype(image.dtype)
        kept = vectors @ turn
        outside = image @ turn - kept * energies.astype(image.dtype)
        coupling = (outside.T @ outside).astype(np.float64)
        missed = total - float(energies.sum())
        missed_by_rank = total - float(energies[:rank].sum())
        return cls(kept, energies, coupling, total, rank, missed, missed_by_rank)

    def measured(self, a: Array) -> "_Ritz":
        """With the energies missed taken from the difference itself, where subtraction leaves no digits."""
        vectors = self.vectors.astype(a.dtype, copy=False)
        parts = vectors.T @ a
        rest = a - vectors @ parts
        missed = _square_sum(rest)
        return _Ritz(
            self.vectors,
            self.energies,
            self.coupling,
            self.total,
            self.rank,
            missed,
            missed + float(self.energies[self.rank :].sum()),
        )


def _chebyshev(product: Product, x: Array, degree: int, top: float) -> Array:
    """T_degree(2 H/top - 1) x: at most 1 for eigenvalues of H from 0 to ``top``, growing steeply above it."""
    scale = x.dtype.type(2 / top)
    before, now = x, scale * product(x) - x
    for _ in range(degree - 1):
        before, now = now, 2 * (scale * product(now) - now) - before
    return now


# ---- the proof -------------------------------------------------------------------------------------------------------


def _proven(ritz: _Ritz, product: Product, degree: int, rng: np.random.Generator) -> float | None:
    """How much more energy than the found one the best subspace of the rank may hold; None if that is not known yet.

    ``degree`` is the number of products the check may take; 0 leaves it at what is certain without any.
    """
    if ritz.missed_by_rank <= NEGLIGIBLE**2 * ritz.total:
        return max(ritz.missed_by_rank, 0.0)
    slack = ritz.missed_by_rank * (1 - FACTOR**-2)
    largest = allowed_rest(ritz.energies, ritz.coupling, ritz.rank, slack)
    if largest >= ritz.missed or (degree and largest > 0 and not _may_exceed(ritz, product, largest, degree, rng)):
        return slack
    return None


def allowed_rest(energies: Array, coupling: Array, rank: int, slack: float) -> float:
    """The largest |M| with which the ``rank`` largest eigenvalues of AA' hold at most ``slack`` more than those found.

    For a given e, those of D + C'C/e (falling) and ``rank`` times m = |M| + e must not sum to more than the limit:
    m <= (limit - the k largest)/(rank - k) for every k. Minus infinity where the coupling alone is too much.
    """
    limit = float(energies[:rank].sum()) + slack
    best = -math.inf
    if energies[rank - 1] <= 0 or np.trace(coupling[:rank, :rank]) > slack * energies[rank - 1]:
        return best
    for e in energies[rank - 1] * np.geomspace(0.01, 0.6, 4):
        sums = np.cumsum(np.linalg.eigvalsh(np.diag(energies) + coupling / e)[::-1][:rank])
        if sums[-1] <= limit:
            before = np.append(0.0, sums[:-1])
            best = max(best, float(((limit - before) / np.arange(rank, 0, -1)).min()) - e)
    return best


def _may_exceed(ritz: _Ritz, product: Product, largest: float, most_degree: int, rng: np.random.Generator) -> bool:
    """Whether the part of AA' that the subspace misses, M, may have an eigenvalue above ``largest``.

    With G Gaussian (rows, b) and drawn after the subspace, |p(M) G|^2 >= p(x)^2 |v'G|^2 for an eigenvalue x with
    eigenvector v, and |v'G|^2 is chi-squared with b degrees of freedom: below c with probability DOUBT at most, as
    P(chi2_b < c) <= (c/2)^(b/2) / Gamma(b/2 + 1). So p(x) <= |p(M) G| / sqrt(c). A sharper form of Halko et al.'s
    lemma 4.1, which has one product instead of a polynomial p.
    """
    rows = ritz.vectors.shape[0]
    c = 2 * (DOUBT * math.gamma(PROBES / 2 + 1)) ** (2 / PROBES)
    top = min(float(ritz.energies[-1]), largest / 1.02)
    if top < 0.7 * ritz.energies[-1]:  # what is missed is hardly so much weaker than the weakest that was found
        return True
    growth = math.acosh(2 * largest / top - 1)
    degree = math.ceil(math.acosh(math.sqrt(rows * PROBES / c)) / growth)
    if degree > most_degree:
        return True
    vectors = ritz.vectors

    def rest(x: Array) -> Array:
        return _without(vectors, product(x))

    probes = _without(vectors, rng.standard_normal((rows, PROBES)).astype(vectors.dtype))
    seen = float(np.linalg.norm(_chebyshev(rest, probes, degree, top).astype(np.float64)))
    return not seen < math.cosh(degree * growth) * math.sqrt(c)


def _without(vectors: Array, x: Array) -> Array:
    """x minus its part in the subspace."""
    return x - vectors @ (vectors.T @ x)
