"""Baking against sums in float64, against the LoRA attached at run time, and back again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from lora_core.errors import UserError
from lora_core.events import FileSaved, StageChanged, Warned
from lora_core.io.arrays import PRECISIONS, decode, encode, read_arrays, save_arrays
from lora_core.io.headers import read_header
from lora_core.merge import checkpoint, outputs
from lora_core.merge.apply import apply
from lora_core.merge.lora import load_lora
from lora_core.merge.recipe import RECIPE_KEY
from lora_core.settings.tools import ApplySettings, LoraSource
from tests.adapters.helpers import make_tiny, run_model
from tests.merge import makers
from tests.merge.layouts import LAYOUTS, METADATA, random_weights, write_checkpoint, write_layout
from tests.models import TinyParts, ldm_state, tiny_ldm_file, tiny_sd_folder

FORMATS = ("F32", "F16", "BF16", "F8_E4M3")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch, tmp_path):
    """Tensors come in several pieces, as large ones do; hashes are remembered in a folder of the test's own."""
    monkeypatch.setattr(checkpoint, "PIECE", 300)
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))


def make_lora(path: Path, layout, algorithm="lora", seed=0, *, layers=None, vectors=False, **options) -> dict:
    """A LoRA on every layer of a layout, float32; returns its tensors."""
    shapes = layers or layout.layer_shapes
    state = makers.lora_state(shapes, algorithm, family=layout.family, seed=seed, **options)
    if vectors:
        state["lora_unet_down_blocks_0_resnets_0_conv1.diff_b"] = np.full(24, 0.25, np.float32)
        state["lora_unet_down_blocks_0_resnets_0_norm1.w_norm"] = np.linspace(0, 1, 16, dtype=np.float32)
        state["lora_unet_down_blocks_0_resnets_0_norm1.b_norm"] = np.full(16, -0.5, np.float32)
    save_arrays(state, makers.METADATA[layout.family], path, "float")
    return state


def run(model: Path, output: Path, *loras, **options) -> list:
    """Bakes (path, ratio) or (path, ratio, block weights)."""
    sources = [LoraSource(path=lora[0], ratio=lora[1], block_weights=lora[2] if lora[2:] else "") for lora in loras]
    return list(apply(ApplySettings(checkpoint=model, loras=sources, output=output, **options)))


def rounded(values, dtype):
    return decode(encode(values, dtype), dtype, values.shape)


def oracle(layout, weights, *loras):
    """The sum written out, float64."""
    total = {key: values.astype(np.float64) for key, values in weights.items()}
    for state, ratio in loras:
        for layer, pieces in layout.layers.items():
            up, down = (state[f"{layer}.lora_{side}.weight"].astype(np.float64) for side in ("up", "down"))
            change = 2.0 / len(down) * up.reshape(len(up), -1) @ down.reshape(len(down), -1)  # alpha 2
            start = 0
            for key, rows in pieces:
                part = total[key][slice(*rows) if rows else slice(None)]
                part += ratio * change[start : start + len(part)].reshape(part.shape)
                start += len(part)
    return total


