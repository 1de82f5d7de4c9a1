"""Every method against its formula on whole matrices."""

import numpy as np
import pytest

from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES, text
from lora_core.merge import methods
from lora_core.merge.lowrank import LowRank
from lora_core.merge.methods import METHODS, Options

RNG = np.random.default_rng(0)
MATRICES = [RNG.standard_normal((12, 10)).astype(np.float32) for _ in range(3)]
WEIGHTS = [1.0, -0.5, 0.3]
ON_MATRICES = [name for name, method in METHODS.items() if method.on_matrices]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_words_formula_and_source(name):
    method = METHODS[name]
    assert method.formula
    assert method.source
    for language in LANGUAGES:
        assert text(f"{method.key}.title", language)
        assert text(f"{method.key}.help", language)
    assert (method.on_factors is None) != (method.on_matrices is None)


@pytest.mark.parametrize("name", ON_MATRICES)
def test_one_lora_at_full_density_is_scaled(name):
    merged = METHODS[name].on_matrices(MATRICES[:1], [0.5], Options(density=1.0))
    np.testing.assert_allclose(merged, 0.5 * MATRICES[0], rtol=1e-6)


@pytest.mark.parametrize("name", ["dare_linear", "magnitude_prune"])
def test_full_density_is_the_plain_sum(name):
    merged = METHODS[name].on_matrices(MATRICES, WEIGHTS, Options(density=1.0))
    expected = sum(w * m.astype(np.float64) for w, m in zip(WEIGHTS, MATRICES, strict=True))
    np.testing.assert_allclose(merged, expected, atol=1e-6)


def test_trim_keeps_the_largest():
    trimmed = methods.trim(MATRICES[0], 0.25)
    kept = trimmed != 0
    assert kept.sum() == 30
    assert np.abs(MATRICES[0][kept]).min() >= np.abs(MATRICES[0][~kept]).max()
    np.testing.assert_array_equal(trimmed[kept], MATRICES[0][kept])


def test_ties_adds_only_what_agrees():
    """Number by number, by the paper's steps written out a second time."""
    merged = methods.ties(MATRICES, WEIGHTS, Options(density=0.4))
    parts = [w * methods.trim(m, 0.4) for w, m in zip(WEIGHTS, MATRICES, strict=True)]
    for place in np.ndindex(merged.shape):
        numbers = [float(part[place]) for part in parts]
        sign = np.sign(sum(numbers))
        assert merged[place] == pytest.approx(sum(n for n in numbers if np.sign(n) == sign), abs=1e-6)


def test_dare_keeps_the_expectation_and_repeats_itself():
    ones = np.ones((400, 500), np.float32)
    dropped = methods.drop(ones, Options(density=0.3, seed=5, layer="x"), 0)
    assert set(np.unique(dropped)) == {0, np.float32(1 / 0.3)}
    assert dropped.mean() == pytest.approx(1, abs=0.02)
    np.testing.assert_array_equal(dropped, methods.drop(ones, Options(density=0.3, seed=5, layer="x"), 0))
    assert not np.array_equal(dropped, methods.drop(ones, Options(density=0.3, seed=6, layer="x"), 0))
    assert not np.array_equal(dropped, methods.drop(ones, Options(density=0.3, seed=5, layer="x"), 1))


def test_dare_ties_is_ties_of_what_was_not_dropped():
    options = Options(density=0.5, seed=3, layer="a")
    dropped = [methods.drop(m, options, i) for i, m in enumerate(MATRICES)]
    np.testing.assert_allclose(
        methods.dare_ties(MATRICES, WEIGHTS, options), methods.ties(dropped, WEIGHTS, Options(1.0)), atol=1e-6
    )


def change(seed: int, down: np.ndarray | None = None, up: np.ndarray | None = None) -> LowRank:
    rng = np.random.default_rng(seed)
    return LowRank(
        rng.standard_normal((12, 3)) if up is None else up,
        rng.standard_normal((3, 10)) if down is None else down,
        (12, 10),
    )


@pytest.mark.parametrize("shared", ["down", "up"])
def test_linear_is_exact_for_a_shared_factor(shared):
    first = change(0)
    second = change(1, **{shared: getattr(first, shared)})
    merged = methods.linear([first, second], [0.5, -2.0])
    assert merged.rank == 3
    np.testing.assert_allclose(merged.up @ merged.down, 0.5 * first.up @ first.down - 2 * second.up @ second.down)


def test_linear_refuses_cross_terms():
    with pytest.raises(UserError) as caught:
        methods.linear([change(0), change(1)], [1.0, 1.0])
    assert caught.value.key == "merge.linear_basis"
