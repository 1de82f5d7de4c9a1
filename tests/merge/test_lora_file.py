"""LoRA files: every family, spelling and number format read as the same changes; results written and read again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES
from lora_core.io.arrays import PRECISIONS, decode, encode, open_arrays, read_arrays, save_arrays, write_stream
from lora_core.io.safetensors import with_lora_hashes
from lora_core.io.tensors import TensorInfo
from lora_core.merge import known
from lora_core.merge.deltas import Dense
from lora_core.merge.lora import load_lora, save_result
from lora_core.merge.lowrank import LowRank, zero
from lora_core.merge.names import spell
from tests.merge.makers import ALGORITHMS, METADATA, SMALL, layer_tensors, lora_state, write_lora

Array = np.ndarray
TO_K = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
TO_Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
QKV = "lora_unet_double_blocks_0_img_attn_qkv"

every_family = pytest.mark.parametrize("family", SMALL)


def plain_factors(state: dict[str, Array], name: str) -> tuple[Array, Array]:
    """alpha / rank up, and down, of a kohya layer, float64."""
    up, down = (state[f"{name}.lora_{half}.weight"].astype(np.float64) for half in ("up", "down"))
    scale = float(state[f"{name}.alpha"]) / down.shape[0] if f"{name}.alpha" in state else 1.0
    return scale * up.reshape(up.shape[0], -1), down.reshape(down.shape[0], -1)


def plain_change(state: dict[str, Array], name: str) -> Array:
    up, down = plain_factors(state, name)
    return up @ down


def assert_same_effect(change: LowRank, up: Array, down: Array) -> None:
    """Both answer a few random inputs alike: whole matrices of FLUX are too large to compare."""
    x = np.random.default_rng(0).standard_normal((down.shape[1], 4))
    expected = up @ (down @ x)
    np.testing.assert_allclose(change.up @ (change.down @ x), expected, atol=1e-6 * np.abs(expected).max(), rtol=0)


def assert_close(change, expected: Array, tolerance: float = 1e-6) -> None:
    expected = expected.reshape(change.shape)
    np.testing.assert_allclose(change.dense(), expected, rtol=0, atol=tolerance * np.abs(expected).max())


class TestReading:
    @every_family
    def test_every_layer_of_a_family(self, tmp_path: Path, family: str):
        state = write_lora(tmp_path / "m.safetensors", family, precision="float")
        file = load_lora(tmp_path / "m.safetensors")
        assert (file.family, file.junk, file.dtype) == (family, [], "fp32")
        assert file.names() == sorted(SMALL[family])
        assert file.metadata.items() >= METADATA[family].items()
        for name, shape in SMALL[family].items():
            assert file.change(name).shape == shape
            assert_same_effect(file.change(name), *plain_factors(state, name))

    @every_family
    @pytest.mark.parametrize("style", ["diffusers", "peft"])
    def test_other_spellings(self, tmp_path: Path, family: str, style: str):
        layers = {name: shape for name, shape in SMALL[family].items() if style == "diffusers" or "_te" not in name}
        state = lora_state(layers, family=family, style=style)
        save_arrays(state, {}, tmp_path / "m.safetensors", "float")
        file = load_lora(tmp_path / "m.safetensors")
        assert file.family == family
        assert set(file.names()) == set(layers)
        for name, shape in layers.items():
            change = file.change(name)
            assert change.shape == shape
            for spelled, rows in spell(name, family, style):
                down, up = (state[f"{spelled}.lora_{half}.weight"].astype(np.float64) for half in "AB")
                where = slice(*rows) if rows else slice(None)
                part = LowRank(change.up[where], change.down, (len(change.up[where]), *shape[1:]))
                assert_same_effect(part, up.reshape(up.shape[0], -1), down.reshape(down.shape[0], -1))

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_every_algorithm_has_the_models_shapes(self, tmp_path: Path, algorithm: str):
        layers = {name: SMALL["sd1"][name] for name in (TO_K, TO_Q, CONV)}
        save_arrays(lora_state(layers, algorithm), METADATA["sd1"], tmp_path / "m.safetensors", "float")
        file = load_lora(tmp_path / "m.safetensors")
        base = {name: np.full(shape, 0.1, np.float32) for name, shape in layers.items()}
        for name, shape in layers.items():
            assert file.change(name, base[name] if name in file.needs_base() else None).shape == shape
            assert file.shape(name) == shape

    @pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
    def test_every_number_format(self, tmp_path: Path, dtype: str):
        state = lora_state({TO_K: (320, 768)}, alpha=4.0)
        raw = {name: encode(values, dtype) for name, values in state.items()}
        infos = {name: TensorInfo(dtype, values.shape) for name, values in state.items()}
        write_stream(infos, lambda name: [raw[name]], {}, tmp_path / "m.safetensors")
        file = load_lora(tmp_path / "m.safetensors")
        assert file.dtype == {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}.get(dtype, "fp8")
        rounded = {name: decode(raw[name], dtype, values.shape) for name, values in state.items()}
        assert_close(file.change(TO_K), plain_change(rounded, TO_K))

    def test_a_small_model_keeps_its_own_sizes(self, tmp_path: Path):
        layers = {TO_K: (32, 64), CONV: (32, 16, 3, 3)}
        for algorithm in ("lora", "loha", "lokr"):
            save_arrays(lora_state(layers, algorithm), {}, tmp_path / "m.safetensors", "float")
            file = load_lora(tmp_path / "m.safetensors")
            assert file.family == "sd1"
            assert {name: file.change(name).shape for name in layers} == layers

    def test_split_parts_of_a_fused_layer_may_be_few(self, tmp_path: Path):
        spelled, rows = spell(QKV, "flux", "diffusers")[1]
        state = {f"{spelled}.{tensor}": values for tensor, values in _peft((rows[1] - rows[0], 3072)).items()}
        save_arrays(state, {}, tmp_path / "m.safetensors", "float")
        file = load_lora(tmp_path / "m.safetensors")
        change = file.change(QKV)
        assert isinstance(change, LowRank)
        assert (change.shape, change.rank) == ((9216, 3072), 4)
        assert np.flatnonzero(np.abs(change.up).sum(1))[[0, -1]].tolist() == [rows[0], rows[1] - 1]

    def test_norms_and_biases_are_vectors(self, tmp_path: Path):
        norm = "lora_unet_down_blocks_0_attentions_0_norm"
        state = lora_state({TO_K: (320, 768)}) | {
            f"{norm}.w_norm": np.ones(320, np.float32),
            f"{norm}.b_norm": np.zeros(320, np.float32),
            f"{TO_Q}.diff_b": np.full(320, 2, np.float32),
        }
        save_arrays(state, METADATA["sd1"], tmp_path / "m.safetensors", "fp16")
        file = load_lora(tmp_path / "m.safetensors")
        assert file.names() == [TO_K]
        assert (file.algorithm(TO_Q), file.change(TO_Q).norm(), file.change(TO_Q).shape) == ("norm", 0, (320, 320))
        assert {name: set(vectors) for name, vectors in file.vectors().items()} == {
            norm: {"w_norm", "b_norm"},
            TO_Q: {"diff_b"},
        }

    def test_a_part_with_a_vector_only_leaves_the_others_alone(self, tmp_path: Path):
        (q, q_rows), (k, k_rows) = spell(QKV, "flux", "diffusers")[:2]
        state = {f"{q}.{tensor}": values for tensor, values in _peft((q_rows[1] - q_rows[0], 3072)).items()}
        save_arrays(state | {f"{k}.diff_b": np.ones(3072)}, {}, tmp_path / "m.safetensors", "float")
        file = load_lora(tmp_path / "m.safetensors")
        assert (file.names(), file.change(QKV).rank) == ([QKV], 4)
        bias = file.vectors()[QKV]["diff_b"]
        assert bias.shape == (9216,)
        assert np.flatnonzero(bias)[[0, -1]].tolist() == [k_rows[0], k_rows[1] - 1]

    def test_junk_is_listed(self, tmp_path: Path):
        junk = {"lora_unet_no_such_block_7_x.lora_down.weight": np.ones((4, 8), np.float32), "extra": np.ones(3)}
        save_arrays(lora_state({TO_K: (320, 768)}) | junk, {}, tmp_path / "m.safetensors", "fp16")
        assert sorted(load_lora(tmp_path / "m.safetensors").junk) == sorted(junk)

    def test_a_file_may_be_replaced_by_the_result(self, tmp_path: Path):
        path = tmp_path / "m.safetensors"
        write_lora(path)
        file = load_lora(path)
        before = file.change(TO_K).dense()
        save_result(path, {TO_K: file.change(TO_K)}, {}, {}, "float")
        np.testing.assert_allclose(load_lora(path).change(TO_K).dense(), before, atol=1e-9)


def _peft(shape: tuple[int, int]) -> dict[str, Array]:
    tensors = layer_tensors("lora", shape, 4, None)
    return {"lora_A.weight": tensors["lora_down.weight"], "lora_B.weight": tensors["lora_up.weight"]}


class TestAlphaOfDiffusers:
    """Newer diffusers and PEFT write alpha into the metadata, or into a file beside it."""

    SPELLED = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"

    def strength(self, path: Path, config: object, metadata: bool = True) -> float:
        """How much stronger the layer plays than with alpha = rank."""
        state = {f"{self.SPELLED}.{tensor}": values for tensor, values in _peft((320, 768)).items()}
        text = config if isinstance(config, str) else json.dumps(config)
        save_arrays(state, {"lora_adapter_metadata": text} if metadata else {}, path, "float")
        plain = np.linalg.norm(state[f"{self.SPELLED}.lora_B.weight"] @ state[f"{self.SPELLED}.lora_A.weight"])
        return load_lora(path).change(TO_K).norm() / plain

    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            ({"unet.r": 4, "unet.lora_alpha": 8}, 2.0),
            ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 4.0),
            ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn2.to_k": 2}}, 0.5),
            ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"to_q": 2, "(a+)+$": 5}}, 2.0),
            ({"text_encoder.lora_alpha": 8}, 1.0),
            ({"unet.lora_alpha": "8"}, 1.0),
            ({"unet.lora_alpha": True}, 1.0),
            ({"unet.lora_alpha": float("nan")}, 1.0),
            ({"unet.lora_alpha": 8, "unet.alpha_pattern": ["to_k"]}, 2.0),
            ([1, 2], 1.0),
            ("no JSON", 1.0),
            ("[" * 100000, 1.0),
        ],
    )
    def test_in_the_metadata(self, tmp_path: Path, config: object, expected: float):
        assert self.strength(tmp_path / "m.safetensors", config) == pytest.approx(expected, rel=1e-6)

    def test_in_the_file_beside_it(self, tmp_path: Path):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "r": 4}))
        assert self.strength(tmp_path / "adapter_model.safetensors", {}, False) == pytest.approx(2.0, rel=1e-6)
        assert self.strength(tmp_path / "other.safetensors", {}, False) == pytest.approx(1.0, rel=1e-6)

    def test_a_tensor_says_more_than_the_metadata(self, tmp_path: Path):
        state = lora_state({TO_K: (320, 768)}, alpha=4.0)
        save_arrays(state, {"lora_adapter_metadata": '{"lora_alpha": 400}'}, tmp_path / "m.safetensors", "float")
        assert_close(load_lora(tmp_path / "m.safetensors").change(TO_K), plain_change(state, TO_K))


def test_dora_of_peft_is_of_the_outputs_even_where_it_looks_otherwise(tmp_path: Path):
    """PEFT writes the lengths of a convolution's outputs as (1, O, 1, 1), where LyCORIS has its inputs."""
    spelled = "unet.down_blocks.0.resnets.0.conv1"
    tensors = layer_tensors("lora", (320, 320, 3, 3), 4, None)
    m = 1 + np.random.default_rng(0).random(320).astype(np.float32)
    state = {
        f"{spelled}.lora_A.weight": tensors["lora_down.weight"],
        f"{spelled}.lora_B.weight": tensors["lora_up.weight"],
        f"{spelled}.lora_magnitude_vector": m.reshape(1, 320, 1, 1),
        **{f"{TestAlphaOfDiffusers.SPELLED}.{tensor}": values for tensor, values in _peft((320, 768)).items()},
    }
    save_arrays(state, {}, tmp_path / "m.safetensors", "float")
    base = np.random.default_rng(1).standard_normal((320, 320, 3, 3), dtype=np.float32)
    change = load_lora(tmp_path / "m.safetensors").change(CONV, base)
    lengths = np.linalg.norm((base + change.dense()).reshape(320, -1).astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, m, rtol=1e-5)


