"""What a file is, from its header alone."""

import json
import struct

import numpy as np
import pytest

from lora_core.errors import UserError
from lora_core.inspect.header import inspect_header
from lora_core.inspect.report import to_json
from lora_core.io.arrays import save_arrays
from lora_core.io.metadata import SETTINGS_KEY
from lora_core.merge.recipe import RECIPE_KEY
from lora_core.runs import PROJECT
from tests.inspect.samples import metadata, trained, write
from tests.merge import makers

FULL = {
    "sd1": (264, {"unet": 192, "te1": 72}),
    "sdxl": (986, {"unet": 722, "te1": 72, "te2": 192}),
    "flux": (304, {"unet": 304}),
}


@pytest.mark.parametrize("family", FULL)
def test_a_plain_lora_has_all_the_layers_there_are(family, tmp_path):
    """264 of 264, 986 of 986, 304 of 304."""
    path = tmp_path / "full.safetensors"
    makers.write_lora(path, family, size="full", rank=1, alpha=1.0)
    report = inspect_header(path)
    total, parts = FULL[family]
    assert (report.family, report.layers, report.targets) == (family, total, total)
    assert {part.part: part.layers for part in report.parts} == parts
    assert {part.part: part.targets for part in report.parts} == parts
    assert (report.algorithms, report.naming, report.precision) == ({"lora": total}, "kohya", "fp16")
    assert (report.ranks, report.alphas) == ({1: total}, {1.0: total})
    assert sum(block.layers for block in report.blocks) == total
    assert report.size == path.stat().st_size
    assert not report.findings


def test_ranks_and_alphas_are_told_by_block(tmp_path):
    state = trained(rank=8, alpha=4.0, only="lora_unet") | trained(rank=2, alpha=1.0, only="lora_te")
    report = inspect_header(write(tmp_path / "two.safetensors", state))
    by_block = {block.block: block for block in report.blocks}
    assert (by_block["BASE"].ranks, by_block["BASE"].alphas, by_block["BASE"].layers) == ((2,), (1.0,), 72)
    assert (by_block["MID"].ranks, by_block["MID"].alphas) == ((8,), (4.0,))
    assert [*by_block] == [
        "BASE",
        "IN01",
        "IN02",
        "IN04",
        "IN05",
        "IN07",
        "IN08",
        "MID",
        *(f"OUT{i:02d}" for i in range(3, 12)),
    ]
    assert (report.ranks, report.rank, report.alpha) == ({8: 192, 2: 72}, 8, 4.0)


@pytest.mark.parametrize("style", ["kohya", "diffusers", "peft"])
@pytest.mark.parametrize("family", ["sd1", "sdxl", "flux"])
def test_the_spelling_does_not_matter(style, family, tmp_path):
    path = tmp_path / "lora.safetensors"
    makers.write_lora(path, family, style=style, alpha=None)
    report = inspect_header(path)
    assert (report.family, report.naming, report.layers) == (family, style, len(makers.SMALL[family]))
    assert report.alpha is None


@pytest.mark.parametrize("algorithm", ["loha", "lokr", "glora", "full", "ia3"])
def test_other_algorithms_are_named(algorithm, tmp_path):
    path = tmp_path / "lora.safetensors"
    makers.write_lora(path, "sd1", algorithm)
    assert [*inspect_header(path).algorithms] == [algorithm]


def test_metadata_are_told_in_words(tmp_path):
    meta = metadata(
        ss_sd_model_name="base.safetensors",
        ss_sd_model_hash="12345678",
        ss_new_sd_model_hash="ab" * 32,
        ss_training_comment="None",
        ss_dataset_dirs=json.dumps({"10_cat": {"n_repeats": 10, "img_count": 20}}),
        **{
            "modelspec.title": "Cat",
            "modelspec.author": "A \u202eB",
            "modelspec.trigger_phrase": "cat",
            "modelspec.merged_from": "a, b",
            SETTINGS_KEY: json.dumps({"train": {}}),
            RECIPE_KEY: json.dumps({"version": 1, "job": "merge", "sources": [{"name": "a"}]}),
        },
    )
    path = tmp_path / "lora.safetensors"
    makers.write_lora(path, metadata=meta)
    report = inspect_header(path)
    assert (report.title, report.author, report.trigger_words, report.comment) == ("Cat", "A B", "cat", "")
    assert (report.base.name, report.base.short_hash, report.base.sha256) == ("base.safetensors", "12345678", "ab" * 32)
    assert (report.merged_from, report.merge_recipe["job"], report.has_settings) == (("a", "b"), "merge", True)
    assert report.datasets[0].repeats == 10
    assert {entry.key for entry in report.recipe} >= {"ss_network_dim", "modelspec.title"}
    assert json.loads(json.dumps(to_json(report), allow_nan=False))["title"] == "Cat"


