"""Merging files: against whole matrices in float64, for every family, algorithm and kind of input."""

import json

import numpy as np
import pytest

from lora_core.errors import UserError
from lora_core.events import FileSaved, Warned
from lora_core.io.arrays import open_arrays, read_arrays, save_arrays
from lora_core.merge import combine
from lora_core.merge.blocks import block_of
from lora_core.merge.lora import load_lora
from lora_core.merge.methods import METHODS, Options
from lora_core.merge.recipe import read_recipe
from lora_core.merge.repeat import repeated
from lora_core.settings.tools import MergeSettings, Size
from tests.merge import makers

CLIP = {"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k": (64, 768)}
"""A layer by which the family is known."""


def merge(tmp_path, loras, name="out", **options):
    """Runs a merge of (path, ratio[, blocks]) and gives the result's path."""
    given = [dict(zip(("path", "ratio", "block_weights"), lora, strict=False)) for lora in loras]
    output = tmp_path / f"{name}.safetensors"
    settings = MergeSettings.model_validate({"precision": "float", "output": output, "loras": given, **options})
    events = list(combine.merge(settings))
    assert isinstance(events[-1], FileSaved)
    return output


def deltas(path) -> dict[str, np.ndarray]:
    file = load_lora(path)
    return {name: file.change(name).dense().astype(np.float64) for name in file.names()}


def pair(tmp_path, family="sd1", algorithms=("lora", "lora")):
    """Two LoRAs of different ranks, on a layer of every kind that is quick to look at whole."""
    layers = {name: shape for name, shape in makers.SMALL[family].items() if np.prod(shape) < 2_000_000}
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for seed, (path, algorithm) in enumerate(zip(paths, algorithms, strict=True)):
        state = makers.lora_state(layers, algorithm, rank=3 + seed, family=family, seed=seed + 1)
        save_arrays(state, makers.METADATA[family], path, "float")
    return paths


def assert_sum(result, parts, weights, tolerance=1e-6):
    found, sources = deltas(result), [deltas(path) for path in parts]
    assert found.keys() == {name for source in sources for name in source}
    for name, change in found.items():
        wanted = sum(w * source[name] for w, source in zip(weights, sources, strict=True) if name in source)
        assert np.linalg.norm(change - wanted) <= tolerance * np.linalg.norm(wanted), name


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("method", ["svd", "concat"])
def test_the_effect_is_the_stated_sum(tmp_path, family, method):
    a, b = pair(tmp_path, family)
    assert_sum(merge(tmp_path, [(a, 0.5), (b, -1.25)], method=method), (a, b), (0.5, -1.25))


def test_ranks_and_alpha_of_a_concat(tmp_path):
    a, b = pair(tmp_path)
    tensors, metadata = read_arrays(merge(tmp_path, [(a, 1), (b, 1)], method="concat"))
    assert {v.shape[0] for k, v in tensors.items() if k.endswith("lora_down.weight")} == {7}
    assert {float(v) for k, v in tensors.items() if k.endswith(".alpha")} == {7}
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("7", "7")


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_svd_is_the_best_of_its_rank(tmp_path, rank):
    a, b = pair(tmp_path)
    found = deltas(merge(tmp_path, [(a, 1.0), (b, 0.7)], rank=rank))
    exact = deltas(merge(tmp_path, [(a, 1.0), (b, 0.7)], "exact", method="concat"))
    for name, change in found.items():
        flat = exact[name].reshape(exact[name].shape[0], -1)
        values = np.linalg.svd(flat, compute_uv=False)
        best = np.sqrt(np.sum(values[rank:] ** 2))
        error = np.linalg.norm(change.reshape(flat.shape) - flat)
        assert error == pytest.approx(best, abs=1e-6 * np.linalg.norm(flat)), name


def test_half_precision_costs_its_rounding_only(tmp_path):
    a, b = pair(tmp_path)
    result = merge(tmp_path, [(a, 1), (b, 1)], rank=16, precision="fp16")
    assert_sum(result, (a, b), (1, 1), tolerance=2e-3)
    with open_arrays(result) as file:
        assert {info.dtype for info in file.tensors.values()} == {"F16"}


def test_energy_keeps_the_share_in_every_layer(tmp_path):
    a, b = pair(tmp_path)
    found = deltas(merge(tmp_path, [(a, 1), (b, 1)], energy=0.8))
    exact = deltas(merge(tmp_path, [(a, 1), (b, 1)], "exact"))
    ranks = {n: load_lora(tmp_path / "out.safetensors").change(n).rank for n in found}
    for name, change in found.items():
        assert np.sum(change**2) >= (0.8 - 1e-6) * np.sum(exact[name] ** 2)
        values = np.linalg.svd(exact[name].reshape(len(change), -1), compute_uv=False)
        assert np.sum(values[: ranks[name] - 1] ** 2) < 0.8 * np.sum(values**2)


