"""Extraction: what was baked in comes out again, and what cannot be is said."""

import json
from pathlib import Path

import numpy as np
import pytest

from lora_core.errors import UserError
from lora_core.events import FileSaved, StageChanged
from lora_core.io.headers import read_header
from lora_core.merge import checkpoint, outputs
from lora_core.merge.apply import apply
from lora_core.merge.extract import extract
from lora_core.merge.lora import load_lora
from lora_core.merge.lowrank import flat_shape
from lora_core.merge.recipe import RECIPE_KEY, is_spatial
from lora_core.settings.tools import ApplySettings, ExtractSettings, LoraSource
from tests.merge.layouts import LAYOUTS, random_weights, write_checkpoint, write_layout
from tests.merge.test_apply import make_lora, rounded
from tests.models import tiny_ldm_file, tiny_sd_folder


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "PIECE", 300)
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))


def run(base, tuned, output: Path, **options) -> list:
    return list(extract(ExtractSettings(base=base, tuned=tuned, output=output, **({"precision": "float"} | options))))


def refused(key: str, base, tuned, output: Path, **options) -> str:
    before = sorted(output.parent.rglob("*"))
    with pytest.raises(UserError) as caught:
        run(base, tuned, output, **options)
    assert caught.value.key == key
    assert caught.value.message("ja")
    assert sorted(output.parent.rglob("*")) == before
    return str(caught.value)


def shifted(weights, layout, sizes, seed=5):
    """Weights with noise of a size added to some layers; sizes by a part of the layer's name."""
    rng = np.random.default_rng(seed)
    tuned = {key: values.copy() for key, values in weights.items()}
    for layer, ((key, _),) in layout.layers.items():
        for part, size in sizes.items():
            if part in layer:
                tuned[key] += size * rng.standard_normal(tuned[key].shape, dtype=np.float32)
    return tuned


def delta(lora, layer):
    change = lora.change(layer)
    return change.dense().reshape(flat_shape(change.shape))


@pytest.fixture
def models(tmp_path):
    """Two files of SD 1 layout that differ by noise in every layer, and their differences."""
    layout, weights = LAYOUTS["sd1"], random_weights(LAYOUTS["sd1"])
    tuned = shifted(weights, layout, {"": 0.1})
    base_path = write_checkpoint(tmp_path / "base.safetensors", weights)
    tuned_path = write_checkpoint(tmp_path / "tuned.safetensors", tuned)
    differences = {layer: tuned[key] - weights[key] for layer, ((key, _),) in layout.layers.items()}
    return base_path, tuned_path, differences


# ---- the numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("F32", 1e-5), ("F16", 2e-2)])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_baked_lora_comes_out_again(tmp_path, name, dtype, tolerance):
    layout = LAYOUTS[name]
    weights = {key: rounded(values, dtype) for key, values in random_weights(layout).items()}
    base = write_layout(tmp_path, layout, weights, dtype)
    make_lora(tmp_path / "a.safetensors", layout)
    baked = tmp_path / f"baked{base.suffix}"
    source = LoraSource(path=tmp_path / "a.safetensors", ratio=3.0)
    list(apply(ApplySettings(checkpoint=base, loras=[source], output=baked)))
    run(base, baked, tmp_path / "b.safetensors", rank=4)
    original, found = load_lora(tmp_path / "a.safetensors"), load_lora(tmp_path / "b.safetensors")
    assert found.family == layout.family
    assert set(found.names()) == set(original.names())
    for layer in original.names():
        expected = 3 * delta(original, layer)
        assert found.change(layer).rank == 4
        assert np.linalg.norm(delta(found, layer) - expected) < tolerance * np.linalg.norm(expected), layer


def test_a_file_and_a_folder_can_be_compared(tmp_path):
    folder, file = tiny_sd_folder(tmp_path / "model", seed=0), tiny_ldm_file(tmp_path / "other.safetensors", seed=1)
    run(folder, file, tmp_path / "one.safetensors", rank=4)
    run(tiny_ldm_file(tmp_path / "same.safetensors", seed=0), file, tmp_path / "two.safetensors", rank=4)
    one, two = load_lora(tmp_path / "one.safetensors"), load_lora(tmp_path / "two.safetensors")
    assert len(one.names()) > 50
    assert {name[:8] for name in one.names()} == {"lora_te_", "lora_une"}
    for layer in two.names():
        assert delta(one, layer) == pytest.approx(delta(two, layer), abs=1e-6)
    refused("extract.identical", folder, tmp_path / "same.safetensors", tmp_path / "three.safetensors")


