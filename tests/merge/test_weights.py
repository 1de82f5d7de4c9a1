"""Where the weights of layers are: in published checkpoints by name, in small models and conversions by value."""

from collections import Counter

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_ldm_unet_checkpoint,
    convert_open_clip_checkpoint,
)

from lora_core.io.headers import read_header
from lora_core.merge import known
from lora_core.merge.names import spell
from lora_core.merge.weights import Slot, WeightMap
from tests.merge.model_facts import FAMILIES, checkpoint
from tests.models import PROJECT, ldm_state, tiny_parts
from tools import write_layer_tables

State = dict[str, torch.Tensor]
UNET = "model.diffusion_model."
NO_LAYERS = {
    "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight",
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
    "cond_stage_model.model.token_embedding.weight",
    "cond_stage_model.model.positional_embedding",
    "cond_stage_model.model.text_projection",
    "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight",
    "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
    "conditioner.embedders.1.model.token_embedding.weight",
    "conditioner.embedders.1.model.positional_embedding",
    "conditioner.embedders.1.model.text_projection",
}
"""Matrices of checkpoints that are no layer's: embeddings, and a projection that OpenCLIP keeps transposed."""
NOT_IN_ONE_FILE = {"lora_te2_text_projection"}


def shapes_of(state: State) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def weight(state: State, weights: WeightMap, name: str, bias: bool = False) -> torch.Tensor:
    """A layer's weight put together from its slots."""
    pieces = []
    for slot in weights.find_bias(name) if bias else weights.find(name):
        tensor = state[slot.key][slice(*(slot.rows_in_weight or (None,)))]
        start, end = slot.rows_in_layer or (0, len(tensor))
        assert end - start == len(tensor)
        pieces.append((start, tensor))
    return torch.cat([tensor for _, tensor in sorted(pieces, key=lambda piece: piece[0])])


# ---- published checkpoints -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_of_the_real_model_is_found(family: str):
    weights = WeightMap.of(checkpoint(family))
    parts = ("lora_unet_",) if family == "flux" else ("lora_",)
    wanted = {n: s for n, s in known.layers(family).items() if n.startswith(parts) and n not in NOT_IN_ONE_FILE}
    assert weights.family == family
    assert {name: weights.shape(name) for name in wanted} == wanted
    # Stable Diffusion 2 has a last layer of the text encoder that it does not use, and diffusers leaves out.
    extra = set(weights.layers()) - wanted.keys()
    assert all(name.startswith("lora_te_text_model_encoder_layers_23_") for name in extra)
    assert len(extra) == (6 if family == "sd2" else 0)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_norm_of_the_real_model_is_found(family: str):
    weights = WeightMap.of(checkpoint(family))
    for name, shape in known.vectors(family).items():
        assert weights.shape(name) == shape
        assert len(weights.find_bias(name)) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_belongs_to_one_layer(family: str):
    """Row by row: none is left out and none is in two layers."""
    shapes = checkpoint(family)
    weights = WeightMap.of(shapes)
    rows: Counter[str] = Counter()
    slots = [slot for name in weights.layers() for slot in weights.find(name)]
    for slot in slots:
        start, end = slot.rows_in_weight or (0, shapes[slot.key][0])
        rows[slot.key] += end - start
    assert len(slots) == len(set(slots))
    assert rows == {key: s[0] for key, s in shapes.items() if len(s) > 1 and key not in NO_LAYERS}


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", ""])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_prefix_of_the_denoiser_does_not_matter(family: str, prefix: str):
    bare = {key.removeprefix(UNET): shape for key, shape in checkpoint(family).items()}
    bare = {key: shape for key, shape in bare.items() if "embedders" not in key and "cond_stage" not in key}
    weights = WeightMap.of({prefix + key: shape for key, shape in bare.items()})
    assert weights.family == family
    assert set(weights.layers()) == {name for name in known.layers(family) if name.startswith("lora_unet_")}


def test_a_vae_is_nobodys_layer():
    vae = {key: tuple(t.shape) for key, t in tiny_parts().vae.state_dict().items()}
    ldm = {key: tuple(t.shape) for key, t in ldm_state(tiny_parts()).items() if key.startswith("first_stage_model.")}
    for shapes in (vae, ldm, {key.removeprefix("first_stage_model."): shape for key, shape in ldm.items()}):
        assert WeightMap.of(shapes).layers() == []


# ---- against the conversions of diffusers ----------------------------------------------------------------------------

SDXL_CONFIG = {**write_layer_tables.SDXL_UNET, "layers_per_block": 2, "class_embed_type": None}