def test_energy_of_whole_matrices_is_taken_once(tmp_path):
    """The search has found the rank already; to ask it for a share of that again would keep a share of a share."""
    layers = {name: shape for name, shape in makers.SMALL["sd1"].items() if np.prod(shape) < 320 * 800}
    save_arrays(makers.lora_state(layers, "full", seed=3), makers.METADATA["sd1"], tmp_path / "a.safetensors", "float")
    exact = deltas(tmp_path / "a.safetensors")
    found = deltas(merge(tmp_path, [(tmp_path / "a.safetensors", 1)], energy=0.6))
    for name, change in found.items():
        assert 0.6 - 1e-4 <= np.sum(change**2) / np.sum(exact[name] ** 2) < 0.63


def test_one_rank_for_all(tmp_path):
    a, b = pair(tmp_path)
    result = load_lora(merge(tmp_path, [(a, 1), (b, 1)], energy=0.8, same_rank=True))
    linear = {result.change(n).rank for n in result.names() if result.shape(n)[2:] in ((), (1, 1))}
    assert len(linear) == 1


def test_a_rank_of_its_own_for_convolutions(tmp_path):
    a, b = pair(tmp_path)
    result = load_lora(merge(tmp_path, [(a, 1), (b, 1)], rank=4, conv_rank=2))
    for name in result.names():
        assert result.change(name).rank == (2 if result.shape(name)[2:] == (3, 3) else 4)
    assert json.loads(result.metadata["ss_network_args"]) == {"conv_dim": "2", "conv_alpha": "2"}
    assert result.metadata["ss_network_dim"] == "4"


@pytest.mark.parametrize("algorithm", ["tucker", "loha", "lokr", "lokr full", "lokr tucker", "full"])
def test_any_algorithm_with_a_plain_lora(tmp_path, algorithm):
    a, b = pair(tmp_path, algorithms=("lora", algorithm))
    layers = set(deltas(a))
    small = {n for n in layers if "ff_net" not in n}
    result = merge(tmp_path, [(a, 1), (b, 0.5)], rank=400)
    found, one, two = deltas(result), deltas(a), deltas(b)
    for name in small:
        wanted = one[name] + 0.5 * two[name]
        rank = min(400, *np.array(wanted).reshape(len(wanted), -1).shape)
        values = np.linalg.svd(wanted.reshape(len(wanted), -1), compute_uv=False)
        best = np.sqrt(np.sum(values[rank:] ** 2))
        error = np.linalg.norm(found[name] - wanted)
        assert error <= 1.001 * best + 3e-5 * np.linalg.norm(wanted), name


def test_flux_split_and_fused(tmp_path):
    """A file with query, key and value apart and one with them fused are the same layer."""
    layers = {"lora_unet_double_blocks_0_img_attn_qkv": (9216, 3072)}
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_arrays(makers.lora_state(layers, rank=2, family="flux", seed=1), makers.METADATA["flux"], a, "float")
    save_arrays(makers.lora_state(layers, rank=2, family="flux", style="diffusers", seed=2), {}, b, "float")
    result = merge(tmp_path, [(a, 1), (b, 1)])
    assert_sum(result, (a, b), (1, 1), tolerance=1e-5)
    assert load_lora(result).change("lora_unet_double_blocks_0_img_attn_qkv").rank == 2 + 3 * 2


@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if m.on_matrices])
def test_methods_on_whole_matrices(tmp_path, method):
    layers = {n: s for n, s in makers.SMALL["sd1"].items() if np.prod(s) < 320 * 800}
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for seed, path in enumerate(paths):
        save_arrays(makers.lora_state(layers, seed=seed), makers.METADATA["sd1"], path, "float")
    found = deltas(merge(tmp_path, [(p, r) for p, r in zip(paths, (1, -0.5), strict=True)], method=method, rank=320))
    sources = [deltas(path) for path in paths]
    for name, change in found.items():
        options = Options(0.5, 0, name)
        wanted = METHODS[method].on_matrices([s[name].astype(np.float32) for s in sources], [1, -0.5], options)
        np.testing.assert_allclose(change, wanted, atol=3e-5 * np.linalg.norm(wanted))