def test_each_layer_is_the_best_of_its_rank(models, tmp_path):
    base, tuned, differences = models
    run(base, tuned, tmp_path / "out.safetensors", rank=6, conv_rank=3)
    lora = load_lora(tmp_path / "out.safetensors")
    for layer, difference in differences.items():
        flat = difference.reshape(flat_shape(difference.shape)).astype(np.float64)
        rank = 3 if is_spatial(difference.shape) else 6
        values = np.linalg.svd(flat, compute_uv=False)
        assert lora.change(layer).rank == rank
        assert lora.change(layer).shape == difference.shape
        best = float(np.sqrt(np.square(values[rank:]).sum()))
        assert np.linalg.norm(delta(lora, layer) - flat) == pytest.approx(best, rel=1e-3)


def test_a_rank_larger_than_a_layer_gives_the_layer_whole(models, tmp_path):
    base, tuned, differences = models
    run(base, tuned, tmp_path / "out.safetensors", rank=4096)
    lora = load_lora(tmp_path / "out.safetensors")
    for layer, difference in differences.items():
        assert lora.change(layer).rank <= min(flat_shape(difference.shape))
        assert delta(lora, layer) == pytest.approx(difference.reshape(flat_shape(difference.shape)), abs=1e-5)


def test_energy_and_one_rank_for_all(models, tmp_path):
    base, tuned, differences = models
    events = run(base, tuned, tmp_path / "own.safetensors", rank=None, energy=0.7)
    run(base, tuned, tmp_path / "same.safetensors", rank=None, energy=0.7, same_rank=True)
    own, same = load_lora(tmp_path / "own.safetensors"), load_lora(tmp_path / "same.safetensors")
    for layer, difference in differences.items():
        flat = difference.reshape(flat_shape(difference.shape))
        values = np.square(np.linalg.svd(flat.astype(np.float64), compute_uv=False))
        rank = own.change(layer).rank
        assert values[:rank].sum() >= 0.7 * values.sum() > values[: rank - 1].sum()
        assert np.linalg.norm(delta(own, layer) - flat) <= np.sqrt(0.3001) * np.linalg.norm(flat)
    for kind in (False, True):
        layers = [layer for layer in differences if is_spatial(differences[layer].shape) == kind]
        largest = max(own.change(layer).rank for layer in layers)
        for layer in layers:
            assert same.change(layer).rank == min(largest, *flat_shape(differences[layer].shape))
    assert 0.7 <= events[-1].facts["kept"] < 0.85


def test_models_in_two_number_formats_differ_only_where_they_were_tuned(tmp_path):
    layout, weights = LAYOUTS["sd1"], random_weights(LAYOUTS["sd1"])
    base = write_checkpoint(tmp_path / "base.safetensors", weights)
    half = write_checkpoint(tmp_path / "half.safetensors", weights, "F16")
    refused("extract.identical", base, half, tmp_path / "out.safetensors")
    tuned = write_checkpoint(tmp_path / "tuned.safetensors", shifted(weights, layout, {"attn2": 0.1}), "F16")
    run(base, tuned, tmp_path / "out.safetensors")
    (name,) = load_lora(tmp_path / "out.safetensors").names()
    assert "attn2" in name


# ---- what is left out ------------------------------------------------------------------------------------------------


def test_small_differences_are_left_out(tmp_path):
    layout, weights = LAYOUTS["sd1"], random_weights(LAYOUTS["sd1"])
    base = write_checkpoint(tmp_path / "base.safetensors", weights)
    tuned = shifted(weights, layout, {"lora_te": 1e-3, "attn2": 0.1})
    tuned = write_checkpoint(tmp_path / "tuned.safetensors", tuned)
    run(base, tuned, tmp_path / "all.safetensors")
    assert len(load_lora(tmp_path / "all.safetensors").names()) == 3
    run(base, tuned, tmp_path / "out.safetensors", min_diff=0.01)
    (name,) = load_lora(tmp_path / "out.safetensors").names()
    assert "attn2" in name
    refused("extract.below_min_diff", base, tuned, tmp_path / "none.safetensors", min_diff=5)


@pytest.mark.parametrize(("option", "gone"), [("conv", is_spatial), ("text_encoder", None)])
def test_parts_can_be_left_out(models, tmp_path, option, gone):
    base, tuned, differences = models
    run(base, tuned, tmp_path / "out.safetensors", **{option: False})
    left = {layer for layer, d in differences.items() if not (gone(d.shape) if gone else layer.startswith("lora_te"))}
    assert set(load_lora(tmp_path / "out.safetensors").names()) == left
    assert left != set(differences)


