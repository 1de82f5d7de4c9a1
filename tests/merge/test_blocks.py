"""Layer weights: which block a layer is in, and the forms people paste."""

import pytest

from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES, text
from lora_core.merge import blocks, known
from lora_core.merge.blocks import FORMS, PRESETS, block_of, format_weights, parse, parse_names

A = "attentions_0_transformer_blocks_0_attn1_to_q"
PLACES = [
    ("sd1", "lora_te_text_model_encoder_layers_3_mlp_fc1", "BASE"),
    ("sd1", f"lora_unet_down_blocks_0_{A}", "IN01"),
    ("sd1", "lora_unet_down_blocks_0_attentions_1_proj_in", "IN02"),
    ("sd1", "lora_unet_down_blocks_0_downsamplers_0_conv", "IN03"),
    ("sd1", f"lora_unet_down_blocks_1_{A}", "IN04"),
    ("sd1", "lora_unet_down_blocks_2_attentions_1_proj_out", "IN08"),
    ("sd1", "lora_unet_down_blocks_3_resnets_1_conv2", "IN11"),
    ("sd1", "lora_unet_conv_in", "IN00"),
    ("sd1", f"lora_unet_mid_block_{A}", "MID"),
    ("sd1", "lora_unet_up_blocks_0_resnets_2_conv1", "OUT02"),
    ("sd1", "lora_unet_up_blocks_0_upsamplers_0_conv", "OUT02"),
    ("sd1", f"lora_unet_up_blocks_1_{A}", "OUT03"),
    ("sd1", "lora_unet_up_blocks_3_attentions_2_proj_in", "OUT11"),
    ("sd1", "lora_unet_time_embedding_linear_1", "REST"),
    ("sd2", f"lora_unet_up_blocks_2_{A}", "OUT06"),
    ("sdxl", "lora_te2_text_model_encoder_layers_3_mlp_fc1", "BASE"),
    ("sdxl", "lora_unet_input_blocks_4_1_proj_in", "IN04"),
    ("sdxl", "lora_unet_middle_block_1_proj_in", "MID"),
    ("sdxl", "lora_unet_output_blocks_8_0_in_layers_2", "OUT08"),
    ("sdxl", "lora_unet_label_emb_0_0", "REST"),
    ("flux", "lora_te1_text_model_encoder_layers_3_mlp_fc1", "CLIP"),
    ("flux", "lora_te3_encoder_block_0_layer_0_SelfAttention_q", "T5"),
    ("flux", "lora_unet_double_blocks_18_img_attn_qkv", "D18"),
    ("flux", "lora_unet_single_blocks_7_linear1", "S07"),
    ("flux", "lora_unet_img_in", "IN"),
    ("flux", "lora_unet_final_layer_linear", "OUT"),
]


@pytest.mark.parametrize(("family", "layer", "block"), PLACES)
def test_the_block_of_a_layer(family, layer, block):
    assert block_of(layer, family) == block


@pytest.mark.parametrize("family", FORMS)
def test_every_layer_that_loras_train_is_in_a_block(family):
    found = {block_of(layer, family) for layer in known.default_targets(family)}
    assert "REST" not in found
    assert found <= set(blocks.names(family))


@pytest.mark.parametrize(("family", "length"), [("sd1", 17), ("sdxl", 12)])
def test_the_short_forms_name_the_blocks_of_a_plain_lora(family, length):
    found = {block_of(layer, family) for layer in known.default_targets(family)}
    assert set(FORMS[family][length]) == found


@pytest.mark.parametrize(("family", "length"), [(family, length) for family in FORMS for length in FORMS[family]])
def test_numbers_go_to_their_blocks(family, length):
    numbers = [round(0.01 * i, 2) for i in range(length)]
    weights = parse(",".join(map(str, numbers)), family)
    for block, number in zip(FORMS[family][length], numbers, strict=True):
        for one in ["CLIP", "T5"] if (family, block) == ("flux", "BASE") else [block]:
            assert weights.by_block[one] == number
    named = {b for block in FORMS[family][length] for b in (["CLIP", "T5"] if block == "BASE" else [block])} | {"BASE"}
    assert all(weight == 1 for block, weight in weights.by_block.items() if block not in named)


@pytest.mark.parametrize(
    "pasted",
    ["1,0.5,0" + ",1" * 14, "[1, 0.5, 0" + ", 1" * 14 + "]", "FACE:1,0.5,0" + ",1" * 14, "1 0.5 0" + " 1" * 14],
)
def test_the_ways_a_line_is_pasted(pasted):
    weights = parse(pasted, "sd1")
    assert (weights.by_block["BASE"], weights.by_block["IN01"], weights.by_block["IN02"]) == (1, 0.5, 0)


def test_blocks_by_name():
    weights = parse("BASE=0, IN04-06=0.5; OUT=2", "sd1")
    assert weights.by_block["BASE"] == 0
    assert [weights.by_block[f"IN{i:02d}"] for i in range(3, 8)] == [1, 0.5, 0.5, 0.5, 1]
    assert {weights.by_block[f"OUT{i:02d}"] for i in range(12)} == {2}
    assert parse_names("mid, in01-02 BASE", "sd1") == ["BASE", "IN01", "IN02", "MID"]
    assert parse("BASE=0.5", "flux").by_block["T5"] == 0.5


@pytest.mark.parametrize("family", FORMS)
def test_text_and_weights_go_both_ways(family):
    weights = parse(",".join(str(i / 8) for i in range(len(blocks.names(family)))), family)
    assert parse(format_weights(weights), family) == weights


@pytest.mark.parametrize(
    ("pasted", "key"),
    [
        ("1,2,3", "blocks.length"),
        ("1,a" + ",1" * 15, "blocks.not_numbers"),
        ("nan" + ",1" * 16, "blocks.not_numbers"),
        ("[1, [2]]", "blocks.not_numbers"),
        ("[1, 2", "blocks.not_numbers"),
        ("IN44=1", "blocks.unknown"),
        ("WING=1", "blocks.unknown"),
        ("IN01=", "blocks.not_numbers"),
        ("R,U,R", "blocks.not_numbers"),
    ],
)
def test_what_is_no_weight_is_a_sentence(pasted, key):
    with pytest.raises(UserError) as caught:
        parse(pasted, "sd1")
    assert caught.value.key == key
    assert caught.value.message("ja") != caught.value.message("en")


def test_a_family_without_blocks():
    with pytest.raises(UserError) as caught:
        parse("1,2,3", "sd3")
    assert caught.value.key == "blocks.no_family"
    assert parse("", "sd3").plain


@pytest.mark.parametrize("family", FORMS)
@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_zeros_and_ones(family, name):
    weights = parse(name.lower(), family)
    assert set(weights.by_block) == set(blocks.names(family))
    assert set(weights.by_block.values()) <= {0, 1}
    assert all(text(PRESETS[name].key, language) for language in LANGUAGES)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("INS", "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0"),
        ("IND", "1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0"),
        ("INALL", "1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0"),
        ("MIDD", "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0"),
        ("OUTD", "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0"),
        ("OUTS", "1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1"),
        ("OUTALL", "1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1"),
    ],
)
def test_presets_mean_what_they_mean_elsewhere(name, line):
    """The lines of the block-weight extension, on the blocks they name."""
    ours, theirs = parse(name, "sd1"), parse(line, "sd1")
    assert {b: ours.by_block[b] for b in FORMS["sd1"][17]} == {b: theirs.by_block[b] for b in FORMS["sd1"][17]}