# ---- what is refused -------------------------------------------------------------------------------------------------


def _save(path: Path, state: dict[str, Array]) -> None:
    save_arrays(state, {}, path, "float")


def half_missing(path: Path) -> None:
    state = lora_state({TO_K: (320, 768)})
    del state[f"{TO_K}.lora_up.weight"]
    _save(path, state)


def two_spellings(path: Path) -> None:
    spelled = TestAlphaOfDiffusers.SPELLED
    again = {f"{spelled}.{tensor}": values for tensor, values in _peft((320, 768)).items()}
    _save(path, lora_state({TO_K: (320, 768)}) | again)


def two_keys(path: Path) -> None:
    spelled = TestAlphaOfDiffusers.SPELLED
    state = {f"{spelled}.{tensor}": values for tensor, values in _peft((320, 768)).items()}
    _save(path, state | {f"{spelled}.lora_A.default.weight": state[f"{spelled}.lora_A.weight"]})


def fused_and_split(path: Path) -> None:
    spelled, rows = spell(QKV, "flux", "diffusers")[0]
    part = {f"{spelled}.{tensor}": values for tensor, values in _peft((rows[1] - rows[0], 3072)).items()}
    _save(path, lora_state({QKV: (9216, 3072)}) | part)


def two_families(path: Path) -> None:
    _save(path, lora_state({TO_K: (320, 768)}) | lora_state({"lora_te2_text_model_encoder_layers_0_mlp_fc1": (8, 8)}))