def stored(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file or of the files of a folder."""
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    return {key: values for file in files for key, values in read_arrays(file)[0].items()}


def refused(key: str, model: Path, output: Path, *loras, **options):
    """Nothing but the sentence comes of it, and no file."""
    before = sorted(output.parent.rglob("*"))
    with pytest.raises(UserError) as caught:
        run(model, output, *loras, **options)
    assert caught.value.key == key
    assert caught.value.message("ja")
    assert sorted(output.parent.rglob("*")) == before
    return str(caught.value)


# ---- the numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_weights_are_the_sum_rounded_once(tmp_path, name, dtype):
    layout = LAYOUTS[name]
    weights = {key: rounded(values, dtype) for key, values in random_weights(layout).items()}
    model = write_layout(tmp_path, layout, weights, dtype)
    a, b = make_lora(tmp_path / "a.safetensors", layout), make_lora(tmp_path / "b.safetensors", layout, seed=1, rank=3)
    output = tmp_path / ("out.safetensors" if model.is_file() else "out")
    run(model, output, (tmp_path / "a.safetensors", 0.7), (tmp_path / "b.safetensors", -1.5))
    found = stored(output)
    for key, values in oracle(layout, weights, (a, 0.7), (b, -1.5)).items():
        if dtype == "F32":
            assert found[key] == pytest.approx(values, rel=2**-24, abs=1e-7), key
        else:
            off = np.abs(found[key] - values) > np.abs(rounded(values, dtype) - values) * 1.01 + 1e-6
            assert not off.any(), key
        untouched = key not in {k for pieces in layout.layers.values() for k, _ in pieces}
        assert not untouched or np.array_equal(found[key], weights[key])
    assert np.array_equal(found["text_model.embeddings.position_ids"], np.arange(77))


@pytest.mark.parametrize("algorithm", [*makers.ALGORITHMS, "ia3 input", "dora lora", "dora loha", "dora lokr"])
def test_every_algorithm_adds_its_change_of_the_checkpoints_own_weight(tmp_path, algorithm):
    layout = LAYOUTS["sd1"]
    layers = {layer: shape for layer, shape in layout.layer_shapes.items() if "resnets" in layer or "attn" in layer}
    weights = random_weights(layout)
    model = write_layout(tmp_path, layout, weights)
    state = makers.lora_state(layers, algorithm)
    state = {key: values for key, values in state.items() if not key.endswith("diff_b")}
    save_arrays(state, makers.METADATA["sd1"], tmp_path / "a.safetensors", "float")
    run(model, tmp_path / "out.safetensors", (tmp_path / "a.safetensors", 0.5))
    found, lora = stored(tmp_path / "out.safetensors"), load_lora(tmp_path / "a.safetensors")
    for layer in layers:
        ((key, _),) = layout.layers[layer]
        change = lora.change(layer, weights[key]).dense().reshape(weights[key].shape)
        assert np.abs(change).max() > 1e-4
        assert found[key] == pytest.approx(weights[key] + 0.5 * change, rel=1e-6, abs=1e-6)


def test_vectors_are_added_to_biases_and_norms(tmp_path):
    layout, weights = LAYOUTS["sd1"], random_weights(LAYOUTS["sd1"])
    model = write_layout(tmp_path, layout, weights)
    make_lora(tmp_path / "a.safetensors", layout, vectors=True)
    run(model, tmp_path / "out.safetensors", (tmp_path / "a.safetensors", 2.0))
    found, layers = stored(tmp_path / "out.safetensors"), "model.diffusion_model.input_blocks.1.0.in_layers."
    assert found[f"{layers}2.bias"] == pytest.approx(weights[f"{layers}2.bias"] + 0.5)
    assert found[f"{layers}0.bias"] == pytest.approx(weights[f"{layers}0.bias"] - 1.0)
    assert found[f"{layers}0.weight"] == pytest.approx(weights[f"{layers}0.weight"] + 2 * np.linspace(0, 1, 16))


def test_block_weights_leave_parts_out(tmp_path):
    layout, weights = LAYOUTS["sd1"], random_weights(LAYOUTS["sd1"])
    model = write_layout(tmp_path, layout, weights)
    state = make_lora(tmp_path / "a.safetensors", layout)
    run(model, tmp_path / "out.safetensors", (tmp_path / "a.safetensors", 1.0, "BASE=0, MID=0.5"))
    found, full = stored(tmp_path / "out.safetensors"), oracle(layout, weights, (state, 1.0))
    half = oracle(layout, weights, (state, 0.5))
    for layer, ((key, _),) in layout.layers.items():
        expected = weights if layer.startswith("lora_te") else half if "mid_block" in layer else full
        assert found[key] == pytest.approx(expected[key], rel=1e-6, abs=1e-6), layer


def test_the_order_of_loras_does_not_matter(tmp_path):
    layout = LAYOUTS["sdxl"]
    model = write_layout(tmp_path, layout, random_weights(layout), "F16")
    loras = [(tmp_path / f"{i}.safetensors", 0.3 * i - 0.5) for i in range(3)]
    for i, (path, _) in enumerate(loras):
        make_lora(path, layout, seed=i)
    run(model, tmp_path / "one.safetensors", *loras)
    run(model, tmp_path / "two.safetensors", *reversed(loras))
    one, two = stored(tmp_path / "one.safetensors"), stored(tmp_path / "two.safetensors")
    assert all(np.array_equal(one[key], two[key]) for key in one)


# ---- against the run time --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny model with a LoRA attached: what it answers, and the LoRA as a file."""
    made = make_tiny()
    folder = tmp_path_factory.mktemp("tiny")
    save_file(made.network.state_dict_kohya(), folder / "lora.safetensors", {"ss_base_model_version": "sd_v1"})
    with torch.no_grad():
        base = run_model(made.parts)
        made.network.attach()
        for adapter in made.network:
            adapter.multiplier = 0.8
        attached = run_model(made.parts)
        made.network.detach()
    assert (attached - base).abs().max() > 1e-2
    return folder / "lora.safetensors", attached


def test_a_baked_folder_draws_what_the_attached_lora_draws(tmp_path, tiny):
    lora, attached = tiny
    run(tiny_sd_folder(tmp_path / "model"), tmp_path / "out", (lora, 0.8))
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "out" / "unet")
    text = CLIPTextModel.from_pretrained(tmp_path / "out" / "text_encoder")
    with torch.no_grad():
        answer = run_model(TinyParts(unet.eval(), None, text.eval()))
    assert answer.numpy() == pytest.approx(attached.numpy(), abs=1e-5)


