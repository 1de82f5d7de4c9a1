"""What cannot be turned into a change is refused in one sentence that names the file and the layer."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES
from lora_core.merge.algorithms.factors import MAX_ELEMENTS
from lora_core.merge.algorithms.table import ALGORITHMS
from lora_core.merge.deltas import Layer, change_of, vectors_of
from tests.merge.makers import layer_tensors

Array = np.ndarray
SHAPE = (12, 20)
KERNEL = (12, 20, 3, 3)
BASE = np.ones(SHAPE, np.float32)


def made(algorithm: str = "lora", shape: tuple[int, ...] = SHAPE, **changed) -> dict[str, Array]:
    """A layer's tensors with some replaced (dots in names written __) or, where None, taken out."""
    tensors = dict(layer_tensors(algorithm, shape, 4, 2.0))
    for name, values in changed.items():
        key = name.replace("__", ".")
        if values is None:
            del tensors[key]
        else:
            tensors[key] = values
    return tensors


def zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


def refused(tensors: Mapping[str, Array], base: Array | None = BASE, **more) -> UserError:
    layer = Layer("lora_unet_x", "unet.x", tensors, path=Path("クマ.safetensors"), **more)
    with pytest.raises(UserError) as caught:
        change_of(layer, base)
    for language in LANGUAGES:
        sentence = caught.value.message(language)
        assert "クマ.safetensors" in sentence
        assert "unet.x" in sentence
        assert "\n" not in sentence
    return caught.value


HALVES = [(name, half[0][0]) for name, row in ALGORITHMS.items() if len(row.halves) > 1 for half in row.halves]


@pytest.mark.parametrize(("algorithm", "tensor"), HALVES)
def test_a_missing_half(algorithm: str, tensor: str):
    tensors = made("lokr full" if algorithm == "lokr" else algorithm)
    del tensors[tensor]
    error = refused(tensors)
    assert error.key == "lora.missing_half"
    assert tensor in str(error)


@pytest.mark.parametrize(
    ("algorithm", "tensor"),
    [
        ("lokr both", "lokr_w1_a"),
        ("lokr both", "lokr_w2_b"),
        ("lokr tucker", "lokr_w2_a"),
        ("loha tucker", "hada_t1"),
        ("loha tucker", "hada_t2"),
    ],
)
def test_a_missing_half_of_a_half(algorithm: str, tensor: str):
    tensors = made(algorithm, KERNEL)
    del tensors[tensor]
    error = refused(tensors, np.ones(KERNEL, np.float32))
    assert error.key == "lora.missing_half"
    assert tensor in str(error)


MISFITS = {
    "up and down": made(lora_up__weight=zeros(12, 5)),
    "up as a convolution of 3x3": made(shape=KERNEL, lora_up__weight=zeros(12, 4, 3, 3)),
    "mid and up": made("tucker", KERNEL, lora_mid__weight=zeros(5, 4, 3, 3)),
    "mid and down": made("tucker", KERNEL, lora_mid__weight=zeros(4, 5, 3, 3)),
    "two convolutions": made("tucker", KERNEL, lora_down__weight=zeros(4, 20, 3, 3)),
    "halves of a hadamard product": made("loha", hada_w1_b=zeros(5, 20)),
    "rows of a hadamard product": made("loha", hada_w2_a=zeros(13, 4)),
    "columns of a hadamard product": made("loha", hada_w2_b=zeros(4, 21)),
    "a core": made("loha tucker", KERNEL, hada_t1=zeros(3, 4, 3, 3)),
    "another kernel": made("loha tucker", KERNEL, hada_t2=zeros(4, 4, 1, 1)),
    "halves of a kronecker product": made("lokr", lokr_w2_a=zeros(4, 3)),
    "halves of its first": made("lokr both", lokr_w1_b=zeros(5, 4)),
    "its core": made("lokr tucker", KERNEL, lokr_t2=zeros(4, 5, 3, 3)),
    "halves of glora": made("glora", b1__weight=zeros(12, 5)),
}


@pytest.mark.parametrize("name", MISFITS)
def test_tensors_that_do_not_fit_together(name: str):
    tensors = MISFITS[name]
    base = BASE if not any(values.ndim == 4 for values in tensors.values()) else np.ones(KERNEL, np.float32)
    error = refused(tensors, base)
    assert error.key == "lora.halves_differ"
    assert " x " in str(error)


@pytest.mark.parametrize(
    "tensors",
    [
        made(shape=(12, 21)),
        made(shape=(11, 20)),
        made(shape=KERNEL),
        made("lokr", (12, 21)),
        made("glora", (13, 20)),
        made("ia3", (13, 20)),
        made("ia3 input", (12, 21)),
        made("full", (12, 19)),
        made("dora lora", (13, 20)),
        made(dora_scale=zeros(13, 1)),
        made(dora_scale=zeros(1, 21)),
        made(dora_scale=zeros(2, 6)),
    ],
)
def test_a_layer_of_another_model(tensors: dict[str, Array]):
    assert refused(tensors).key == "lora.other_shape"


@pytest.mark.parametrize("rows", [(0, 11), (0, 24), (20, 32)])
def test_rows_that_are_not_the_files(rows: tuple[int, int]):
    assert refused(made(), np.ones((30, 20), np.float32), rows=rows, total_rows=30).key == "lora.other_shape"