def test_without_metadata_nothing_is_made_up(tmp_path):
    save_arrays(trained("sd1", "small"), {}, tmp_path / "lora.safetensors", "fp16")
    report = inspect_header(tmp_path / "lora.safetensors")
    assert (report.title, report.has_settings, report.merge_recipe, report.datasets) == ("", False, None, ())
    assert report.family == "sd1"


@pytest.mark.parametrize("value", ["<script>alert(1)</script>", "[" * 50_000, "\x1b[2J", "{}" * 100_000, "null", "5"])
def test_hostile_metadata_do_nothing(value, tmp_path):
    keys = [
        "ss_network_dim",
        "ss_network_alpha",
        "ss_network_args",
        "ss_tag_frequency",
        "ss_datasets",
        "ss_sd_model_name",
    ]
    keys += [
        "modelspec.title",
        "modelspec.thumbnail",
        "modelspec.merged_from",
        SETTINGS_KEY,
        RECIPE_KEY,
        "sshs_model_hash",
    ]
    path = tmp_path / "lora.safetensors"
    makers.write_lora(path, metadata=dict.fromkeys([*keys, value[:100]], value))
    text = json.dumps(to_json(inspect_header(path)), ensure_ascii=False, allow_nan=False)
    assert "\x1b" not in text
    assert len(text) < 100_000


def test_layers_of_a_small_model_are_no_defects(tmp_path):
    """Test models have fewer channels; then nothing is said of 264 layers."""
    state = {
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": np.ones((2, 32, 1, 1), np.float32),
        "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": np.ones((32, 2, 1, 1), np.float32),
    }
    report = inspect_header(write(tmp_path / "mini.safetensors", state, {"ss_base_model_version": "sd_v1"}))
    assert report.targets == 0
    assert {finding.severity for finding in report.findings} <= {"note"}


def test_a_vae_gets_a_short_report(tmp_path):
    state = {f"{side}.conv_in.weight": np.zeros((8, 4, 3, 3), np.float32) for side in ("decoder", "encoder")}
    report = inspect_header(write(tmp_path / "vae.safetensors", state, {}, "float"))
    assert (report.kind, report.parameters, report.precision, report.layers) == ("vae", 576, "fp32", 0)


def test_the_program_s_own_small_model_gets_a_short_report():
    report = inspect_header(PROJECT / "lora_core/demo/mini_model")
    assert report.kind == "checkpoint"
    assert report.container == "folder"


def test_of_a_pickle_only_the_list_of_tensors_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    name = "lora_unet_mid_block_attentions_0_proj_in"
    state = {
        f"{name}.lora_down.weight": torch.zeros(4, 1280, 1, 1),
        f"{name}.lora_up.weight": torch.zeros(1280, 4, 1, 1),
    }
    torch.save(state, tmp_path / "old.pt")
    report = inspect_header(tmp_path / "old.pt")
    assert (report.kind, report.container, report.layers, report.ranks) == ("lora", "pickle", 1, {4: 1})
    assert "pickled" in {finding.key for finding in report.findings}


BROKEN = {
    "missing": None,
    "empty": b"",
    "text": b"hello, this is no model at all",
    "huge header": struct.pack("<Q", 2**63) + b"{}",
    "no json": struct.pack("<Q", 8) + b"{{{{{{{{",
    "cut": struct.pack("<Q", 500) + b'{"a":',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_what_is_no_model_is_refused_in_words(content, tmp_path):
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError):
        inspect_header(path)