def flux_and_sd(path: Path) -> None:
    _save(path, lora_state({TO_K: (320, 768), "lora_unet_double_blocks_0_img_mlp_0": (16, 8)}))


def unknown_family(path: Path) -> None:
    _save(path, lora_state({"lora_unet_joint_blocks_0_x_block_attn_qkv": (16, 8)}))


def unknown_layers(path: Path) -> None:
    _save(path, lora_state({"lora_unet_some_layer": (16, 8)}))


def no_tensors(path: Path) -> None:
    save_file({}, path)


def model(path: Path) -> None:
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3)}, path)


def pickle(path: Path) -> None:
    torch.save({f"{TO_K}.lora_down.weight": torch.zeros(4, 768)}, path)


def quantised(path: Path) -> None:
    state = {f"{TO_K}.{tensor}": torch.from_numpy(np.array(v)) for tensor, v in layer_tensors("lora", (8, 8)).items()}
    state[f"{TO_K}.lora_up.weight"] = torch.zeros(8, 4, dtype=torch.int8)
    save_file(state, path)


def unknown_format(path: Path) -> None:
    save_file({f"{TO_K}.lora_up.weight": torch.zeros(8, 4, dtype=torch.complex64)}, path)


def two_algorithms(path: Path) -> None:
    _save(path, lora_state({TO_K: (320, 768)}) | {f"{TO_K}.hada_w1_a": np.ones((320, 4), np.float32)})