@pytest.mark.parametrize(
    "tensors",
    [
        made(lora_down__weight=zeros(0, 20), lora_up__weight=zeros(12, 0)),
        made(lora_down__weight=zeros(4, 0)),
        made("loha", hada_w1_a=zeros(12, 0), hada_w1_b=zeros(0, 20)),
        made("lokr", lokr_w1=zeros(0, 4)),
        made("full", diff=zeros(0, 20)),
    ],
)
def test_rank_zero(tensors: dict[str, Array]):
    assert refused(tensors).key == "lora.rank_zero"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr", "full", "dora lora", "ia3"])
def test_numbers_that_are_none(algorithm: str, bad: float):
    tensors = made(algorithm)
    name = next(iter(tensors))
    tensors[name].flat[-1] = bad
    error = refused(tensors)
    assert error.key == "lora.not_finite"
    assert name in str(error)


def test_large_numbers_are_numbers():
    tensors = made(alpha=np.array(4.0), lora_up__weight=np.full((12, 4), 1e30, np.float32))
    assert np.isfinite(change_of(Layer("x", "x", tensors)).up).all()


@pytest.mark.parametrize(
    "tensors",
    [
        made("loha", hada_w1_a=np.full((12, 4), 1e200), hada_w2_a=np.full((12, 4), 1e200)),
        made("lokr full", lokr_w1=np.full((3, 4), 1e30), lokr_w2=np.full((4, 5), 1e30)),
        made(alpha=np.array(1e300), lora_up__weight=np.full((12, 4), 1e30)),
    ],
)
def test_numbers_whose_product_is_none(tensors: dict[str, Array]):
    assert refused(tensors).key == "lora.overflow"


def test_alpha_of_nan_or_of_many_numbers():
    assert refused(made(alpha=np.array(np.nan))).key == "lora.not_finite"
    assert refused(made(alpha=np.ones(4))).key == "lora.bad_alpha"
    assert refused(made(alpha=np.ones(0))).key == "lora.bad_alpha"


def test_blocks_that_do_not_make_up_the_outputs():
    assert refused({"oft_blocks": zeros(5, 3, 3)}).key == "lora.other_shape"
    assert refused({"oft_blocks": zeros(2, 6, 6), "alpha": np.ones(2)}).key == "lora.bad_alpha"
    assert refused({"oft_blocks": zeros(2, 6, 6)}, None).key == "lora.needs_base"


@pytest.mark.parametrize("algorithm", ["dora lora", "dora lokr", "glora", "ia3"])
def test_what_needs_the_base_model_asks_for_it(algorithm: str):
    error = refused(made(algorithm), None)
    assert error.key == "lora.needs_base"
    assert {"dora lora": "DoRA", "dora lokr": "DoRA", "glora": "GLoRA", "ia3": "IA3"}[algorithm] in str(error)


@pytest.mark.parametrize(
    "tensors",
    [
        {"oft_blocks": zeros(2, 2, 3, 3)},
        {"oft_blocks": zeros(2, 6, 6), "rescale": zeros(12, 1)},
        {"oft_diag": zeros(12), "alpha": zeros()},
    ],
)
def test_ways_of_turning_that_are_not_read_are_refused_by_name(tensors: dict[str, Array]):
    error = refused(tensors)
    assert error.key == "lora.not_linear"
    assert "OFT" in str(error)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"alpha": zeros()},
        {"dora_scale": zeros(12, 1)},
        made(hada_w1_a=zeros(12, 4)),
        made("lokr", diff=zeros(12, 20)),
        made(scalar=zeros()),
        {"diff_b": zeros(12), "scalar": zeros()},
    ],
)
def test_tensors_of_no_algorithm_or_of_two(tensors: dict[str, Array]):
    assert refused(tensors).key == "lora.unknown_tensors"


@pytest.mark.parametrize(
    "tensors",
    [
        made(lora_down__weight=zeros(80)),
        made(lora_down__weight=zeros()),
        made("tucker", KERNEL, lora_mid__weight=zeros(4, 4)),
        made("ia3", on_input=zeros(2)),
        made("lokr", lokr_w1=zeros(4)),
    ],
)
def test_tensors_with_too_few_sides(tensors: dict[str, Array]):
    assert refused(tensors).key == "lora.bad_shape"


def test_vectors_with_too_many_sides():
    for tensors in ({"diff_b": zeros(3, 2)}, made(diff_b=zeros(12), lora_up__bias=zeros(11)), made(diff_b=zeros(0))):
        with pytest.raises(UserError) as caught:
            vectors_of(Layer("x", "x", tensors))
        assert caught.value.key == "lora.bad_shape"


LARGE = int(MAX_ELEMENTS**0.5) + 1
TOO_LARGE = {
    "outer product": {"lora_up.weight": zeros(LARGE, 1), "lora_down.weight": zeros(1, LARGE)},
    "hadamard product": dict.fromkeys(("hada_w1_a", "hada_w2_a"), zeros(LARGE, 1))
    | dict.fromkeys(("hada_w1_b", "hada_w2_b"), zeros(1, LARGE)),
    "kronecker product": {"lokr_w1": zeros(120, 100), "lokr_w2": zeros(120, 100)},
    "tucker": {
        "lora_up.weight": zeros(1, 9000),
        "lora_mid.weight": zeros(9000, 1, 3, 3),
        "lora_down.weight": zeros(1, 9000),
    },
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_small_file_that_describes_a_giant(name: str):
    assert refused(TOO_LARGE[name], None).key == "lora.too_large"