def test_a_file_and_a_folder_of_one_model_become_the_same(tmp_path, tiny):
    run(tiny_sd_folder(tmp_path / "model"), tmp_path / "out", (tiny[0], 0.8))
    run(tiny_ldm_file(tmp_path / "model.safetensors"), tmp_path / "out.safetensors", (tiny[0], 0.8))
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "out" / "unet")
    text = CLIPTextModel.from_pretrained(tmp_path / "out" / "text_encoder")
    vae = torch.nn.Module()
    vae.config = type("Config", (), {"block_out_channels": (32,) * 4})
    expected = ldm_state(TinyParts(unet, vae, text))
    found = load_file(tmp_path / "out.safetensors")
    assert len(expected) > 100
    for key, values in expected.items():
        assert torch.equal(found[key], values), key


# ---- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("name", ["sd2", "flux diffusers"])
def test_taking_out_gives_the_original_back(tmp_path, name, dtype):
    layout = LAYOUTS[name]
    weights = {key: rounded(values, dtype) for key, values in random_weights(layout).items()}
    model = write_layout(tmp_path, layout, weights, dtype)
    make_lora(tmp_path / "a.safetensors", layout)
    suffix = ".safetensors" if model.is_file() else ""
    baked, back = tmp_path / f"baked{suffix}", tmp_path / f"back{suffix}"
    run(model, baked, (tmp_path / "a.safetensors", 0.6))
    events = run(baked, back, (tmp_path / "a.safetensors", 0.6), reverse=True)
    assert not [event for event in events if isinstance(event, Warned)]
    changed, found = stored(baked), stored(back)
    step = {"F32": 2**-23, "F16": 2**-10, "BF16": 2**-7}[dtype]
    differing = total = 0
    for key, values in weights.items():
        unit = np.maximum(np.exp2(np.floor(np.log2(np.maximum(np.abs(changed[key]), 2**-14)))) * step, 0)
        assert (np.abs(found[key] - values) <= unit).all(), key
        differing += int((found[key] != values).sum())
        total += values.size
    assert differing < 0.1 * total  # only weights that were pushed past a power of two