def test_layer_weights_scale_by_hand(tmp_path):
    a, b = pair(tmp_path)
    line = "0.5,1,1,1,1,1,1,0,1,1,1,1,1,1,1,1,0.25"
    found = deltas(merge(tmp_path, [(a, 2, line), (b, 1)]))
    one, two = deltas(a), deltas(b)
    by_block = {"BASE": 0.5, "MID": 0.0, "OUT11": 0.25}
    for name, change in found.items():
        wanted = 2 * by_block.get(block_of(name, "sd1"), 1.0) * one[name] + two[name]
        np.testing.assert_allclose(change, wanted, atol=1e-5 * np.linalg.norm(wanted))


def test_blocks_of_weight_zero_disappear(tmp_path):
    a, _ = pair(tmp_path)
    result = load_lora(merge(tmp_path, [(a, 1, "NOTEXT")]))
    assert all(name.startswith("lora_unet_") for name in result.names())


def test_merging_one_changes_nothing(tmp_path):
    a, _ = pair(tmp_path)
    assert_sum(merge(tmp_path, [(a, 1)]), (a,), (1,))


def test_vectors_are_added_too(tmp_path):
    a, b = pair(tmp_path, algorithms=("full", "full"))
    result = load_lora(merge(tmp_path, [(a, 1), (b, -2)], rank=4))
    one, two = load_lora(a).vectors(), load_lora(b).vectors()
    for name, vectors in result.vectors().items():
        np.testing.assert_allclose(
            vectors["diff_b"], one[name]["diff_b"] - 2 * two[name]["diff_b"], atol=1e-6, err_msg=name
        )
    assert result.vectors().keys() == one.keys()


# ---- what is refused -------------------------------------------------------------------------------------------------


def refused(tmp_path, loras, **options) -> str:
    with pytest.raises(UserError) as caught:
        merge(tmp_path, loras, **options)
    assert caught.value.message("ja") != caught.value.message("en")
    assert not list(tmp_path.glob("out.safetensors*"))
    return caught.value.key


def test_families_do_not_mix(tmp_path):
    a, _ = pair(tmp_path)
    makers.write_lora(tmp_path / "x.safetensors", "sdxl")
    assert refused(tmp_path, [(a, 1), (tmp_path / "x.safetensors", 1)]) == "merge.family_mix"


def test_a_lora_minus_itself_leaves_nothing(tmp_path):
    a, _ = pair(tmp_path)
    assert refused(tmp_path, [(a, 1), (a, -1)]) == "merge.nothing_left"


def test_nothing_to_merge(tmp_path):
    assert refused(tmp_path, []) == "merge.no_lora"


def test_what_needs_the_base_model_asks_for_it(tmp_path):
    a, b = pair(tmp_path, algorithms=("lora", "dora lora"))
    assert refused(tmp_path, [(a, 1), (b, 1)], rank=8) == "lora.needs_base"


def test_whole_matrices_need_a_rank(tmp_path):
    a, b = pair(tmp_path)
    assert refused(tmp_path, [(a, 1), (b, 1)], method="ties") == "merge.rank_needed"


def test_concat_of_a_whole_matrix(tmp_path):
    a, b = pair(tmp_path, algorithms=("lora", "full"))
    assert refused(tmp_path, [(a, 1), (b, 1)], method="concat") == "merge.needs_svd"


def test_a_result_never_replaces_what_it_was_made_of(tmp_path):
    a, b = pair(tmp_path)
    before = a.read_bytes()
    for overwrite in (False, True):
        with pytest.raises(UserError) as caught:
            merge(tmp_path, [(a, 1), (b, 1)], name="a", overwrite=overwrite)
        assert caught.value.key == "output.is_input"
    assert a.read_bytes() == before


def test_a_file_that_is_there_stays_unless_allowed(tmp_path):
    a, b = pair(tmp_path)
    (tmp_path / "out.safetensors").write_bytes(b"mine")
    with pytest.raises(UserError) as caught:
        merge(tmp_path, [(a, 1), (b, 1)])
    assert caught.value.key == "output.exists"
    assert (tmp_path / "out.safetensors").read_bytes() == b"mine"
    assert deltas(merge(tmp_path, [(a, 1), (b, 1)], overwrite=True))


def test_sizes_that_differ_are_refused_by_name(tmp_path):
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_k"
    for name, side in (("a", 64), ("b", 32)):
        state = makers.lora_state({layer: (64, side), **CLIP})
        save_arrays(state, makers.METADATA["sd1"], tmp_path / f"{name}.safetensors", "float")
    loras = [(tmp_path / "a.safetensors", 1), (tmp_path / "b.safetensors", 1)]
    assert refused(tmp_path, loras) == "merge.shape_mix"


