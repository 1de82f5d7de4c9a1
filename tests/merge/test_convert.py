"""Other names, formats and metadata: the effect stays, and what is left out is left out on purpose."""

import json

import numpy as np
import pytest

from lora_core.errors import UserError
from lora_core.io.arrays import open_arrays, read_arrays, save_arrays
from lora_core.io.safetensors import read_tensors, with_lora_hashes
from lora_core.merge import convert
from lora_core.merge.blocks import block_of
from lora_core.merge.lora import load_lora
from lora_core.settings.tools import CleanSettings, ConvertSettings
from tests.merge import makers

SMALL = {
    family: {name: shape for name, shape in layers.items() if np.prod(shape) < 4_000_000}
    for family, layers in makers.SMALL.items()
}


@pytest.fixture
def lora(tmp_path):
    path = tmp_path / "a.safetensors"
    save_arrays(makers.lora_state(SMALL["sd1"], rank=4, alpha=1.0), META, path, "fp16")
    return path


META = makers.METADATA["sd1"] | {"ss_network_dim": "4", "ss_network_alpha": "1", "ss_tag_frequency": "{}", "own": "x"}


def run(path, name="out", **options):
    output = path.with_name(f"{name}.safetensors")
    list(convert.convert(ConvertSettings(lora=path, output=output, **options)))
    return output


def clean(path, name="clean", **options):
    output = path.with_name(f"{name}.safetensors")
    list(convert.clean(CleanSettings(lora=path, output=output, **options)))
    return output


def effects(path) -> dict[str, np.ndarray]:
    file = load_lora(path)
    return {name: file.change(name).dense() for name in file.names()}


def assert_same_effect(a, b, tolerance):
    one, two = effects(a), effects(b)
    assert one.keys() == two.keys()
    for name in one:
        assert np.linalg.norm(one[name] - two[name]) <= tolerance * np.linalg.norm(one[name]), name


@pytest.mark.parametrize("style", ["diffusers", "peft"])
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_there_and_back(tmp_path, family, style):
    path = tmp_path / "a.safetensors"
    save_arrays(makers.lora_state(SMALL[family], rank=3, family=family), makers.METADATA[family], path, "float")
    there = run(path, "there", names=style)
    assert not any(key.endswith(".alpha") for key in read_arrays(there)[0])
    assert_same_effect(path, there, 1e-6)
    back = run(there, "back", names="kohya")
    assert_same_effect(path, back, 1e-6)
    strip = {
        key.rsplit(".", 2)[0] if key.endswith(".weight") else key.rsplit(".", 1)[0] for key in read_arrays(back)[0]
    }
    assert strip == set(SMALL[family])


def test_flux_is_split_and_joined_again(tmp_path):
    layers = {
        "lora_unet_double_blocks_0_img_attn_qkv": (9216, 3072),
        "lora_unet_single_blocks_0_linear1": (21504, 3072),
    }
    path = tmp_path / "a.safetensors"
    save_arrays(makers.lora_state(layers, rank=2, family="flux"), makers.METADATA["flux"], path, "float")
    there = run(path, "there", names="diffusers")
    assert len(load_lora(there).layers["lora_unet_single_blocks_0_linear1"]) == 4
    back = run(there, "back", names="kohya")
    file, original = load_lora(back), load_lora(path)
    for name in layers:
        change, before = file.change(name), original.change(name)
        assert change.rank == 2, "what shares its down matrix needs no larger rank"
        rows = np.random.default_rng(0).integers(0, len(change.up), 50)
        np.testing.assert_allclose(change.up[rows] @ change.down, before.up[rows] @ before.down, atol=1e-6)
    assert file.metadata["ss_network_dim"] == "2" if "ss_network_dim" in file.metadata else True


@pytest.mark.parametrize("precision", ["fp16", "bf16", "float"])
def test_precision(lora, precision):
    out = run(lora, precision=precision)
    with open_arrays(out) as file:
        assert {info.dtype for info in file.tensors.values()} == {
            {"fp16": "F16", "bf16": "BF16", "float": "F32"}[precision]
        }
    assert_same_effect(lora, out, {"bf16": 2e-2}.get(precision, 1e-6))


