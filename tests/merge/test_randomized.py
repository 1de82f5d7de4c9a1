"""Approximations against the float64 SVD, and the proof against matrices made to deceive it."""

import math

import numpy as np
import pytest

from lora_core.merge import randomized
from lora_core.merge.lowrank import flat_shape
from lora_core.merge.randomized import FACTOR, NEGLIGIBLE, allowed_rest, approximate, checked


def noise(rng, rows, columns):
    return rng.standard_normal((rows, columns))


def falling(power):
    def make(rng, rows, columns):
        k = min(rows, columns)
        u, v = (np.linalg.qr(rng.standard_normal((n, k)))[0] for n in (rows, columns))
        return (u * np.arange(1, k + 1.0) ** -power) @ v.T

    return make


def low_rank(rank, floor):
    def make(rng, rows, columns):
        product = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
        return product / math.sqrt(rank) + floor * rng.standard_normal((rows, columns))

    return make


def tied(rng, rows, columns):
    """Two levels of equal singular values: no gap at the rank that is asked for."""
    k = min(rows, columns)
    u, v = (np.linalg.qr(rng.standard_normal((n, k)))[0] for n in (rows, columns))
    return (u * np.where(np.arange(k) < 40, 2.0, 1.0)) @ v.T


SPECTRA = {
    "noise": noise,
    "slowly falling": falling(0.3),
    "falling": falling(0.8),
    "fast falling": falling(2.0),
    "rank 8 in noise": low_rank(8, 0.5),
    "rank 8 rounded to fp16": low_rank(8, 3e-3),
    "rank 8 rounded to fp32": low_rank(8, 1e-7),
    "rank 40 rounded to fp16": low_rank(40, 3e-3),
    "tied": tied,
}
SHAPES = [(128, 128), (320, 320), (130, 700), (700, 130), (160, 40, 3, 3)]


def made(spectrum, shape, seed=0):
    rng = np.random.default_rng(seed)
    return SPECTRA[spectrum](rng, *flat_shape(shape)).astype(np.float32).reshape(shape)


def optimum(matrix, rank):
    """Singular values, and the error of the best approximation (Eckart and Young)."""
    values = np.linalg.svd(matrix.reshape(flat_shape(matrix.shape)).astype(np.float64), compute_uv=False)
    return values, math.sqrt(np.square(values[rank:]).sum())


def error_of(change, matrix):
    product = change.up.astype(np.float64) @ change.down.astype(np.float64)
    return float(np.linalg.norm(matrix.reshape(product.shape) - product))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("rank", [4, 16])
def test_error_is_at_most_a_thousandth_above_the_optimum(spectrum, shape, rank):
    matrix = made(spectrum, shape)
    found = checked(matrix, rank=rank, name=spectrum)
    _, best = optimum(matrix, rank)
    norm = float(np.linalg.norm(matrix))
    assert found.change.rank == rank or (found.change.rank < rank and best < NEGLIGIBLE * norm)
    assert found.change.shape == shape
    assert error_of(found.change, matrix) <= max(FACTOR * best, NEGLIGIBLE * norm) + 1e-7 * norm
    assert found.error == pytest.approx(error_of(found.change, matrix), rel=1e-4, abs=3e-7 * norm)
    assert found.bound <= best * (1 + 1e-5) + 1e-7 * norm


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
@pytest.mark.parametrize(
    "spectrum", ["slowly falling", "falling", "rank 8 in noise", "rank 8 rounded to fp16", "noise"]
)
@pytest.mark.parametrize("limit", [None, 64])
def test_energy_gets_the_smallest_rank_that_keeps_it(spectrum, share, limit):
    matrix = made(spectrum, (320, 400))
    found = checked(matrix, rank=limit, energy=share)
    values, _ = optimum(matrix, 0)
    shares = np.cumsum(values**2) / np.sum(values**2)
    smallest = min(int(np.searchsorted(shares, share)) + 1, limit or len(values))
    assert smallest <= found.change.rank <= smallest + 1
    if found.change.rank > smallest:  # only where the share was nearly missed anyway
        assert shares[smallest - 1] - share < 0.003 * (1 - share)
    assert found.change.rank == (limit or -1) or found.error**2 <= (1 - share) * np.sum(values**2) * (1 + 1e-5)