def test_metadata_is_kept_and_taking_out_restores_it(tmp_path):
    layout = LAYOUTS["sd1"]
    old = METADATA | {"modelspec.merged_from": "x, y"}
    model = write_checkpoint(tmp_path / "m.safetensors", random_weights(layout), metadata=old)
    loras = [(tmp_path / f"{i}.safetensors", 0.5 + i) for i in range(2)]
    for i, (path, _) in enumerate(loras):
        make_lora(path, layout, seed=i)
    run(model, tmp_path / "one.safetensors", loras[0])
    run(tmp_path / "one.safetensors", tmp_path / "two.safetensors", loras[1])
    metadata = read_header(tmp_path / "two.safetensors").metadata
    assert metadata.items() >= METADATA.items()
    assert metadata["modelspec.merged_from"] == "x, y, 0, 1"
    sources = json.loads(metadata[RECIPE_KEY])["sources"]
    assert [(s["name"], s["ratio"], len(s["sha256"])) for s in sources] == [
        ("0.safetensors", 0.5, 64),
        ("1.safetensors", 1.5, 64),
    ]
    run(tmp_path / "two.safetensors", tmp_path / "three.safetensors", loras[0], reverse=True)
    assert json.loads(read_header(tmp_path / "three.safetensors").metadata[RECIPE_KEY])["sources"] == sources[1:]
    run(tmp_path / "three.safetensors", tmp_path / "four.safetensors", loras[1], reverse=True)
    assert read_header(tmp_path / "four.safetensors").metadata == old


@pytest.mark.parametrize("ratio", [0.5, None])
def test_taking_out_what_was_not_recorded_warns(tmp_path, ratio):
    layout = LAYOUTS["sd1"]
    model = write_layout(tmp_path, layout, random_weights(layout))
    make_lora(tmp_path / "a.safetensors", layout)
    if ratio:
        run(model, tmp_path / "baked.safetensors", (tmp_path / "a.safetensors", ratio))
        model = tmp_path / "baked.safetensors"
    events = run(model, tmp_path / "back.safetensors", (tmp_path / "a.safetensors", 1.0), reverse=True)
    (warning,) = [event for event in events if isinstance(event, Warned)]
    assert "a.safetensors" in warning.message["en"]
    assert "a.safetensors" in warning.message["ja"]


def test_without_metadata_only_the_kind_is_told(tmp_path):
    layout = LAYOUTS["sd1"]
    model = write_checkpoint(
        tmp_path / "m.safetensors", random_weights(layout), metadata=METADATA | {"modelspec.architecture": "x"}
    )
    make_lora(tmp_path / "a.safetensors", layout)
    run(model, tmp_path / "out.safetensors", (tmp_path / "a.safetensors", 1.0), no_metadata=True)
    assert read_header(tmp_path / "out.safetensors").metadata == {"modelspec.architecture": "x"}


# ---- files and folders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_number_format_can_be_changed(tmp_path, precision):
    layout, weights = LAYOUTS["sd1"], random_weights(LAYOUTS["sd1"])
    model = write_layout(tmp_path, layout, weights)
    state = make_lora(tmp_path / "a.safetensors", layout)
    run(model, tmp_path / "out.safetensors", (tmp_path / "a.safetensors", 1.0), precision=precision)
    header, found = read_header(tmp_path / "out.safetensors"), stored(tmp_path / "out.safetensors")
    expected = oracle(layout, weights, (state, 1.0))
    for key, values in expected.items():
        assert header.tensors[key].dtype == PRECISIONS[precision]
        assert found[key] == pytest.approx(rounded(values, PRECISIONS[precision]), rel=2**-7, abs=1e-7)
    assert header.tensors["text_model.embeddings.position_ids"].dtype == "I64"