def test_nothing_asked_changes_no_byte_of_the_weights(lora):
    out = run(lora)
    with open_arrays(lora) as before, open_arrays(out) as after:
        assert before.tensors == after.tensors
        assert all(np.array_equal(before.raw(key), after.raw(key)) for key in before.tensors)


def test_hashes_are_those_of_the_new_file(lora):
    out = run(lora, precision="bf16", metadata={"ss_training_comment": "熊"})
    metadata = read_arrays(out)[1]
    own = {key: value for key, value in metadata.items() if not key.startswith("sshs_")}
    assert with_lora_hashes(read_tensors(out), own) == metadata


def test_metadata_is_edited_and_removed(lora):
    metadata = load_lora(run(lora, metadata={"modelspec.title": "うす熊", "own": None})).metadata
    assert metadata["modelspec.title"] == "うす熊"
    assert "own" not in metadata
    assert metadata["ss_network_dim"] == "4"


def test_stripping_keeps_what_other_programs_need(lora):
    metadata = load_lora(run(lora, strip_metadata=True)).metadata
    assert set(metadata) == {
        "ss_base_model_version", "ss_network_dim", "ss_network_alpha", "sshs_model_hash", "sshs_legacy_hash"
    }  # fmt: skip


@pytest.mark.parametrize("key", ["", "sshs_model_hash", "__metadata__"])
def test_entries_nobody_may_set(lora, key):
    with pytest.raises(UserError) as caught:
        run(lora, metadata={key: "x"})
    assert caught.value.key == "convert.metadata_key"
    assert not list(lora.parent.glob("out*"))


def test_numbers_too_large_for_half_precision(tmp_path):
    state = makers.lora_state(SMALL["sd1"])
    key = next(key for key in state if key.endswith("lora_up.weight"))
    state[key] = state[key] * 1e7
    save_arrays(state, META, tmp_path / "a.safetensors", "float")
    with pytest.raises(UserError) as caught:
        run(tmp_path / "a.safetensors", precision="fp16")
    assert caught.value.key == "convert.overflow"


@pytest.mark.parametrize("algorithm", ["loha", "lokr", "tucker"])
def test_what_has_no_place_in_a_style_is_refused_by_name(tmp_path, algorithm):
    path = tmp_path / "a.safetensors"
    save_arrays(makers.lora_state(SMALL["sd1"], algorithm), META, path, "float")
    with pytest.raises(UserError, match="lora_") as caught:
        run(path, names="diffusers")
    assert caught.value.key == "convert.only_lora"


# ---- clean -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def dirty(tmp_path):
    state = makers.lora_state(SMALL["sd1"], rank=4)
    dead = next(name for name in SMALL["sd1"] if name.endswith("attn1_to_q"))
    state[f"{dead}.lora_up.weight"] = np.zeros_like(state[f"{dead}.lora_up.weight"])
    path = tmp_path / "dirty.safetensors"
    save_arrays(state | {"optimizer.step": np.ones(3, np.float32)}, META, path, "fp16")
    return path, dead


def test_junk_and_dead_layers_go_and_the_rest_stays_bit_for_bit(dirty):
    path, dead = dirty
    before, after = read_arrays(path)[0], read_arrays(clean(path))[0]
    gone = {key for key in before if key.startswith(dead)} | {"optimizer.step"}
    assert after.keys() == before.keys() - gone
    assert all(np.array_equal(after[key], before[key]) for key in after)


def test_dead_layers_can_stay(dirty):
    path, dead = dirty
    after = read_arrays(clean(path, zero_layers=False))[0]
    assert f"{dead}.lora_up.weight" in after
    assert "optimizer.step" not in after


def test_blocks_can_be_removed(lora):
    file = load_lora(clean(lora, remove_blocks="BASE, OUT"))
    left = {block_of(name, "sd1") for name in file.names()}
    assert left
    assert not any(block == "BASE" or block.startswith("OUT") for block in left)
    assert json.loads(file.metadata["kumakobo_recipe"])["remove_blocks"] == "BASE, OUT"


def test_removing_everything_is_refused(lora):
    with pytest.raises(UserError) as caught:
        clean(lora, remove_blocks="BASE,IN,MID,OUT")
    assert caught.value.key == "merge.nothing_left"