@pytest.mark.parametrize(
    ("family", "config"),
    [("sd1", write_layer_tables.bundled("unet")), ("sd2", write_layer_tables.bundled("unet")), ("sdxl", SDXL_CONFIG)],
)
def test_unets_are_converted_as_diffusers_converts_them(family: str, config: dict):
    """Every layer is the same tensor in a single file, under diffusers' names, and where ``spell`` says."""
    keys = [key for key in checkpoint(family) if key.startswith(UNET)]
    numbers = {key: torch.full(checkpoint(family)[key][:1], float(i)) for i, key in enumerate(keys)}
    config = {"addition_embed_type": None, "class_embed_type": None, **config}
    converted = convert_ldm_unet_checkpoint(dict(numbers), config)
    single, folder = WeightMap.of(checkpoint(family)), WeightMap.of(shapes_of(converted), part="unet", family=family)
    for name in [*known.layers(family), *known.vectors(family)]:
        if name.startswith("lora_unet_"):
            ((spelled, _),) = spell(name, family, "diffusers")
            (a,), (b,) = single.find(name), folder.find(name)
            assert spelled == "unet." + b.key.removesuffix(".weight")
            assert numbers[a.key][0] == converted[b.key][0]


@pytest.fixture(scope="module")
def flux_state() -> State:
    """Numbered rows instead of weights: as tall as the real ones and one column wide. Two blocks of each kind."""
    shapes = {
        key: shape
        for key, shape in checkpoint("flux").items()
        if key.split(".")[1] in ("0", "1") or not key.startswith(("double_blocks", "single_blocks"))
    }
    ends = torch.tensor([shape[0] for shape in shapes.values()]).cumsum(0).tolist()
    state = {key: torch.arange(e - s[0], e)[:, None] for (key, s), e in zip(shapes.items(), ends, strict=True)}
    return {key: rows[:, 0] if len(shapes[key]) == 1 else rows for key, rows in state.items()}


def test_flux_is_taken_apart_as_diffusers_does(flux_state: State):
    converted = convert_flux_transformer_checkpoint_to_diffusers(dict(flux_state))
    single = WeightMap.of(shapes_of(flux_state))
    folder = WeightMap.of(shapes_of(converted), part="transformer")
    assert folder.family == "flux"
    assert set(single.layers()) == set(folder.layers())
    assert len(single.layers()) == 2 * (10 + 3) + 10
    for name in single.layers():
        assert torch.equal(weight(flux_state, single, name), weight(converted, folder, name))
        assert torch.equal(weight(flux_state, single, name, bias=True), weight(converted, folder, name, bias=True))
        spelled = [s.removeprefix("transformer.") + ".weight" for s, _ in spell(name, "flux", "diffusers")]
        assert {slot.key for slot in folder.find(name)} == set(spelled)


def test_a_part_of_a_fused_layer_alone_is_not_the_layer(flux_state: State):
    converted = convert_flux_transformer_checkpoint_to_diffusers(dict(flux_state))
    del converted["transformer_blocks.0.attn.to_k.weight"]
    weights = WeightMap.of(shapes_of(converted), part="transformer")
    assert weights.find("lora_unet_double_blocks_0_img_attn_qkv") == []
    assert "lora_unet_double_blocks_0_img_attn_qkv" not in weights.layers()
    with pytest.raises(KeyError):
        weights.shape("lora_unet_double_blocks_0_img_attn_qkv")