def shard(folder: Path, stem: str) -> None:
    """Cuts a part's weights in two, with an index, as diffusers does with large models."""
    state = load_file(folder / f"{stem}.safetensors")
    keys = sorted(state)
    names = [f"{stem}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, own in zip(names, (keys[::2], keys[1::2]), strict=True):
        save_file({key: state[key] for key in own}, folder / name, {"format": "pt"})
    where = {key: names[i % 2] for i, key in enumerate(keys)}
    total = sum(values.nbytes for values in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / f"{stem}.safetensors").unlink()


def test_a_folder_is_copied_whole_with_every_variant_baked(tmp_path, tiny):
    model = tiny_sd_folder(tmp_path / "モデル")
    plain = model / "unet" / "diffusion_pytorch_model.safetensors"
    half = {key: values.half() for key, values in load_file(plain).items()}
    shard(model / "unet", "diffusion_pytorch_model")
    save_file(half, model / "unet" / "diffusion_pytorch_model.fp16.safetensors", {"format": "pt"})
    (model / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"old weights")
    (model / "README.md").write_text("# model", encoding="utf-8")
    (model / ".cache").mkdir()
    (model / ".cache" / "x").write_text("x", encoding="utf-8")
    run(model, tmp_path / "out", (tiny[0], 1.0))
    names = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names - found == {"unet/diffusion_pytorch_model.bin", ".cache/x"}
    assert not found - names
    parts = [load_file(path) for path in sorted((tmp_path / "out" / "unet").glob("*-of-*.safetensors"))]
    full, small = parts[0] | parts[1], load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    assert (full[layer] - half[layer].float()).abs().max() > 0.01
    assert full[layer].half().numpy() == pytest.approx(small[layer].numpy(), rel=1e-2, abs=1e-3)
    assert small[layer].dtype == torch.float16
    same = "vae/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "out" / same).read_bytes() == (model / same).read_bytes()


def test_a_folder_in_another_number_format_has_a_true_index(tmp_path, tiny):
    model = tiny_sd_folder(tmp_path / "model")
    shard(model / "unet", "diffusion_pytorch_model")
    run(model, tmp_path / "out", (tiny[0], 1.0), precision="fp16")
    index = json.loads((tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    old = json.loads((model / "unet" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] * 2 == old["metadata"]["total_size"]
    assert index["weight_map"] == old["weight_map"]
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "out" / "unet", torch_dtype=torch.float16)
    assert all(values.isfinite().all() for values in unet.state_dict().values())
    assert (
        load_file(tmp_path / "out" / "vae" / "diffusion_pytorch_model.safetensors")["post_quant_conv.bias"].dtype
        == torch.float16
    )


def test_overwriting_needs_leave_and_replaces_all(tmp_path, tiny):
    model = tiny_sd_folder(tmp_path / "model")
    shutil.copytree(model, tmp_path / "out")
    (tmp_path / "out" / "old.txt").write_text("old", encoding="utf-8")
    refused("output.exists", model, tmp_path / "out", (tiny[0], 1.0))
    run(model, tmp_path / "out", (tiny[0], 1.0), overwrite=True)
    assert not (tmp_path / "out" / "old.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["model", "out"]


def test_progress_is_told_and_the_end(tmp_path):
    layout = LAYOUTS["sd1"]
    model = write_layout(tmp_path, layout, random_weights(layout))
    make_lora(tmp_path / "a.safetensors", layout)
    events = run(model, tmp_path / "out.safetensors", (tmp_path / "a.safetensors", 1.0))
    assert [event.stage for event in events if isinstance(event, StageChanged)][:2] == ["reading", "writing"]
    assert isinstance(events[-1], FileSaved)
    assert events[-1].facts["tensors"] == 9
    assert events[-1].kind == "checkpoint"


@pytest.mark.parametrize("folder", [False, True])
def test_stopped_in_the_middle_nothing_is_left(tmp_path, tiny, folder):
    model = tiny_sd_folder(tmp_path / "in" / "m") if folder else tiny_ldm_file(tmp_path / "in" / "m.safetensors")
    output = tmp_path / "out" / ("m" if folder else "m.safetensors")
    settings = ApplySettings(checkpoint=model, loras=[LoraSource(path=tiny[0])], output=output)
    output.parent.mkdir()
    from lora_core.merge import apply as module

    job = module.Job.of(settings)
    steps = module.write_folder(job, output) if folder else job.write(job.model.files[0], output)
    for _ in range(40):
        next(steps)
    assert list(output.parent.iterdir()) != [output]
    steps.close()
    assert list(output.parent.iterdir()) == []


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path):
    """A checkpoint and a LoRA for it."""
    layout = LAYOUTS["sd1"]
    (tmp_path / "out").mkdir()
    make_lora(tmp_path / "a.safetensors", layout)
    return (
        write_layout(tmp_path, layout, random_weights(layout)),
        tmp_path / "a.safetensors",
        tmp_path / "out" / "o.safetensors",
    )


def test_a_layer_that_the_checkpoint_lacks_is_named(pair, tmp_path):
    model, _, output = pair
    layers = {f"lora_te_text_model_encoder_layers_{i}_mlp_fc2": (20, 80) for i in (3, 4)}
    make_lora(tmp_path / "b.safetensors", LAYOUTS["sd1"], layers=LAYOUTS["sd1"].layer_shapes | layers)
    text = refused("apply.no_layer", model, output, (tmp_path / "b.safetensors", 1.0))
    assert "layers_3_mlp_fc2" in text
    assert "2 layers" in text
    run(model, output, (tmp_path / "b.safetensors", 1.0, "BASE=0"))


def test_other_family_shape_and_format_are_refused(pair, tmp_path):
    model, lora, output = pair
    make_lora(tmp_path / "xl.safetensors", LAYOUTS["sdxl"])
    refused("apply.other_family", model, output, (tmp_path / "xl.safetensors", 1.0))
    refused("merge.family_mix", model, output, (lora, 1.0), (tmp_path / "xl.safetensors", 1.0))
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    make_lora(tmp_path / "wide.safetensors", LAYOUTS["sd1"], layers=LAYOUTS["sd1"].layer_shapes | {layer: (24, 48)})
    refused("apply.other_shape", model, output, (tmp_path / "wide.safetensors", 1.0))
    refused("model.not_safetensors", tiny_ldm_file(tmp_path / "m.ckpt"), output, (lora, 1.0))
    weights = random_weights(LAYOUTS["sd1"]) | {"scaled_fp8": np.zeros(2, np.float32)}
    refused("checkpoint.scaled_fp8", write_checkpoint(tmp_path / "s.safetensors", weights), output, (lora, 1.0))
    refused("checkpoint.none", lora, output, (lora, 1.0))


def test_what_makes_no_sense_is_refused(pair, tmp_path, monkeypatch):
    model, lora, output = pair
    refused("merge.no_lora", model, output)
    refused("apply.no_checkpoint", None, output, (lora, 1.0))
    refused("apply.nothing", model, output, (lora, 0.0))
    refused("output.is_input", model, model, (lora, 1.0), overwrite=True)
    refused("output.is_input", model, lora, (lora, 1.0), overwrite=True)
    monkeypatch.setattr(outputs, "free_space", lambda folder: 1000)
    refused("file.disk_full", model, output, (lora, 1.0))


def test_numbers_too_large_for_the_format_are_refused(pair, tmp_path):
    model, lora, output = pair
    text = refused("apply.overflow", model, output, (lora, 1e8), precision="fp16")
    assert "fp16" in text
    run(model, output, (lora, 1e8), precision="bf16")


@pytest.mark.parametrize("algorithm", ["dora lora", "glora", "ia3"])
def test_changes_of_the_weight_itself_cannot_be_taken_out(pair, tmp_path, algorithm):
    model, _, output = pair
    make_lora(tmp_path / "d.safetensors", LAYOUTS["sd1"], algorithm)
    refused("apply.irreversible", model, output, (tmp_path / "d.safetensors", 1.0), reverse=True)


def test_a_folder_is_never_written_over_its_source_or_other_things(tmp_path, tiny):
    model = tiny_sd_folder(tmp_path / "in" / "model")
    for output in (model / "out", tmp_path / "in"):
        refused("output.is_input", model, output, (tiny[0], 1.0), overwrite=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").touch()
    refused("apply.not_a_model_folder", model, tmp_path / "photos", (tiny[0], 1.0), overwrite=True)
    for weights in (model / "unet").glob("*.safetensors"):
        weights.rename(weights.with_suffix(".bin"))
    refused("model.not_safetensors", model, tmp_path / "in" / "out", (tiny[0], 1.0))
