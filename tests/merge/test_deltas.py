"""The change of a weight by every algorithm, against full-matrix formulas in float64 written here by themselves."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_core.adapters.lora import Lora
from lora_core.io.arrays import decode, encode
from lora_core.merge.deltas import Dense, Layer, algorithm_of, bias_of, change_of, needs_base, vectors_of
from lora_core.merge.lowrank import LowRank
from tests.merge.makers import ALGORITHMS, layer_tensors

Array = np.ndarray
Tensors = Mapping[str, Array]

SHAPES = {"linear": (24, 40), "1x1": (24, 40, 1, 1), "3x3": (24, 16, 3, 3), "wide": (12, 60), "square": (36, 36)}
ALPHAS = {"missing": None, "half the rank": 2.0, "as the rank": 4.0, "negative": -3.0, "nothing": 0.0}
FORMATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
RANK = 4
TOLERANCE = 3e-7
"""float32 answers: relative to the largest number of the change."""


# ---- the oracle: whole matrices, float64 -----------------------------------------------------------------------------


def matrix(values: Array) -> Array:
    return values.astype(np.float64).reshape(values.shape[0], -1)


def alpha_over(tensors: Tensors, rank: int) -> float:
    return float(tensors["alpha"].reshape(())) / rank if "alpha" in tensors else 1.0


def lora(t: Tensors, shape, base) -> Array:
    up, down = matrix(t["lora_up.weight"]), t["lora_down.weight"].astype(np.float64)
    if "lora_mid.weight" in t:
        mid = t["lora_mid.weight"].astype(np.float64)
        return np.einsum("on,nmhw,mi->oihw", up, mid, matrix(down)) * alpha_over(t, down.shape[0])
    return np.tensordot(up, down, 1) * alpha_over(t, down.shape[0])


def _hadamard_side(t: Tensors, side: int, shape) -> Array:
    a, b = matrix(t[f"hada_w{side}_a"]), matrix(t[f"hada_w{side}_b"])
    core = t.get(f"hada_t{side}")
    if core is None:
        return (a @ b).reshape(shape)
    return np.einsum("ijhw,ip,jr->prhw", core.astype(np.float64), a, b)


def loha(t: Tensors, shape, base) -> Array:
    product = _hadamard_side(t, 1, shape) * _hadamard_side(t, 2, shape)
    return product * alpha_over(t, t["hada_w1_b"].shape[0])


def lokr(t: Tensors, shape, base) -> Array:
    rank = None
    if (w1 := t.get("lokr_w1")) is None:
        w1, rank = matrix(t["lokr_w1_a"]) @ matrix(t["lokr_w1_b"]), t["lokr_w1_b"].shape[0]
    if (w2 := t.get("lokr_w2")) is None:
        a, b, rank = matrix(t["lokr_w2_a"]), matrix(t["lokr_w2_b"]), t["lokr_w2_b"].shape[0]
        core = t.get("lokr_t2")
        w2 = a @ b if core is None else np.einsum("ijhw,ip,jr->prhw", core.astype(np.float64), a, b)
        w2 = w2.reshape(w2.shape[0], -1, *shape[2:])
    w1 = w1.astype(np.float64).reshape(*w1.shape[:2], *[1] * (w2.ndim - 2))
    return np.kron(w1, w2.astype(np.float64)).reshape(shape) * (alpha_over(t, rank) if rank else 1.0)


def glora(t: Tensors, shape, base) -> Array:
    a1, a2, b1, b2 = (matrix(t[f"{name}.weight"]) for name in ("a1", "a2", "b1", "b2"))
    mixed = np.moveaxis(np.tensordot(base.astype(np.float64), a1 @ a2, (1, 0)), -1, 1)
    return (mixed + (b1 @ b2).reshape(shape)) * alpha_over(t, a2.shape[0])


def ia3(t: Tensors, shape, base) -> Array:
    by = t["weight"].astype(np.float64).reshape(-1)
    return np.einsum("oi...,i->oi..." if t["on_input"] else "oi...,o->oi...", base.astype(np.float64), by)


def full(t: Tensors, shape, base) -> Array:
    return t["diff"].astype(np.float64)


ORACLES: dict[str, Callable[[Tensors, tuple[int, ...], Array], Array]] = {
    "lora": lora,
    "tucker": lora,
    "loha": loha,
    "loha tucker": loha,
    "lokr": lokr,
    "lokr full": lokr,
    "lokr both": lokr,
    "lokr tucker": lokr,
    "glora": glora,
    "ia3": ia3,
    "ia3 input": ia3,
    "full": full,
}


def dora(t: Tensors, delta: Array, base: Array) -> Array:
    """m (W + D) / |W + D| - W, lengths of outputs."""
    weight = base.astype(np.float64)
    m = t["dora_scale"].astype(np.float64)
    length = np.linalg.norm((weight + delta).reshape(len(weight), -1), axis=1).reshape(-1, *[1] * (weight.ndim - 1))
    return m.reshape(length.shape) * (weight + delta) / length - weight


def rounded(tensors: Tensors, dtype: str) -> dict[str, Array]:
    """As a file in a number format would give them."""
    return {name: decode(encode(values, dtype), dtype, values.shape) for name, values in tensors.items()}


def weight_of(shape: tuple[int, ...], seed: int = 5) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * np.float32(0.05)


def layer(tensors: Tensors, **more) -> Layer:
    return Layer("lora_unet_x", "lora_unet_x", tensors, **more)


def assert_same(change, expected: Array, tolerance: float = TOLERANCE) -> None:
    assert change.shape == expected.shape
    largest = np.abs(expected).max()
    np.testing.assert_allclose(change.dense(), expected, rtol=0, atol=tolerance * largest)


every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


# ---- the answers -----------------------------------------------------------------------------------------------------


def test_the_oracle_knows_every_algorithm():
    assert set(ORACLES) == set(ALGORITHMS)


CASES = [("F32", alpha) for alpha in ALPHAS] + [(dtype, "half the rank") for dtype in FORMATS if dtype != "F32"]


@every_algorithm
@every_shape
@pytest.mark.parametrize(("dtype", "alpha"), CASES)
def test_change(algorithm: str, shape: tuple[int, ...], dtype: str, alpha: str):
    tensors = rounded(layer_tensors(algorithm, shape, RANK, ALPHAS[alpha], np.random.default_rng(1)), dtype)
    base = weight_of(shape)
    change = change_of(layer(tensors), base)
    assert_same(change, ORACLES[algorithm](tensors, shape, base))


@every_algorithm
@every_shape
def test_change_with_dora(algorithm: str, shape: tuple[int, ...]):
    tensors = layer_tensors("dora " + algorithm, shape, RANK, 2.0, np.random.default_rng(2))
    base = weight_of(shape)
    delta = ORACLES[algorithm](tensors, shape, base)
    change = change_of(layer(tensors), base)
    assert_same(change, dora(tensors, delta, base))
    assert algorithm_of(tensors) == "dora"


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_change_of_any_size(data):
    """Ranks above the sides too: factors become a written-out matrix where they would be larger."""
    algorithm = data.draw(st.sampled_from(ALGORITHMS))
    sides = st.integers(1, 24)
    shape = (data.draw(sides), data.draw(sides), *data.draw(st.sampled_from([(), (1, 1), (3, 3), (1, 3)])))
    rank = data.draw(st.integers(1, 9))
    tensors = layer_tensors(algorithm, shape, rank, data.draw(st.sampled_from([None, 1.0, 7.5])))
    base = weight_of(shape)
    change = change_of(layer(tensors), base)
    assert_same(change, ORACLES[algorithm](tensors, shape, base), 2e-6)
    assert isinstance(change, Dense) or change.rank < max(min(shape[0], base.size // shape[0]), rank + 1)


@every_algorithm
@pytest.mark.parametrize("prefix", ["", "dora "])
def test_a_fused_layers_part_stands_in_its_rows(algorithm: str, prefix: str):
    shape, rows = (12, 20), (8, 20)
    tensors = layer_tensors(prefix + algorithm, shape, RANK)
    base = weight_of((30, 20))
    change = change_of(layer(tensors, rows=rows, total_rows=30), base)
    alone = change_of(layer(tensors), base[slice(*rows)])
    expected = np.zeros((30, 20))
    expected[slice(*rows)] = alone.dense()
    assert_same(change, expected)
    assert isinstance(change, type(alone))


@every_algorithm
@pytest.mark.parametrize("prefix", ["", "dora "])
def test_halves_that_the_file_has_the_other_way_round(algorithm: str, prefix: str):
    tensors = layer_tensors(prefix + algorithm, (12, 20), RANK)
    base = weight_of((12, 20))
    swapped = np.concatenate([base[6:], base[:6]])
    expected = change_of(layer(tensors), swapped).dense()
    assert_same(change_of(layer(tensors, swapped=True), base), np.concatenate([expected[6:], expected[:6]]))


@pytest.mark.parametrize(("shape", "rank"), [((24, 40), 4), ((24, 40, 1, 1), 8)])
def test_a_lora_changes_the_weight_as_our_training_does(shape: tuple[int, ...], rank: int):
    tensors = layer_tensors("lora", shape, rank, 3.0)
    module = torch.nn.Linear(40, 24) if len(shape) == 2 else torch.nn.Conv2d(40, 24, 1)
    adapter = Lora.from_tensors("x", module, "unet", {n: torch.from_numpy(np.array(v)) for n, v in tensors.items()})
    assert_same(change_of(layer(tensors)), adapter.delta_weight().double().numpy(), 1e-6)


class TestRanks:
    """Factors wherever they are smaller than the matrix."""

    CASES = (
        ("lora", (24, 40), 4),
        ("tucker", (24, 16, 3, 3), 4),
        ("loha", (24, 40), 16),
        ("loha tucker", (24, 16, 3, 3), 16),
        ("lokr", (24, 40), 16),  # sides 4 and 5: w1 is 4 x 5, w2 of rank 4
        ("lokr both", (24, 40), 16),
        ("lokr tucker", (24, 16, 3, 3), 16),
        ("glora", (24, 40), 8),
    )

    @pytest.mark.parametrize(("algorithm", "shape", "rank"), CASES)
    def test_rank(self, algorithm: str, shape: tuple[int, ...], rank: int):
        change = change_of(layer(layer_tensors(algorithm, shape, 4)), weight_of(shape))
        assert isinstance(change, LowRank)
        assert change.rank == rank

    @pytest.mark.parametrize("algorithm", ["lokr full", "ia3", "full"])
    def test_no_low_rank_to_be_had(self, algorithm: str):
        assert isinstance(change_of(layer(layer_tensors(algorithm, (24, 40))), weight_of((24, 40))), Dense)

    def test_at_alpha_as_rank_the_factors_are_the_files(self):
        tensors = layer_tensors("lora", (24, 40), 4, 4.0)
        change = change_of(layer(tensors))
        assert np.shares_memory(change.up, tensors["lora_up.weight"])
        assert np.shares_memory(change.down, tensors["lora_down.weight"])


class TestAlpha:
    @pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
    @pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E4M3", "I64", "U8"])
    def test_one_number_of_any_shape_and_format(self, shape: tuple[int, ...], dtype: str):
        tensors = layer_tensors("lora", (8, 8), 4, None)
        alpha = decode(encode(np.full(shape, 2), dtype), dtype, shape)
        once = change_of(layer(tensors)).dense()
        assert_same(change_of(layer(tensors | {"alpha": alpha})), once / 2)

    def test_of_zero_is_no_change(self):
        assert change_of(layer(layer_tensors("lora", (8, 8), 4, 0.0))).norm() == 0

    def test_counts_for_nothing_in_a_lokr_without_factors(self):
        some, none = (change_of(layer(layer_tensors("lokr full", (8, 9), 4, alpha))) for alpha in (1.0, None))
        np.testing.assert_array_equal(some.dense(), none.dense())

    def test_is_over_the_rank_of_the_larger_matrix_of_lokr(self):
        tensors = layer_tensors("lokr", (24, 40), 4, None) | {
            "lokr_w1_a": np.ones((4, 2)),
            "lokr_w1_b": np.ones((2, 5)),
        }
        tensors.pop("lokr_w1")
        whole = change_of(layer(tensors)).dense()
        assert_same(change_of(layer(tensors | {"alpha": np.array(8.0)})), 2 * whole)


class TestDora:
    def test_of_inputs_as_older_files_have_it(self):
        shape = (12, 20, 3, 3)
        tensors = layer_tensors("lora", shape, RANK, 2.0)
        base = weight_of(shape)
        changed = base.astype(np.float64) + lora(tensors, shape, base)
        m = 1 + np.random.default_rng(3).random((1, 20, 1, 1))
        length = np.sqrt((changed**2).sum((0, 2, 3), keepdims=True))
        assert_same(change_of(layer(tensors | {"dora_scale": m}), base), m * changed / length - base)

    @pytest.mark.parametrize("shape", [(12, 20), (12, 20, 3, 3)])
    def test_of_outputs_as_peft_has_it(self, shape: tuple[int, ...]):
        tensors = layer_tensors("dora lora", shape, RANK, 2.0)
        flat = dict(tensors) | {"dora_scale": tensors["dora_scale"].reshape(-1)}
        base = weight_of(shape)
        np.testing.assert_array_equal(change_of(layer(flat), base).dense(), change_of(layer(tensors), base).dense())

    def test_the_lengths_of_the_base_with_no_change_are_no_change(self):
        base = weight_of((12, 20))
        tensors = layer_tensors("lora", (12, 20), RANK, 0.0)
        length = np.linalg.norm(base.astype(np.float64), axis=1, keepdims=True)
        assert change_of(layer(tensors | {"dora_scale": length}), base).norm() < 1e-12

    def test_an_output_of_zeros_stays_finite(self):
        base = weight_of((12, 20))
        base[3] = 0
        tensors = layer_tensors("dora lora", (12, 20), RANK, 0.0)
        assert np.isfinite(change_of(layer(tensors), base).dense()).all()


class TestGlora:
    @staticmethod
    def old(tensors: Tensors) -> dict[str, Array]:
        """The same layer as older LyCORIS wrote it: W a2 a1 + b2 b1."""
        names = {"a1.weight": "a2.weight", "b1.weight": "b2.weight"}
        names |= {new: old for old, new in names.items()}
        return {names.get(name, name): values for name, values in tensors.items()}

    @pytest.mark.parametrize("shape", [(24, 40), (40, 24), (24, 24)])
    def test_both_conventions_mean_the_same(self, shape: tuple[int, ...]):
        tensors = layer_tensors("glora", shape, RANK)
        base = weight_of(shape)
        np.testing.assert_array_equal(
            change_of(layer(self.old(tensors)), base).dense(), change_of(layer(tensors), base).dense()
        )

    def test_with_a_convolution_in_the_middle(self):
        shape = (24, 16, 3, 3)
        rng = np.random.default_rng(0)
        tensors = layer_tensors("glora", shape, RANK, 2.0)
        inner = {"b2.weight": rng.standard_normal((4, 16, 1, 1)), "bm.weight": rng.standard_normal((4, 4, 3, 3))}
        b2 = np.einsum("nmhw,mi->nihw", inner["bm.weight"], inner["b2.weight"][:, :, 0, 0])
        base = weight_of(shape)
        expected = glora(tensors | {"b2.weight": b2}, shape, base)
        assert_same(change_of(layer(tensors | inner), base), expected)


class TestShapes:
    @pytest.mark.parametrize("algorithm", ["loha", "lokr", "lokr full"])
    def test_a_convolution_written_as_a_matrix_takes_the_models_shape(self, algorithm: str):
        shape = (24, 16, 3, 3)
        tensors = layer_tensors(algorithm, shape, RANK)
        expected = ORACLES[algorithm](tensors, shape, weight_of(shape))
        assert_same(change_of(layer(tensors), shape=shape), expected)
        assert change_of(layer(tensors)).dense().size == expected.size

    def test_a_linear_lora_of_a_1x1_convolution_and_the_other_way_round(self):
        linear, convolution = (layer_tensors("lora", shape, RANK) for shape in ((24, 40), (24, 40, 1, 1)))
        assert change_of(layer(linear), shape=(24, 40, 1, 1)).shape == (24, 40, 1, 1)
        assert change_of(layer(convolution), shape=(24, 40)).shape == (24, 40)


class TestVectors:
    def test_of_norms_and_biases(self):
        norm = {"w_norm": np.arange(4.0), "b_norm": np.ones(4)}
        assert vectors_of(layer(norm)).keys() == {"w_norm", "b_norm"}
        np.testing.assert_array_equal(bias_of(layer(norm)), np.ones(4))
        np.testing.assert_array_equal(bias_of(layer({"diff_b": np.ones(3), "diff": np.ones((3, 2))})), np.ones(3))
        assert bias_of(layer(layer_tensors("lora", (8, 8)))) is None

    def test_a_diff_with_one_side_is_a_norms(self):
        tensors = {"diff": np.arange(4.0), "diff_b": np.ones(4)}
        assert algorithm_of(tensors) == "norm"
        np.testing.assert_array_equal(vectors_of(layer(tensors))["w_norm"], np.arange(4.0))

    def test_vectors_alone_are_no_change_of_a_matrix(self):
        assert change_of(layer({"diff_b": np.ones(4)}), shape=(4, 6)).norm() == 0
        assert change_of(layer({"w_norm": np.ones(4)})).shape == (4,)

    def test_a_bias_beside_the_factors_is_scaled_as_they_are(self):
        tensors = layer_tensors("lora", (8, 6), 4, 2.0) | {"lora_up.bias": np.ones(8, np.float32)}
        np.testing.assert_array_equal(bias_of(layer(tensors)), np.full(8, 0.5))

    def test_of_a_part_stand_in_its_rows(self):
        part = layer({"diff_b": np.ones(2)}, rows=(1, 3), total_rows=5)
        np.testing.assert_array_equal(bias_of(part), [0, 1, 1, 0, 0])


NAMES = {
    "lora": "lora",
    "tucker": "locon",
    "loha": "loha",
    "lokr": "lokr",
    "lokr full": "lokr",
    "glora": "glora",
    "ia3": "ia3",
    "full": "full",
    "dora lokr": "dora",
}


@pytest.mark.parametrize("algorithm", NAMES)
def test_algorithms_are_told_apart(algorithm: str):
    tensors = layer_tensors(algorithm, (24, 16, 3, 3) if algorithm == "tucker" else (24, 16))
    assert algorithm_of(tensors) == NAMES[algorithm]
    assert needs_base(tensors) == (algorithm in ("glora", "ia3", "dora lokr"))


def test_a_3x3_lora_is_a_locon():
    assert algorithm_of(layer_tensors("lora", (8, 8, 3, 3))) == "locon"
    assert algorithm_of(layer_tensors("lora", (8, 8, 1, 1))) == "lora"
    assert algorithm_of({"oft_blocks": np.zeros((2, 4, 4))}) == "oft"
    assert algorithm_of({"alpha": np.zeros(())}) == "unknown"


@pytest.mark.parametrize("alpha", [None, 0.0, 0.01, 1000.0])
def test_oft_turns_blocks_of_outputs_as_lycoris_does(alpha):
    """Its formulas in float64: R = (I + Q)(I - Q)^-1, and an einsum with the transpose."""
    rng = np.random.default_rng(1)
    weight, blocks = rng.normal(size=(12, 5, 3, 3)), 0.3 * rng.normal(size=(3, 4, 4))
    tensors = {"oft_blocks": blocks} | ({} if alpha is None else {"alpha": np.array(alpha)})
    q = blocks - blocks.transpose(0, 2, 1)
    if alpha and (length := np.linalg.norm(q)) > alpha * 12:
        q = q * alpha * 12 / length
    r = (np.eye(4) + q) @ np.linalg.inv(np.eye(4) - q)
    turned = np.einsum("knm,kn...->km...", r, weight.reshape(3, 4, 5, 3, 3)).reshape(weight.shape)
    found = change_of(Layer("lora_unet_x", "x", tensors), weight).dense()
    np.testing.assert_allclose(found, turned - weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(weight + found), np.linalg.norm(weight), rtol=1e-6)