@pytest.mark.parametrize(
    ("prefix", "name", "part"),
    [("cond_stage_model.model.", "lora_te_", "text_encoder"), ("conditioner.embedders.1.model.", "lora_te2_", None)],
)
def test_open_clip_is_taken_apart_as_diffusers_does(prefix: str, name: str, part: str | None):
    width, family = 8, "sd2" if part else "sdxl"
    state = {
        "text_projection": (width, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
        "transformer.resblocks.0.ln_1.weight": (width,),
        "transformer.resblocks.0.ln_1.bias": (width,),
        "transformer.resblocks.0.attn.in_proj_weight": (3 * width, width),
        "transformer.resblocks.0.attn.in_proj_bias": (3 * width,),
        "transformer.resblocks.0.attn.out_proj.weight": (width, width),
        "transformer.resblocks.0.mlp.c_fc.weight": (4 * width, width),
        "transformer.resblocks.0.mlp.c_proj.weight": (width, 4 * width),
    }
    state = {prefix + key: torch.randn(shape) for key, shape in state.items()}
    converted = convert_open_clip_checkpoint(None, state, prefix)
    single = WeightMap.of(shapes_of(state), family=family)
    folder = WeightMap.of(shapes_of(converted), part=part or "text_encoder_2", family=family)
    assert set(folder.layers()) - {f"{name}text_projection"} == set(single.layers())
    assert len(single.layers()) == 6
    for layer in [*single.layers(), f"{name}text_model_final_layer_norm"]:
        assert torch.equal(weight(state, single, layer), weight(converted, folder, layer))
    for layer in (f"{name}text_model_encoder_layers_0_self_attn_{x}_proj" for x in "qkv"):
        assert torch.equal(weight(state, single, layer, bias=True), weight(converted, folder, layer, bias=True))


# ---- small models ----------------------------------------------------------------------------------------------------


def test_the_same_tensor_in_a_small_file_and_a_small_folder():
    parts = tiny_parts()
    unet, text, single = parts.unet.state_dict(), parts.text_encoder.state_dict(), ldm_state(parts)
    one_file = WeightMap.of(shapes_of(single))
    for part, state in (("unet", unet), ("text_encoder", text)):
        folder = WeightMap.of(shapes_of(state), part=part, family="sd1")
        for name in folder.layers():
            assert torch.equal(weight(state, folder, name), weight(single, one_file, name))
    assert len(one_file.layers()) == sum(
        isinstance(m, torch.nn.Linear | torch.nn.Conv2d)
        for model in (parts.unet, parts.text_encoder)
        for m in model.modules()
    )


def test_the_built_in_model_is_found_whole():
    folder = PROJECT / "lora_core" / "demo" / "mini_model"
    for part, file in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        header = read_header(folder / part / f"{file}.safetensors")
        shapes = {key: info.shape for key, info in header.tensors.items()}
        weights = WeightMap.of(shapes, part=part)
        matrices = {key for key, shape in shapes.items() if len(shape) > 1 and "embeddings" not in key}
        assert weights.family == "sd1"
        assert {slot.key for name in weights.layers() for slot in weights.find(name)} == matrices


CLIP = "text_model.encoder.layers.0.mlp.fc1.weight"


@pytest.mark.parametrize(
    ("prefix", "width", "part", "family", "name"),
    [
        ("", 768, None, None, "lora_te_"),
        ("", 768, None, "sdxl", "lora_te1_"),
        ("", 1280, None, None, "lora_te2_"),
        ("", 768, "text_encoder", "sdxl", "lora_te1_"),
        ("", 1280, "text_encoder_2", None, "lora_te2_"),
        ("text_encoders.clip_l.transformer.", 768, None, "flux", "lora_te1_"),
    ],
)
def test_clip_by_itself(prefix: str, width: int, part: str | None, family: str | None, name: str):
    shapes = {
        CLIP: (4 * width, width),
        "text_model.embeddings.token_embedding.weight": (49408, width),
        "text_model.final_layer_norm.weight": (width,),
    }
    weights = WeightMap.of({prefix + key: shape for key, shape in shapes.items()}, part=part, family=family)
    assert weights.layers() == [f"{name}text_model_encoder_layers_0_mlp_fc1"]
    assert weights.find(f"{name}text_model_encoder_layers_0_mlp_fc1") == [Slot(prefix + CLIP)]


@pytest.mark.parametrize(
    ("prefix", "part"), [("", None), ("", "text_encoder_2"), ("text_encoders.t5xxl.transformer.", None)]
)
def test_t5_by_itself(prefix: str, part: str | None):
    key = prefix + "encoder.block.0.layer.0.SelfAttention.q.weight"
    shapes = {key: (4096, 4096), "shared.weight": (32128, 4096)}
    assert WeightMap.of(shapes, part=part).find("lora_te3_encoder_block_0_layer_0_SelfAttention_q") == [Slot(key)]


def test_a_part_of_a_folder_that_no_lora_changes():
    shapes = {key: tuple(tensor.shape) for key, tensor in tiny_parts().unet.state_dict().items()}
    assert WeightMap.of(shapes, part="unet").layers()
    assert WeightMap.of(shapes, part="vae").layers() == []


def test_proj_in_is_found_as_convolution_and_as_matrix():
    for shape in ((320, 320, 1, 1), (320, 320)):
        weights = WeightMap.of({UNET + "input_blocks.1.1.proj_in.weight": shape}, family="sd1")
        assert weights.shape("lora_unet_down_blocks_0_attentions_0_proj_in") == shape


LONG = {f"input_blocks.{'9' * 5000}.0.op.weight": (1, 1)}
"""A number that Python refuses to read."""


@pytest.mark.parametrize("shapes", [{}, {"a.weight": ()}, {".weight": (1,)}, {"weight": (1, 1)}, {"": (3,)}, LONG])
def test_files_without_layers(shapes: dict):
    weights = WeightMap.of(shapes)
    assert weights.layers() == []
    assert weights.find("lora_unet_conv_in") == weights.find_bias("lora_unet_conv_in") == []


def test_the_downsampler_says_how_long_a_level_is():
    """The numbers of the original blocks depend on it: 1 + 1 entries a level here, 2 + 1 in the real model."""
    shapes = {UNET + "input_blocks.2.0.op.weight": (64, 64, 3, 3), UNET + "input_blocks.3.1.proj_in.weight": (96, 96)}
    assert WeightMap.of(shapes, family="sd1").layers() == [
        "lora_unet_down_blocks_0_downsamplers_0_conv",
        "lora_unet_down_blocks_1_attentions_0_proj_in",
    ]
