"""Names of layers: every layer of every family in every style, and the spellings found in the wild."""

import pytest

from lora_core.merge import known
from lora_core.merge.names import Place, locate, spell, split_key, tensor_key
from tests.merge.model_facts import FAMILIES
from tools import write_layer_tables

STYLES = ("kohya", "diffusers", "peft")
TENSORS = (
    "lora_down.weight",
    "lora_up.weight",
    "alpha",
    "dora_scale",
    "lora_up.bias",
    "hada_w1_a",
    "lokr_t2",
    "diff_b",
)


def named(family: str) -> dict[str, tuple[int, ...]]:
    return {**known.layers(family), **known.vectors(family)}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back(family: str, style: str):
    """Name -> key in a file -> name, for every layer; the parts of a layer are all of it, once."""
    for name, shape in named(family).items():
        covered = []
        for spelled, rows in spell(name, family, style):
            for tensor in TENSORS:
                assert split_key(tensor_key(spelled, tensor, style)) == (spelled, tensor)
            place = locate(spelled, family)
            assert place.name == name
            if not place.swapped:
                assert place.rows == rows
            covered.append(rows or (0, shape[0]))
        covered.sort()
        assert [start for start, _ in covered] + [shape[0]] == [0] + [end for _, end in covered]


@pytest.mark.parametrize("family", FAMILIES)
def test_dots_and_underscores_are_one(family: str):
    for name in named(family):
        for spelled, _ in spell(name, family, "diffusers"):
            for other in (spelled.replace(".", "_"), "lora_" + spelled.replace(".", "_")):
                assert locate(other, family) == locate(spelled, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_layers_share_a_spelling(family: str):
    for style in STYLES:
        pieces = [piece for name in named(family) for piece in spell(name, family, style)]
        assert len(pieces) == len(set(pieces))


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_has_the_modules_of_the_style_diffusers(family: str):
    """With as many rows as the style says they are of the layer."""
    import torch

    with torch.device("meta"):
        networks = write_layer_tables.models(family)
    modules = {f"{part}.{name}": m for part, network in networks.items() for name, m in network.named_modules()}
    # transformers dropped "text_model." in 5.6; files keep it.
    modules |= {name.replace("encoder.encoder.", "encoder.text_model.encoder."): m for name, m in modules.items()}
    modules |= {name.replace("encoder_2.encoder.", "encoder_2.text_model.encoder."): m for name, m in modules.items()}
    for name, shape in known.layers(family).items():
        rows: dict[str, int] = {}
        for spelled, piece in spell(name, family, "diffusers"):
            rows[spelled] = rows.get(spelled, 0) + (piece[1] - piece[0] if piece else shape[0])
        for spelled, count in rows.items():
            assert tuple(modules[spelled].weight.shape) == (count, *shape[1:])


TO_Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TO_OUT = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
XL_Q = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_q"
TE_Q = "text_model_encoder_layers_3_self_attn_q_proj"
IMG_QKV, LINEAR1 = "lora_unet_double_blocks_7_img_attn_qkv", "lora_unet_single_blocks_37_linear1"
UNET_Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"

WILD: dict[str, tuple[str, str, tuple[int, int] | None, str]] = {
    # key in the file: (family, layer, rows, tensor)
    f"{TO_Q}.lora_down.weight": ("sd1", TO_Q, None, "lora_down.weight"),
    f"{TO_Q}.alpha": ("sd2", TO_Q, None, "alpha"),
    f"lycoris{TO_Q[len('lora_unet') :]}.lokr_w1": ("sd1", TO_Q, None, "lokr_w1"),
    f"lycoris_{TO_Q[len('lora_') :]}.lokr_w1": ("sd1", TO_Q, None, "lokr_w1"),
    f"{TO_Q}.weight": ("sd1", TO_Q, None, "weight"),
    f"unet.{UNET_Q}.lora_A.weight": ("sd1", TO_Q, None, "lora_down.weight"),
    f"unet.{UNET_Q}.lora_B.default.weight": ("sd1", TO_Q, None, "lora_up.weight"),
    f"unet.{UNET_Q}.lora_A.default_0": ("sd1", TO_Q, None, "lora_down.weight"),
    f"unet.{UNET_Q}.lora.up.weight": ("sd1", TO_Q, None, "lora_up.weight"),
    f"unet.{UNET_Q}.alpha": ("sd1", TO_Q, None, "alpha"),
    f"unet.{UNET_Q.replace('to_q', 'processor.to_q_lora')}.down.weight": ("sd1", TO_Q, None, "lora_down.weight"),
    f"{UNET_Q.replace('to_q', 'processor.to_out_lora')}.up.weight": ("sd1", TO_OUT, None, "lora_up.weight"),
    f"base_model.model.{UNET_Q}.lora_magnitude_vector.weight": ("sd1", TO_Q, None, "dora_scale"),
    f"base_model.model.{UNET_Q}.lora_magnitude_vector": ("sd1", TO_Q, None, "dora_scale"),
    f"base_model.model.{UNET_Q}.lora_magnitude_vector.default.weight": ("sd1", TO_Q, None, "dora_scale"),
    "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_up.weight": (
        "sd1",
        TO_Q,
        None,
        "lora_up.weight",
    ),
    f"lora_te1_{TE_Q}.lora_up.weight": ("sd1", f"lora_te_{TE_Q}", None, "lora_up.weight"),
    "text_encoder.text_model.encoder.layers.3.self_attn.q_proj.lora_linear_layer.up.weight": (
        "sd1",
        f"lora_te_{TE_Q}",
        None,
        "lora_up.weight",
    ),
    "text_encoder.text_model.encoder.layers.3.self_attn.to_q_lora.down.weight": (
        "sd1",
        f"lora_te_{TE_Q}",
        None,
        "lora_down.weight",
    ),
    "text_encoder.encoder.layers.3.self_attn.q_proj.lora_A.weight": (
        "sd2",
        f"lora_te_{TE_Q}",
        None,
        "lora_down.weight",
    ),
    f"{XL_Q}.hada_w1_a": ("sdxl", XL_Q, None, "hada_w1_a"),
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_1_attn2_to_q.lora_up.weight": (
        "sdxl",
        XL_Q,
        None,
        "lora_up.weight",
    ),
    "text_encoder_2.text_model.encoder.layers.3.self_attn.q_proj.lora_A.weight": (
        "sdxl",
        f"lora_te2_{TE_Q}",
        None,
        "lora_down.weight",
    ),
    "lora_te1_encoder_layers_3_self_attn_q_proj.lora_down.weight": (
        "sdxl",
        f"lora_te1_{TE_Q}",
        None,
        "lora_down.weight",
    ),
    f"{IMG_QKV}.lora_mid.weight": ("flux", IMG_QKV, None, "lora_mid.weight"),
    "diffusion_model.double_blocks.7.img_attn.qkv.lora_A.weight": ("flux", IMG_QKV, None, "lora_down.weight"),
    "double_blocks.7.img_attn.qkv.lora_B.bias": ("flux", IMG_QKV, None, "lora_up.bias"),
    "base_model.model.double_blocks.7.img_attn.qkv.lora_A.weight": ("flux", IMG_QKV, None, "lora_down.weight"),
    "double_blocks.7.processor.qkv_lora1.down.weight": ("flux", IMG_QKV, None, "lora_down.weight"),
    "double_blocks.7.processor.proj_lora2.up.weight": (
        "flux",
        "lora_unet_double_blocks_7_txt_attn_proj",
        None,
        "lora_up.weight",
    ),
    "single_blocks.37.processor.qkv_lora.up.weight": ("flux", LINEAR1, (0, 9216), "lora_up.weight"),
    "transformer.transformer_blocks.7.attn.to_k.lora_A.weight": ("flux", IMG_QKV, (3072, 6144), "lora_down.weight"),
    "transformer.transformer_blocks.7.attn.add_v_proj.lora_B.weight": (
        "flux",
        "lora_unet_double_blocks_7_txt_attn_qkv",
        (6144, 9216),
        "lora_up.weight",
    ),
    "transformer_blocks.7.ff_context.net.2.lora_A.weight": (
        "flux",
        "lora_unet_double_blocks_7_txt_mlp_2",
        None,
        "lora_down.weight",
    ),
    "lora_transformer_single_transformer_blocks_37_attn_to_q.lora_down.weight": (
        "flux",
        LINEAR1,
        (0, 3072),
        "lora_down.weight",
    ),
    "lycoris_single_transformer_blocks_37_proj_mlp.lokr_w2": ("flux", LINEAR1, (9216, 21504), "lokr_w2"),
    "transformer.proj_out.lora_A.weight": ("flux", "lora_unet_final_layer_linear", None, "lora_down.weight"),
    "lora_te2_encoder_block_23_layer_1_DenseReluDense_wi_0.alpha": (
        "flux",
        "lora_te3_encoder_block_23_layer_1_DenseReluDense_wi_0",
        None,
        "alpha",
    ),
}