def cut(path: Path) -> None:
    write_lora(path)
    path.write_bytes(path.read_bytes()[:-100])


REFUSED = {
    "a half is missing": ("lora.missing_half", half_missing),
    "two spellings of a layer": ("lora.layer_twice", two_spellings),
    "two keys of a tensor": ("lora.layer_twice", two_keys),
    "fused and split": ("lora.layer_twice", fused_and_split),
    "SD 1 and SDXL": ("lora.mixed_families", two_families),
    "SD 1 and FLUX": ("lora.mixed_families", flux_and_sd),
    "SD 3": ("lora.no_known_family", unknown_family),
    "no known layer": ("lora.no_known_family", unknown_layers),
    "no tensors": ("lora.not_a_lora", no_tensors),
    "a model": ("lora.not_a_lora", model),
    "a pickle": ("model.not_safetensors", pickle),
    "quantised": ("lora.whole_numbers", quantised),
    "complex numbers": ("tensor.unknown_format", unknown_format),
    "two algorithms in a layer": ("lora.unknown_tensors", two_algorithms),
    "truncated": ("model.truncated", cut),
    "missing": ("model.missing", lambda path: None),
    "a folder": ("model.is_folder", Path.mkdir),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_good_lora_gets_one_sentence(tmp_path: Path, name: str):
    key, make = REFUSED[name]
    path = tmp_path / "クマ.safetensors"
    make(path)
    with pytest.raises(UserError) as caught:
        load_lora(path)
    assert caught.value.key == key
    for language in LANGUAGES:
        assert "\n" not in caught.value.message(language)


def test_a_lenient_reader_gets_half_a_layer_too(tmp_path: Path):
    half_missing(tmp_path / "m.safetensors")
    file = load_lora(tmp_path / "m.safetensors", strict=False)
    with pytest.raises(UserError, match=r"lora_up\.weight is missing"):
        file.change(TO_K)


def test_a_whole_checkpoint_is_refused_before_it_is_read(tmp_path: Path, monkeypatch):
    model(tmp_path / "m.safetensors")
    monkeypatch.setattr("lora_core.io.arrays.ArrayFile.read", lambda self, name: pytest.fail("read"))
    with pytest.raises(UserError):
        load_lora(tmp_path / "m.safetensors")


# ---- results ---------------------------------------------------------------------------------------------------------


def random_change(shape: tuple[int, ...], rank: int, seed: int = 0) -> LowRank:
    rng = np.random.default_rng(seed)
    rows, columns = shape[0], int(np.prod(shape[1:]))
    return LowRank(rng.standard_normal((rows, rank)) * 0.1, rng.standard_normal((rank, columns)) * 0.1, shape)


CHANGES = {TO_K: random_change((320, 768), 3), CONV: random_change((320, 320, 3, 3), 7), TO_Q: zero((320, 320))}
STEP = {"fp16": 2**-11, "bf16": 2**-8, "float": 2**-24}
"""Largest relative error of rounding."""


class TestResults:
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_what_was_saved_is_read_again(self, tmp_path: Path, precision: str):
        path = tmp_path / "new folder" / "m.safetensors"
        save_result(path, CHANGES, {}, {"ss_network_dim": "7"}, precision)
        file = load_lora(path)
        assert file.names() == [TO_K, CONV]
        for name in file.names():
            expected, found = CHANGES[name], file.change(name)
            assert (found.shape, found.rank) == (expected.shape, expected.rank)
            size = np.abs(expected.up) @ np.abs(expected.down)
            error = np.abs(found.dense().reshape(size.shape) - expected.up @ expected.down)
            assert (error <= 3 * STEP[precision] * size + 1e-7).all()

    def test_tensors_are_kohyas(self, tmp_path: Path):
        save_result(tmp_path / "m.safetensors", CHANGES, {}, {}, "fp16")
        state = load_file(tmp_path / "m.safetensors")
        assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
            f"{TO_K}.lora_down.weight": (3, 768),
            f"{TO_K}.lora_up.weight": (320, 3),
            f"{TO_K}.alpha": (),
            f"{CONV}.lora_down.weight": (7, 320, 3, 3),
            f"{CONV}.lora_up.weight": (320, 7, 1, 1),
            f"{CONV}.alpha": (),
        }
        assert {tensor.dtype for tensor in state.values()} == {torch.float16}
        assert float(state[f"{CONV}.alpha"]) == 7

    def test_hashes_are_those_of_training(self, tmp_path: Path):
        save_result(tmp_path / "m.safetensors", CHANGES, {}, {"ss_network_dim": "7", "other": "x"}, "bf16")
        metadata = read_arrays(tmp_path / "m.safetensors")[1]
        own = {"ss_network_dim": "7", "other": "x"}
        assert metadata == with_lora_hashes(load_file(tmp_path / "m.safetensors"), own)

    @pytest.mark.parametrize(("precision", "rank"), [("bf16", 257), ("bf16", 300), ("bf16", 515), ("fp16", 2049)])
    def test_a_rank_that_the_precision_cannot_hold_plays_the_same(self, tmp_path: Path, precision: str, rank: int):
        up, down = np.full((2, rank), 0.5), np.full((rank, 3), 0.5)
        save_result(tmp_path / "m.safetensors", {TO_K: LowRank(up, down, (2, 3))}, {}, {}, precision)
        found = load_lora(tmp_path / "m.safetensors").change(TO_K).dense()
        np.testing.assert_allclose(found, up @ down, rtol=STEP[precision])

    def test_vectors_are_written_and_read(self, tmp_path: Path):
        vectors = {TO_K: {"diff_b": np.arange(320.0)}}
        save_result(tmp_path / "m.safetensors", CHANGES, vectors, {}, "float")
        np.testing.assert_array_equal(load_lora(tmp_path / "m.safetensors").vectors()[TO_K]["diff_b"], np.arange(320))

    @pytest.mark.parametrize(
        ("factor", "precision", "key"),
        [
            (1e6, "fp16", "tensor.overflow"),
            (1e60, "float", "tensor.overflow"),
            (np.inf, "bf16", "lora.result_not_finite"),
        ],
    )
    def test_numbers_too_large_leave_no_file(self, tmp_path: Path, factor: float, precision: str, key: str):
        change = CHANGES[TO_K]
        with pytest.raises(UserError) as caught:
            save_result(
                tmp_path / "m.safetensors",
                {TO_K: LowRank(change.up * factor, change.down, change.shape)},
                {},
                {},
                precision,
            )
        assert caught.value.key == key
        assert not list(tmp_path.iterdir())

    def test_the_other_precisions_hold_what_fp16_does_not(self, tmp_path: Path):
        large = CHANGES[TO_K].scaled(1e6)
        for precision in ("bf16", "float"):
            save_result(tmp_path / "m.safetensors", {TO_K: large}, {}, {}, precision)
            assert load_lora(tmp_path / "m.safetensors").change(TO_K).norm() == pytest.approx(large.norm(), rel=0.01)


