"""Low-rank mathematics against whole matrices in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_core.merge import lowrank
from lora_core.merge.lowrank import LowRank

SHAPES = [(20, 30), (30, 20), (24, 16, 1, 1), (12, 8, 3, 3)]


def random_change(shape=(20, 30), rank=4, seed=0, dtype=np.float32) -> LowRank:
    rng = np.random.default_rng(seed)
    rows, columns = lowrank.flat_shape(shape)
    return LowRank(
        rng.standard_normal((rows, rank)).astype(dtype), rng.standard_normal((rank, columns)).astype(dtype), shape
    )


def full(change: LowRank) -> np.ndarray:
    return change.up.astype(np.float64) @ change.down.astype(np.float64)


def truncated(matrix: np.ndarray, rank: int) -> np.ndarray:
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_are_those_of_the_whole_matrix(shape):
    change = random_change(shape, rank=6)
    whole = np.linalg.svd(full(change), compute_uv=False)
    np.testing.assert_allclose(change.svd.values, whole[:6], rtol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 3, 6, 50])
def test_truncation_is_the_best_approximation(shape, rank):
    change = random_change(shape, rank=6)
    found = full(change.svd.truncate(rank))
    best = truncated(full(change), min(rank, 6))
    np.testing.assert_allclose(found, best, atol=1e-9 * np.linalg.norm(best))


def test_rank_deficient_factors_take_the_careful_way():
    """The same LoRA twice: a Gram matrix alone would lose half of the digits."""
    change = random_change(rank=5)
    twice = lowrank.concat([change, change], [1.0, 1.0])
    assert twice.rank == 10
    np.testing.assert_allclose(twice.svd.values[:5], 2 * change.svd.values, rtol=1e-10)
    assert twice.svd.values[5] < 1e-10 * twice.svd.values[0]


def test_the_difference_of_near_equals_keeps_its_digits():
    a = random_change(rank=4, dtype=np.float64)
    b = LowRank(a.up * (1 + 1e-6), a.down, a.shape)
    difference = lowrank.concat([b, a], [1.0, -1.0])
    np.testing.assert_allclose(full(difference.svd.truncate(4)), 1e-6 * full(a), atol=1e-8 * 1e-6 * lowrank.norm(a))


def test_factors_wider_than_the_matrix():
    change = random_change((6, 9), rank=20)
    np.testing.assert_allclose(full(change.svd.truncate(20)), full(change), atol=1e-10)
    assert len(change.svd.values) == 6


def test_a_ratio_of_half_plays_as_half():
    change = random_change()
    np.testing.assert_allclose(full(lowrank.concat([change], [0.5])), 0.5 * full(change), rtol=1e-12)


ratios = st.floats(-2, 2, allow_nan=False).map(lambda x: round(x, 3))


@given(st.lists(st.tuples(ratios, st.integers(1, 5)), min_size=1, max_size=4), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_concat_is_the_sum_whatever_the_ratios(parts, kind):
    shape = SHAPES[kind]
    changes = [random_change(shape, rank, seed) for seed, (_, rank) in enumerate(parts)]
    weights = [weight for weight, _ in parts]
    joined = lowrank.concat(changes, weights)
    expected = sum(w * full(c) for w, c in zip(weights, changes, strict=True))
    np.testing.assert_allclose(full(joined), expected, atol=1e-12 * (1 + np.abs(expected).max()))
    assert joined.rank == sum(rank for weight, rank in parts if weight)


@given(st.permutations(range(3)))
@settings(max_examples=6, deadline=None)
def test_order_does_not_matter(order):
    changes = [random_change(rank=r, seed=r) for r in (2, 3, 4)]
    weights = [1.0, -0.7, 0.3]
    best = full(lowrank.concat(changes, weights).svd.truncate(5))
    turned = lowrank.concat([changes[i] for i in order], [weights[i] for i in order]).svd.truncate(5)
    np.testing.assert_allclose(full(turned), best, atol=1e-9)


def test_a_minus_a_is_nothing():
    change = random_change()
    difference = lowrank.concat([change, change], [1.0, -1.0])
    assert lowrank.norm(difference) <= 1e-6 * lowrank.norm(change)
    assert difference.svd.values[0] <= 1e-12 * lowrank.norm(change)


def test_norms_and_products_without_the_matrix():
    a, b = random_change(rank=3, seed=1), random_change(rank=5, seed=2)
    assert lowrank.norm(a) == pytest.approx(np.linalg.norm(full(a)), rel=1e-10)
    assert lowrank.inner(a, b) == pytest.approx(np.sum(full(a) * full(b)), rel=1e-9)
    assert lowrank.cosine(a, a.scaled(-3.0)) == pytest.approx(-1, abs=1e-6)
    assert lowrank.cosine(a, lowrank.zero(a.shape)) == 0


def test_energy_and_the_rank_that_keeps_it():
    values = np.array([2.0, 1.0, 1.0, 0.0])
    assert [lowrank.energy(values, r) for r in range(5)] == pytest.approx([0, 4 / 6, 5 / 6, 1, 1])
    assert [lowrank.rank_for_energy(values, share) for share in (0.5, 4 / 6, 0.67, 5 / 6, 1.0)] == [1, 1, 2, 2, 3]
    assert lowrank.rank_for_energy(np.zeros(3), 0.9) == 0
    assert lowrank.energy(np.zeros(3), 0) == 1


def test_effective_rank_counts_equal_directions():
    assert lowrank.effective_rank(np.ones(5)) == pytest.approx(5)
    assert lowrank.effective_rank(np.array([1.0, 0.0])) == pytest.approx(1)
    assert lowrank.effective_rank(np.zeros(2)) == 0


@pytest.mark.parametrize("rank", [None, 2])
def test_factors_of_a_whole_matrix(rank):
    matrix = full(random_change(rank=4)).reshape(20, 30)
    found = lowrank.from_dense(matrix, rank)
    assert found.rank == (rank or 4)
    np.testing.assert_allclose(full(found), truncated(matrix, rank or 4), atol=1e-9)