def test_only_layers_of_both_are_taken(models, tmp_path):
    _, tuned, differences = models
    weights = {key: values for key, values in random_weights(LAYOUTS["sd1"]).items() if "cond_stage" not in key}
    part = write_checkpoint(tmp_path / "unet.safetensors", weights)
    run(part, tuned, tmp_path / "out.safetensors")
    names = load_lora(tmp_path / "out.safetensors").names()
    assert set(names) == {layer for layer in differences if layer.startswith("lora_unet")}


# ---- the result ------------------------------------------------------------------------------------------------------


def test_the_result_says_what_it_is(models, tmp_path):
    base, tuned, _ = models
    events = run(base, tuned, tmp_path / "out.safetensors", rank=4, conv_rank=2)
    metadata = read_header(tmp_path / "out.safetensors").metadata
    assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == "4"
    assert json.loads(metadata["ss_network_args"])["conv_dim"] == "2"
    assert metadata["ss_sd_model_name"] == "base.safetensors"
    assert len(metadata["ss_new_sd_model_hash"]) == 64
    assert metadata["modelspec.merged_from"] == "tuned, base"
    assert len(metadata["sshs_model_hash"]) == 64
    recipe = json.loads(metadata[RECIPE_KEY])
    assert (recipe["job"], recipe["rank"], recipe["conv_rank"]) == ("extract", 4, 2)
    assert [source["name"] for source in recipe["sources"]] == ["tuned.safetensors", "base.safetensors"]
    assert str(tmp_path) not in str(metadata)
    assert [event.stage for event in events if isinstance(event, StageChanged)] == ["reading", "computing", "writing"]
    assert isinstance(events[-1], FileSaved)
    assert events[-1].facts["layers"] == 9
    run(base, tuned, tmp_path / "bare.safetensors", no_metadata=True)
    assert RECIPE_KEY not in read_header(tmp_path / "bare.safetensors").metadata


def test_the_same_settings_give_the_same_weights(models, tmp_path):
    base, tuned, _ = models
    for name in ("a", "b"):
        run(base, tuned, tmp_path / f"{name}.safetensors", rank=4)
    hashes = [read_header(tmp_path / f"{name}.safetensors").metadata["sshs_model_hash"] for name in ("a", "b")]
    assert hashes[0] == hashes[1]


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_what_cannot_be_compared_is_refused(models, tmp_path, monkeypatch):
    base, tuned, _ = models
    output = tmp_path / "out.safetensors"
    refused("extract.no_base", None, tuned, output)
    refused("extract.no_tuned", base, None, output)
    refused("extract.identical", base, base, output)
    refused("output.is_input", base, tuned, tuned, overwrite=True)
    other = write_layout(tmp_path / "xl", LAYOUTS["sdxl"], random_weights(LAYOUTS["sdxl"]))
    text = refused("extract.other_family", base, other, output)
    assert "SDXL" in text
    refused("model.not_safetensors", base, tiny_ldm_file(tmp_path / "m.ckpt"), output)
    refused("model.missing", base, tmp_path / "none.safetensors", output)
    monkeypatch.setattr(outputs, "free_space", lambda folder: 1000)
    refused("file.disk_full", base, tuned, output)


def test_other_sizes_and_broken_numbers_are_refused(models, tmp_path):
    base, _, _ = models
    weights = random_weights(LAYOUTS["sd1"])
    key = "model.diffusion_model.middle_block.1.transformer_blocks.0.ff.net.2.weight"
    wide = write_checkpoint(tmp_path / "wide.safetensors", weights | {key: np.zeros((24, 100), np.float32)})
    assert "24 x 96" in refused("extract.other_shape", base, wide, tmp_path / "out.safetensors")
    weights[key][0, 0] = np.nan
    broken = write_checkpoint(tmp_path / "nan.safetensors", weights)
    assert "ff_net_2" in refused("extract.not_finite", base, broken, tmp_path / "out.safetensors")


def test_nothing_in_common_is_refused(tmp_path):
    weights, unet = random_weights(LAYOUTS["sd1"]), "model.diffusion_model."
    one = {key: values for key, values in weights.items() if key.startswith(unet)}
    two = {key: values for key, values in weights.items() if not key.startswith(unet)}
    first, second = (write_checkpoint(tmp_path / f"{i}.safetensors", w) for i, w in enumerate((one, two)))
    refused("extract.nothing_common", first, second, tmp_path / "out.safetensors")