def test_a_dense_change_scales_and_measures_itself():
    change = Dense(np.arange(6, dtype=np.float32).reshape(2, 3), (2, 3))
    assert change.norm() == pytest.approx(np.sqrt(55))
    np.testing.assert_array_equal(change.scaled(-2).dense(), [[0, -2, -4], [-6, -8, -10]])


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_plain_lora_of_full_size_is_known_layer_by_layer(family: str, tmp_path: Path):
    layers = {name: known.layers(family)[name] for name in known.default_targets(family)}
    path = write_lora(tmp_path / "m.safetensors", family, size="full", rank=1) and tmp_path / "m.safetensors"
    file = load_lora(path)
    assert set(file.names()) == set(layers)
    assert file.family == family
    assert all(file.change(name).shape == shape for name, shape in layers.items())
    with open_arrays(path) as opened:
        assert len(opened.tensors) == 3 * len(layers)


def test_what_the_file_says_decides_where_the_layers_do_not(tmp_path):
    """CLIP-L alone may be that of SDXL or of FLUX."""
    layer = {"lora_te1_text_model_encoder_layers_0_mlp_fc1": (3072, 768)}
    for family in ("sdxl", "flux"):
        path = tmp_path / f"{family}.safetensors"
        save_arrays(lora_state(layer), METADATA[family], path, "fp16")
        assert load_lora(path).family == family
    save_arrays(lora_state(layer), {}, tmp_path / "none.safetensors", "fp16")
    with pytest.raises(UserError) as caught:
        load_lora(tmp_path / "none.safetensors")
    assert caught.value.key == "lora.no_known_family"
