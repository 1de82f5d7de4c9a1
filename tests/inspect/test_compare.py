"""Two LoRAs side by side, against matrices written out."""

import json
import math

import numpy as np
import pytest

from lora_core.errors import UserError
from lora_core.inspect.compare import compare
from lora_core.inspect.report import to_json
from lora_core.io.arrays import save_arrays
from lora_core.io.metadata import SETTINGS_KEY
from lora_core.merge import deltas
from lora_core.merge.blocks import block_of
from lora_core.merge.layer import Layer
from tests.inspect.samples import State, metadata, trained, write
from tests.merge import makers

LAYERS = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (320, 320),
    "lora_unet_down_blocks_0_resnets_0_conv1": (320, 320, 3, 3),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q": (1280, 1280),
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
}


def matrices(state: State) -> dict[str, np.ndarray]:
    found = {}
    for name, shape in LAYERS.items():
        own = {key.removeprefix(f"{name}."): values for key, values in state.items() if key.startswith(f"{name}.")}
        if own:
            found[name] = deltas.change_of(Layer(name, name, own), shape=shape).dense().astype(np.float64)
    return found


def cosine(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    inner = sum(np.vdot(a[name], b[name]) for name in a.keys() & b.keys())
    return inner / math.sqrt(sum(np.sum(x**2) for x in a.values()) * sum(np.sum(x**2) for x in b.values()))


def save(path, state, **more):
    save_arrays(state, {"ss_base_model_version": "sd_v1", **more}, path, "float")
    return path


@pytest.mark.parametrize("other", ["lora", "loha", "lokr", "full", "tucker"])
def test_cosines_and_norms_are_those_of_the_matrices(other, tmp_path):
    a = makers.lora_state(LAYERS, "lora", seed=1)
    b = makers.lora_state(LAYERS, other, seed=2)
    shared = makers.lora_state(dict(list(LAYERS.items())[:1]), "lora", seed=1)
    b = {key: values for key, values in b.items() if not key.startswith(next(iter(LAYERS)))} | shared
    found = compare(save(tmp_path / "a.safetensors", a), save(tmp_path / "b.safetensors", b))
    change_a, change_b = matrices(a), matrices(b)
    assert found.cosine == pytest.approx(cosine(change_a, change_b), abs=1e-6)
    assert found.norm_b == pytest.approx(math.sqrt(sum(np.sum(x**2) for x in change_b.values())), rel=1e-5)
    distance = math.sqrt(sum(np.sum((change_a[name] - change_b[name]) ** 2) for name in LAYERS))
    assert found.distance == pytest.approx(distance, rel=1e-4)
    for block in found.blocks:
        names = [name for name in LAYERS if block_of(name, "sd1") == block.block]
        own_a, own_b = ({name: change[name] for name in names} for change in (change_a, change_b))
        assert block.cosine == pytest.approx(cosine(own_a, own_b), abs=1e-6)
    assert found.common == len(LAYERS)


def test_a_file_is_itself(tmp_path):
    path = write(tmp_path / "a.safetensors", trained("sd1", "small"))
    found = compare(path, path)
    assert found.cosine == pytest.approx(1)
    assert found.distance == pytest.approx(0, abs=1e-3 * found.norm_a)
    assert (found.same_hash, found.differences, found.only_a, found.only_b, found.unmeasured) == (True, (), (), (), ())


def test_the_opposite_of_a_file_has_cosine_minus_one(tmp_path):
    state = trained("sd1", "small")
    other = {key: -values if key.endswith("lora_up.weight") else values for key, values in state.items()}
    a, b = write(tmp_path / "a.safetensors", state), write(tmp_path / "b.safetensors", other)
    found = compare(a, b)
    assert found.cosine == pytest.approx(-1)
    assert not found.same_hash


@pytest.mark.parametrize("family", ["sd1", "sdxl", "flux"])
def test_the_same_changes_in_another_spelling_are_the_same(family, tmp_path):
    paths = [tmp_path / f"{style}.safetensors" for style in ("diffusers", "peft")]
    for path in paths:
        makers.write_lora(path, family, style=path.stem, alpha=None)
    assert compare(*paths).cosine == pytest.approx(1)


def test_parts_of_a_fused_layer_are_rows_of_it(tmp_path):
    """FLUX: q, k and v of rank 4 each are one layer of rank 12, downs stacked, ups on a diagonal."""
    stem, name = "transformer.transformer_blocks.0.attn.to_", "lora_unet_double_blocks_0_img_attn_qkv"
    rng = np.random.default_rng(0)
    parts = {f"{stem}{part}": makers.layer_tensors("lora", (3072, 3072), 4, None, rng) for part in "qkv"}
    up = np.zeros((9216, 12), np.float32)
    for i, tensors in enumerate(parts.values()):
        up[3072 * i : 3072 * (i + 1), 4 * i : 4 * (i + 1)] = tensors["lora_up.weight"]
    down = np.concatenate([tensors["lora_down.weight"] for tensors in parts.values()])
    split = {f"{key}.lora_A.weight": tensors["lora_down.weight"] for key, tensors in parts.items()}
    split |= {f"{key}.lora_B.weight": tensors["lora_up.weight"] for key, tensors in parts.items()}
    fused = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
    meta = makers.METADATA["flux"]
    found = compare(write(tmp_path / "a.safetensors", split, meta), write(tmp_path / "b.safetensors", fused, meta))
    assert found.cosine == pytest.approx(1)
    assert found.norm_a == pytest.approx(found.norm_b)
    assert (found.common, found.only_a, found.only_b) == (1, (), ())


def test_layers_of_one_file_count_as_zero_in_the_other(tmp_path):
    state = makers.lora_state(LAYERS, "lora", seed=1)
    first = next(iter(LAYERS))
    less = {key: values for key, values in state.items() if not key.startswith(first)}
    a, b = save(tmp_path / "a.safetensors", state), save(tmp_path / "b.safetensors", less)
    found = compare(a, b)
    assert (found.only_a, found.only_b, found.common) == ((first,), (), 3)
    assert found.cosine == pytest.approx(cosine(matrices(state), matrices(less)))
    assert compare(b, a).only_b == (first,)


def test_broken_layers_are_left_out_and_named(tmp_path):
    state = makers.lora_state(LAYERS, "lora", seed=1)
    spoilt = {key: values.copy() for key, values in state.items()}
    first = next(iter(LAYERS))
    spoilt[f"{first}.lora_up.weight"][0] = np.nan
    found = compare(save(tmp_path / "a.safetensors", state), save(tmp_path / "b.safetensors", spoilt))
    assert found.unmeasured == (first,)
    assert found.cosine == pytest.approx(1)
    json.dumps(to_json(found), allow_nan=False)


def test_settings_that_differ_are_told(tmp_path):
    own = [json.dumps({"train": {"learning_rate": rate, "epochs": 10}}) for rate in (1e-4, 5e-5)]
    state = trained("sd1", "small")
    a = write(tmp_path / "a.safetensors", state, metadata(ss_optimizer="AdamW", ss_seed="1", **{SETTINGS_KEY: own[0]}))
    b = write(
        tmp_path / "b.safetensors", state, metadata(ss_optimizer="Lion", ss_clip_skip="2", **{SETTINGS_KEY: own[1]})
    )
    found = {(d.a or d.b).key: d for d in compare(a, b).differences}
    assert set(found) == {"ss_optimizer", "ss_seed", "ss_clip_skip", "train.learning_rate"}
    assert (found["ss_optimizer"].a.value, found["ss_optimizer"].b.value) == ("AdamW", "Lion")
    assert found["ss_seed"].b is None
    assert found["train.learning_rate"].label("en") == "Learning rate"


def test_different_kinds_of_model_are_refused_in_words(tmp_path):
    for family in ("sd1", "sdxl"):
        makers.write_lora(tmp_path / f"{family}.safetensors", family)
    with pytest.raises(UserError) as error:
        compare(tmp_path / "sd1.safetensors", tmp_path / "sdxl.safetensors")
    assert "SDXL" in str(error.value)
    vae = write(tmp_path / "vae.safetensors", {"decoder.conv_in.weight": np.zeros((8, 4, 3, 3), np.float32)}, {})
    with pytest.raises(UserError):
        compare(tmp_path / "sd1.safetensors", vae)