@pytest.mark.parametrize(
    ("shape", "rank"), [((6, 9), 4), ((9, 6), 100), ((1, 5), 3), ((64, 8, 1, 1), 8), ((96, 96), None)]
)
def test_small_matrices_and_full_ranks_are_exact(shape, rank):
    matrix = made("noise", shape)
    change = approximate(matrix, rank=rank)
    expected = min(rank or 10**9, *flat_shape(shape))
    assert change.rank == expected
    _, best = optimum(matrix, expected)
    assert error_of(change, matrix) == pytest.approx(best, rel=1e-6, abs=1e-6 * float(np.linalg.norm(matrix)))


def test_full_rank_of_a_larger_matrix_gives_it_back():
    matrix = made("falling", (200, 300))
    change = approximate(matrix)
    assert error_of(change, matrix) < 1e-6 * np.linalg.norm(matrix)


def test_of_nothing_nothing_is_left():
    change = approximate(np.zeros((40, 50), np.float32), rank=4)
    assert change.rank == 0
    assert change.dense().shape == (40, 50)


def test_a_matrix_of_lower_rank_is_found_whole():
    matrix = low_rank(3, 0.0)(np.random.default_rng(1), 300, 200).astype(np.float32)
    assert error_of(approximate(matrix, rank=16), matrix) < 1e-6 * np.linalg.norm(matrix)


def test_the_same_name_gives_the_same_factors():
    matrix = made("falling", (320, 320))
    one, two = (approximate(matrix, rank=8, name="a") for _ in range(2))
    assert np.array_equal(one.up, two.up)
    assert np.array_equal(one.down, two.down)


def test_factors_share_the_singular_values():
    change = approximate(made("fast falling", (300, 200)) * np.float32(1e4), rank=4)
    assert np.linalg.norm(change.up, axis=0) == pytest.approx(np.linalg.norm(change.down, axis=1), rel=1e-4)


# ---- the proof -------------------------------------------------------------------------------------------------------


def ritz_of(matrix, vectors, rank):
    """What a subspace tells, and products with AA'."""
    product = randomized._through(matrix)
    space = randomized._Krylov(vectors)
    space.extend(product)
    return randomized._Ritz.of(space, float(np.square(matrix).sum()), rank), product


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("strength", [0.5, 1.05, 2.0, 10.0])
def test_a_subspace_without_the_largest_direction_is_never_proven_good(seed, strength):
    """A direction that the subspace misses entirely; only the probes can see it."""
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.standard_normal((300, 300)))[0] for _ in range(2))
    values = np.full(300, 0.3)
    values[:24] = 1.0
    values[100] = strength
    matrix = (u * values) @ v.T
    ritz, product = ritz_of(matrix, u[:, :24], 16)
    proven = randomized._proven(ritz, product, 50, rng)
    misses = math.sqrt(ritz.missed_by_rank)
    _, best = optimum(matrix, 16)
    assert (proven is not None) == (misses <= FACTOR * best)


def test_an_unfinished_subspace_is_not_proven_good():
    matrix = made("noise", (320, 320)).astype(np.float64)
    vectors = np.linalg.qr(np.random.default_rng(2).standard_normal((320, 32)))[0]
    ritz, product = ritz_of(matrix, vectors, 16)
    assert randomized._proven(ritz, product, 50, np.random.default_rng(3)) is None


@pytest.mark.parametrize("seed", range(20))
def test_allowed_rest_is_safe(seed):
    """With a hidden part of the size that was allowed, no subspace holds more than the slack beyond what was found."""
    rng = np.random.default_rng(seed)
    width, hidden, rank = 6, 30, 4
    energies = np.sort(rng.uniform(1, 10, width))[::-1]
    c = 0.1 * rng.standard_normal((hidden, width)) * rng.uniform(0, 1)
    slack = rng.uniform(0.01, 1)
    largest = allowed_rest(energies, c.T @ c, rank, slack)
    if largest > 0:
        rest = np.linalg.qr(rng.standard_normal((hidden, hidden)))[0]
        rest = (rest * np.linspace(0, largest, hidden)) @ rest.T
        whole = np.block([[np.diag(energies), c.T], [c, rest]])
        assert np.linalg.eigvalsh(whole)[::-1][:rank].sum() <= energies[:rank].sum() + slack * (1 + 1e-9)