def test_junk_is_named_not_dropped_in_silence(tmp_path):
    state = makers.lora_state({"lora_unet_mid_block_attentions_0_proj_in": (64, 64), **CLIP})
    save_arrays(state | {"optimizer_state": np.zeros(3, np.float32)}, {}, tmp_path / "a.safetensors", "float")
    settings = MergeSettings.model_validate(
        {"loras": [{"path": tmp_path / "a.safetensors"}], "output": tmp_path / "out.safetensors"}
    )
    said = [event for event in combine.merge(settings) if isinstance(event, Warned)]
    assert "optimizer_state" in said[0].message["en"]


# ---- what the result says of itself ----------------------------------------------------------------------------------


def test_metadata_and_recipe(tmp_path):
    a, b = pair(tmp_path)
    metadata = load_lora(merge(tmp_path, [(a, 1), (b, -1, "OUTALL")], rank=4)).metadata
    assert metadata["ss_base_model_version"] == "sd_v1"
    assert metadata["ss_network_module"] == "networks.lora"
    assert metadata["modelspec.merged_from"] == "a, b"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    recipe = read_recipe(metadata)
    assert [source["name"] for source in recipe["sources"]] == ["a.safetensors", "b.safetensors"]
    assert [source["ratio"] for source in recipe["sources"]] == [1, -1]
    assert recipe["sources"][1]["block_weights"] == "OUTALL"
    assert str(tmp_path) not in json.dumps(dict(metadata))


def test_a_merge_can_be_repeated(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))
    a, b = pair(tmp_path)
    first = merge(tmp_path, [(a, 1), (b, -0.5, "OUTALL")], rank=3, precision="fp16")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    a.rename(moved / "renamed.safetensors")
    b.rename(moved / "b.safetensors")
    settings = repeated(first, moved, {"output": tmp_path / "again.safetensors"})
    list(combine.merge(settings))
    one, two = read_arrays(first)[0], read_arrays(tmp_path / "again.safetensors")[0]
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[key], two[key]) for key in one)


def test_a_missing_source_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))
    a, b = pair(tmp_path)
    first = merge(tmp_path, [(a, 1), (b, 1)])
    b.unlink()
    with pytest.raises(UserError, match=r"b\.safetensors"):
        repeated(first, tmp_path, {})


def test_the_tags_of_what_is_added_come_along(tmp_path):
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path, tag in ((a, "bear"), (b, "cat")):
        tags = {"ss_tag_frequency": json.dumps({"10_x": {tag: 5}}), "modelspec.trigger_phrase": tag}
        makers.write_lora(path, seed=len(tag), metadata=makers.METADATA["sd1"] | tags)
    metadata = load_lora(merge(tmp_path, [(a, 1), (b, 1)], rank=2)).metadata
    assert json.loads(metadata["ss_tag_frequency"]) == {"10_x": {"bear": 5}, "b/10_x": {"cat": 5}}
    assert metadata["modelspec.trigger_phrase"] == "bear, cat"
    minus = load_lora(merge(tmp_path, [(a, 1), (b, -1)], "minus", rank=2)).metadata
    assert json.loads(minus["ss_tag_frequency"]) == {"10_x": {"bear": 5}}


# ---- before it is saved ----------------------------------------------------------------------------------------------


def test_the_spectrum_tells_what_a_rank_keeps(tmp_path):
    a, b = pair(tmp_path)
    loras = [{"path": a, "ratio": 1}, {"path": b, "ratio": 0.5}]
    found = combine.spectrum(MergeSettings.model_validate({"loras": loras}))
    exact = deltas(merge(tmp_path, [(a, 1), (b, 0.5)], method="concat"))
    cut = deltas(merge(tmp_path, [(a, 1), (b, 0.5)], "cut", rank=3))
    kept = found.kept(Size(rank=3))
    squares = {name: np.sum(change**2) for name, change in exact.items()}
    assert kept.share == pytest.approx(sum(np.sum(c**2) for c in cut.values()) / sum(squares.values()), rel=1e-6)
    assert kept.worst_share == pytest.approx(min(np.sum(cut[n] ** 2) / squares[n] for n in cut), rel=1e-6)
    assert set(kept.ranks.values()) == {3}
    assert found.kept(Size()).share == pytest.approx(1)


def test_the_spectrum_follows_the_file(tmp_path):
    a, _ = pair(tmp_path)
    settings = MergeSettings.model_validate({"loras": [{"path": a}]})
    before = combine.spectrum(settings).total
    assert combine.spectrum(settings).total == before
    makers.write_lora(a, "sd1", seed=77, rank=9, precision="float")
    assert combine.spectrum(settings).total != before