@pytest.mark.parametrize("key", WILD)
def test_spellings_of_other_programs(key: str):
    family, layer, rows, tensor = WILD[key]
    spelled, found = split_key(key)
    assert (found, locate(spelled, family)) == (tensor, Place(layer, rows))


def test_the_halves_of_the_last_norm_of_flux_change_places():
    name = "lora_unet_final_layer_adaLN_modulation_1"
    assert locate("transformer.norm_out.linear", "flux") == Place(name, None, swapped=True)
    assert locate("diffusion_model.final_layer.adaLN_modulation.1", "flux") == Place(name)
    assert spell(name, "flux", "diffusers") == [
        ("transformer.norm_out.linear", (3072, 6144)),
        ("transformer.norm_out.linear", (0, 3072)),
    ]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "alpha",
        ".alpha",
        "lora_down.weight",
        "first_stage_model.decoder.conv_in.weight",
        "model.diffusion_model.input_blocks.0.0.bias",
        "bundle_emb.bear.emb_params",
        "step",
        f"{TO_Q}.momentum",
        "double_blocks.0.img_attn.norm.key_norm.scale",
    ],
)
def test_what_is_no_part_of_a_lora(key: str):
    assert split_key(key) is None


@pytest.mark.parametrize(
    ("spelled", "family"),
    [
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn3_to_q", "sd1"),
        ("lora_unet_double_blocks_0_img_attn_qkv", "sd1"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1", "sd1"),
        ("lora_te_text_model_embeddings_token_embedding", "sd1"),
        ("lora_unet_input_blocks_x_1_proj_in", "sdxl"),
        ("lora_unet_single_blocks_0_img_attn_qkv", "flux"),
        ("transformer.transformer_blocks.19.attn.to_q", "flux"),
        ("lora_unet_single_blocks_38_linear2", "flux"),
        ("lora_te3_encoder_block_0_layer_0_layer_norm", "flux"),
        (TO_Q, "sd3"),
        (TO_Q, "unknown"),
        ("", "sd1"),
        ("unet.", "sdxl"),
        ("モデル", "flux"),
        (f"lora_unet_down_blocks_{'9' * 5000}_resnets_0_conv1", "sdxl"),
        (f"lora_unet_input_blocks_{'9' * 5000}_0_op", "sd1"),
    ],
)
def test_layers_that_a_family_does_not_have(spelled: str, family: str):
    assert locate(spelled, family) is None


@pytest.mark.parametrize("name", ["unet.mid_block.attentions.0.proj_in", "lora_te1_text_model_final_layer_norm", "x"])
def test_only_canonical_names_are_spelled(name: str):
    with pytest.raises(ValueError, match="canonical"):
        spell(name, "sd1", "diffusers")


def test_a_small_model_has_layers_too():
    """They need not be in the table of the real one."""
    name = "lora_unet_up_blocks_7_attentions_5_proj_in"
    assert locate("unet.up_blocks.7.attentions.5.proj_in", "sd1") == Place(name)
    assert name not in known.layers("sd1")
