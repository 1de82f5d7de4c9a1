"""What is this file? Every kind of model file by its header, and every kind of broken file by a sentence."""

import json
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from lora_core.errors import UserError
from lora_core.io.headers import identify, read_header
from tests.models import sd15_shapes, tiny_ldm_file, tiny_parts, tiny_sd_folder

Shapes = Mapping[str, tuple[int, ...]]


def write_header(path: Path, shapes: Shapes, dtype: str = "F16", metadata: dict[str, str] | None = None) -> Path:
    """A safetensors file whose tensors are all zero: a hole in the file, so that it costs no disk."""
    size = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1}[dtype]
    table: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, shape in shapes.items():
        length = size
        for side in shape:
            length *= side
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + length]}
        end += length
    raw = json.dumps(table).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + end)
    return path


UNET, TEXT, VAE = "model.diffusion_model.", "cond_stage_model.", "first_stage_model."
SD15 = sd15_shapes()
XL_ATTENTION = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
VAE_ONLY = {key.removeprefix(VAE): shape for key, shape in SD15.items() if key.startswith(VAE)}
UNET_ONLY = {key.removeprefix(UNET): shape for key, shape in SD15.items() if key.startswith(UNET)}

FILES: dict[str, tuple[str, str, Shapes]] = {
    "sd15": ("checkpoint", "sd1", SD15),
    "sd15 without vae": ("checkpoint", "sd1", {k: s for k, s in SD15.items() if not k.startswith(VAE)}),
    "sd15 u-net with prefix": ("unet", "sd1", {k: s for k, s in SD15.items() if k.startswith(UNET)}),
    "sd15 u-net": ("unet", "sd1", UNET_ONLY),
    "diffusers u-net": (
        "unet",
        "sd1",
        {
            "conv_in.weight": (320, 4, 3, 3),
            "down_blocks.0.resnets.0.time_emb_proj.weight": (320, 1280),
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        },
    ),
    "vae": ("vae", "sd1", VAE_ONLY),
    "vae with prefix": ("vae", "sd1", {k: s for k, s in SD15.items() if k.startswith(VAE)}),
    "flux vae": (
        "vae",
        "unknown",
        {"decoder.conv_in.weight": (512, 16, 3, 3), "encoder.conv_in.weight": (128, 3, 3, 3)},
    ),
    "text encoder": ("text_encoder", "sd1", {"text_model.embeddings.token_embedding.weight": (49408, 768)}),
    "sd2": (
        "checkpoint",
        "sd2",
        {
            UNET + "input_blocks.0.0.weight": (320, 4, 3, 3),
            UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
            TEXT + "model.ln_final.weight": (1024,),
        },
    ),
    "sdxl": (
        "checkpoint",
        "sdxl",
        {
            UNET + "input_blocks.0.0.weight": (320, 4, 3, 3),
            UNET + "label_emb.0.0.weight": (1280, 2816),
            UNET + XL_ATTENTION: (640, 2048),
            "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": (768,),
        },
    ),
    "sdxl u-net": (
        "unet",
        "sdxl",
        {"input_blocks.0.0.weight": (320, 4, 3, 3), "label_emb.0.0.weight": (9, 9), XL_ATTENTION: (640, 2048)},
    ),
    "sd3": (
        "checkpoint",
        "sd3",
        {UNET + "joint_blocks.0.x_block.attn.qkv.weight": (9, 9), VAE + "decoder.conv_in.weight": (512, 16, 3, 3)},
    ),
    "flux transformer": ("unet", "flux", {"double_blocks.0.img_attn.qkv.weight": (9216, 3072)}),
    "flux checkpoint": (
        "checkpoint",
        "flux",
        {UNET + "double_blocks.0.img_attn.qkv.weight": (9, 9), "vae.decoder.conv_in.weight": (512, 16, 3, 3)},
    ),
    "lora": (
        "lora",
        "sd1",
        {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (8, 768)},
    ),
    "lora of the text encoder": (
        "lora",
        "sd1",
        {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (8, 768)},
    ),
    "sdxl lora": (
        "lora",
        "sdxl",
        {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight": (8, 2048)},
    ),
    "flux lora": ("lora", "flux", {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (8, 3072)}),
    "loha": ("lora", "unknown", {"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": (8, 8)}),
    "peft lora": ("lora", "unknown", {"unet.mid_block.attentions.0.proj_in.lora_A.weight": (8, 1280)}),
    "sd2 lora": (
        "lora",
        "sd2",
        {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.hada_w1_b": (8, 1024)},
    ),
    "sdxl lora in diffusers names": (
        "lora",
        "sdxl",
        {"unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q.lora_B.weight": (640, 8)},
    ),
    "flux lora in diffusers names": (
        "lora",
        "flux",
        {"transformer.single_transformer_blocks.0.attn.to_q.lora.down.weight": (8, 3072)},
    ),
    "lora of old attention processors": (
        "lora",
        "sd1",
        {"mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight": (4, 768)},
    ),
    "full difference": ("lora", "sdxl", {"lora_unet_input_blocks_1_0_in_layers_2.diff": (320, 320, 3, 3)}),
    "embedding": ("embedding", "unknown", {"emb_params": (4, 768)}),
    "controlnet": ("controlnet", "unknown", {"control_model.input_blocks.0.0.weight": (320, 4, 3, 3)}),
    "something else": ("unknown", "unknown", {"layer.weight": (2, 2)}),
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_told_apart(tmp_path: Path, name: str):
    kind, family, shapes = FILES[name]
    found = identify(write_header(tmp_path / "m.safetensors", shapes))
    assert (found.kind, found.family) == (kind, family)


@pytest.mark.parametrize(("dtype", "name"), [("F32", "fp32"), ("F16", "fp16"), ("BF16", "bf16"), ("F8_E4M3", "fp8")])
def test_number_format(tmp_path: Path, dtype: str, name: str):
    assert identify(write_header(tmp_path / "m.safetensors", VAE_ONLY, dtype)).dtype == name


def test_an_inpainting_model_reads_nine_channels(tmp_path: Path):
    shapes = SD15 | {UNET + "input_blocks.0.0.weight": (320, 9, 3, 3)}
    assert identify(write_header(tmp_path / "m.safetensors", shapes)).in_channels == 9


@pytest.mark.parametrize(
    ("metadata", "family"),
    [
        ({}, "unknown"),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({"ss_base_model_version": "sd_v2_v"}, "sd2"),
        ({"ss_base_model_version": "flux1"}, "flux"),
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "sd1"),
        ({"modelspec.architecture": "flux-1-dev/lora", "ss_base_model_version": ""}, "flux"),
        ({"ss_base_model_version": "something new"}, "unknown"),
    ],
)
def test_a_lora_that_fits_several_families_is_of_the_one_it_says(tmp_path: Path, metadata: dict[str, str], family: str):
    shapes = {"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (8, 768)}
    assert identify(write_header(tmp_path / "m.safetensors", shapes, metadata=metadata)).family == family


def test_what_a_lora_says_does_not_count_against_what_it_is(tmp_path: Path):
    shapes = FILES["flux lora"][2]
    path = write_header(tmp_path / "m.safetensors", shapes, metadata={"ss_base_model_version": "sd_v1"})
    assert identify(path).family == "flux"


class TestVelocity:
    """Three ways in which a file says that it predicts velocity."""

    def test_marker(self, tmp_path: Path):
        path = write_header(tmp_path / "m.safetensors", SD15 | {"v_pred": (1,)})
        assert identify(path).prediction_type == "v_prediction"

    def test_metadata(self, tmp_path: Path):
        path = write_header(tmp_path / "m.safetensors", SD15, metadata={"modelspec.prediction_type": "v"})
        assert identify(path).prediction_type == "v_prediction"

    @pytest.mark.parametrize(("line", "expected"), [('parameterization: "v"', "v_prediction"), ("x: 1", "epsilon")])
    def test_yaml_beside_it(self, tmp_path: Path, line: str, expected: str):
        path = write_header(tmp_path / "m.safetensors", SD15)
        path.with_suffix(".yaml").write_text(f"model:\n  params:\n    {line}\n", encoding="utf-8")
        assert identify(path).prediction_type == expected


def test_the_ending_of_the_name_does_not_decide(tmp_path: Path):
    path = tiny_ldm_file(tmp_path / "m.ckpt").rename(tmp_path / "m.safetensors")
    found = identify(path)
    assert (found.kind, found.family, found.container) == ("checkpoint", "sd1", "pickle")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
def test_a_ckpt_has_the_tensors_that_torch_saved(tmp_path: Path, legacy: bool):
    state = {
        "a.weight": torch.zeros(2, 3),
        "b": torch.zeros(4, dtype=torch.float16),
        "c": torch.nn.Parameter(torch.ones(1)),
    }
    path = tmp_path / "m.ckpt"
    torch.save({"state_dict": state, "epoch": 3}, path, _use_new_zipfile_serialization=not legacy)
    tensors = read_header(path).tensors
    assert {name: info.shape for name, info in tensors.items()} == {"a.weight": (2, 3), "b": (4,), "c": (1,)}
    assert tensors["b"].dtype == "F16"


def test_folders(tmp_path: Path):
    found = identify(
        tiny_sd_folder(tmp_path / "m", prediction_type="v_prediction", dtype=torch.float16, variant="fp16")
    )
    assert (found.kind, found.family, found.container, found.dtype) == ("checkpoint", "sd1", "folder", "fp16")
    assert found.prediction_type == "v_prediction"
    assert found.size > 1_000_000


def test_the_folder_of_a_vae(tmp_path: Path):
    tiny_parts().vae.save_pretrained(tmp_path / "vae")
    assert identify(tmp_path / "vae").kind == "vae"


@pytest.mark.parametrize(
    ("pipeline", "family"),
    [("StableDiffusion3Pipeline", "sd3"), ("FluxPipeline", "flux")],
)
def test_folders_of_other_families(tmp_path: Path, pipeline: str, family: str):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    assert identify(tmp_path).family == family


def half(path: Path) -> None:
    whole = tiny_ldm_file(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def cut_in_header(path: Path) -> None:
    path.write_bytes(write_header(path, SD15).read_bytes()[:5000])


def half_zip(path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


def bad_json(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 10) + b'{"a": oops')


def bad_entry(path: Path) -> None:
    raw = b'{"a": {"dtype": "F32"}}'
    path.write_bytes(struct.pack("<Q", len(raw)) + raw)


def longer(path: Path) -> None:
    write_header(path, {"a": (2,)})
    path.write_bytes(path.read_bytes() + b"more")


BROKEN = {
    "missing": ("model.missing", lambda path: None),
    "empty": ("model.empty", lambda path: path.write_bytes(b"")),
    "half": ("model.truncated", half),
    "cut in the header": ("model.truncated", cut_in_header),
    "half a zip": ("model.damaged", half_zip),
    "bad json": ("model.damaged", bad_json),
    "bad entry": ("model.damaged", bad_entry),
    "longer than it says": ("model.damaged", longer),
    "web page": ("model.is_web_page", lambda path: path.write_text("\n<!DOCTYPE html><html>Log in</html>")),
    "lfs pointer": (
        "model.is_lfs_pointer",
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid"),
    ),
    "gguf": ("model.is_gguf", lambda path: path.write_bytes(b"GGUF" + bytes(100))),
    "text": ("model.no_model", lambda path: path.write_text("hello, this is a text of some length")),
    "few bytes": ("model.no_model", lambda path: path.write_bytes(b"abc")),
    "picture": ("model.no_model", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000))),
    "zip of something": ("model.no_model", lambda path: _zip(path)),
    "empty folder": ("folder.no_model", lambda path: path.mkdir()),
}


def _zip(path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_get_one_sentence_in_both_languages(tmp_path: Path, name: str):
    key, break_it = BROKEN[name]
    path = tmp_path / "モデル.safetensors"
    break_it(path)
    with pytest.raises(UserError) as caught:
        identify(path)
    assert caught.value.key == key
    for language in ("en", "ja"):
        assert "モデル.safetensors" in caught.value.message(language)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"], ids=["too long", "zero byte"])
def test_a_name_no_system_can_hold(tmp_path: Path, name: str):
    with pytest.raises(UserError):
        identify(tmp_path / name)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_folder_that_lost_a_part(tmp_path: Path, part: str):
    folder = tiny_sd_folder(tmp_path / "m", tokenizer=False)
    next((folder / part).glob("*.safetensors")).unlink()
    with pytest.raises(UserError) as caught:
        identify(folder)
    assert caught.value.key == "folder.part_missing"
    assert part in str(caught.value)


def test_a_shard_that_is_missing(tmp_path: Path):
    folder = tiny_sd_folder(tmp_path / "m", tokenizer=False)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    tiny_parts().unet.save_pretrained(folder / "unet", max_shard_size="1MB")
    next((folder / "unet").glob("*-of-*")).unlink()
    with pytest.raises(UserError) as caught:
        identify(folder)
    assert caught.value.key == "folder.part_missing"


def test_reading_headers_needs_no_torch():
    code = "import sys, lora_core.io.headers, lora_core.families.source; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
