"""The family of a LoRA by its names and shapes: whole, in parts, in every spelling, of every algorithm."""

import pytest

from lora_core.merge import known
from lora_core.merge.names import family_of, spell, split_key, tensor_key
from tests.merge.model_facts import FAMILIES

Shapes = dict[str, tuple[int, ...]]
STYLES = ("kohya", "diffusers", "peft")


def lora(family: str, style: str = "kohya", only: str = "") -> Shapes:
    """Keys and shapes of a plain LoRA of rank 4, or of the layers with ``only`` in their names."""
    shapes: Shapes = {}
    for name, shape in known.layers(family).items():
        if name in known.default_targets(family) and only in name:
            for spelled, rows in spell(name, family, style):
                out = rows[1] - rows[0] if rows else shape[0]
                shapes[tensor_key(spelled, "lora_down.weight", style)] = (4, *shape[1:])
                shapes[tensor_key(spelled, "lora_up.weight", style)] = (out, 4, *[1] * (len(shape) - 2))
                shapes[tensor_key(spelled, "alpha", style)] = ()
    assert shapes
    return shapes


def family(shapes: Shapes) -> str:
    return family_of({split_key(key)[0] for key in shapes}, shapes)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("expected", FAMILIES)
def test_whole_files(expected: str, style: str):
    assert family(lora(expected, style)) == expected


PARTS = {
    # layers with this in their names: what they tell in the families' own spelling
    ("sd1", "lora_unet"): "sd1",
    ("sd1", "lora_te"): "sd1",
    ("sd1", "attn1_to_q"): "sd1",
    ("sd1", "up_blocks_3"): "sd1",
    ("sd1", "mid_block_attentions_0_proj_in"): "unknown",
    ("sd2", "lora_unet"): "sd2",
    ("sd2", "lora_te"): "sd2",
    ("sd2", "attn2_to_v"): "sd2",
    ("sdxl", "lora_unet"): "sdxl",
    ("sdxl", "lora_te2"): "sdxl",
    ("sdxl", "lora_te1"): "unknown",
    ("sdxl", "attn1_to_q"): "sdxl",
    ("sdxl", "input_blocks_4_1"): "sdxl",
    ("sdxl", "middle_block_1_proj_in"): "sdxl",
    ("flux", "single"): "flux",
    ("flux", "double_blocks_3_txt_mlp_0"): "flux",
}


@pytest.mark.parametrize(("source", "only"), PARTS)
def test_files_of_some_layers(source: str, only: str):
    assert family(lora(source, only=only)) == PARTS[source, only]


@pytest.mark.parametrize("style", ["diffusers", "peft"])
@pytest.mark.parametrize("only", ["double", "single", "img_attn_qkv"])
def test_flux_in_parts(style: str, only: str):
    assert family(lora("flux", style, only)) == "flux"


@pytest.mark.parametrize("style", ["diffusers", "peft"])
def test_sdxl_in_diffusers_blocks(style: str):
    """Other programs put kohya's prefix before them too."""
    shapes = lora("sdxl", style, "lora_unet")
    assert family(shapes) == "sdxl"
    underscored = {}
    for key, shape in shapes.items():
        spelled, tensor = split_key(key)
        path = spelled.removeprefix("unet.").removeprefix("base_model.model.").replace(".", "_")
        underscored[f"lora_unet_{path}.{tensor}"] = shape
    assert family(underscored) == "sdxl"


TO_K = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
XL_TO_K = "lora_unet_input_blocks_7_1_transformer_blocks_0_attn2_to_k"


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({f"{TO_K}.hada_w1_a": (640, 4), f"{TO_K}.hada_w1_b": (4, 1024)}, "sd2"),
        ({f"{TO_K}.lokr_w1": (16, 32), f"{TO_K}.lokr_w2": (40, 32)}, "sd2"),
        ({f"{TO_K}.lokr_w1": (8, 16), f"{TO_K}.lokr_w2_a": (80, 4), f"{TO_K}.lokr_w2_b": (4, 128)}, "sdxl"),
        ({f"{TO_K}.diff": (640, 768)}, "sd1"),
        ({f"{XL_TO_K}.oft_blocks": (4, 160, 160)}, "sdxl"),
        ({f"{TO_K}.on_input": (), f"{TO_K}.weight": (640,)}, "sd1"),
    ],
    ids=["LoHa", "LoKr", "LoKr in factors", "full", "OFT", "IA3"],
)
def test_other_algorithms(shapes: Shapes, expected: str):
    assert family(shapes) == expected


@pytest.mark.parametrize("prefix", ["lora_unet_", "unet.", "base_model.model."])
def test_a_small_model_is_an_sd1(prefix: str):
    """The built-in one reads text 128 wide."""
    path = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    path = path.replace(".", "_") if prefix == "lora_unet_" else path
    assert family({f"{prefix}{path}.lora_A.weight": (4, 128)}) == "sd1"


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({"lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight": (4, 1536)}, "sd3"),
        ({"transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight": (4, 1536)}, "sd3"),
        ({"transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight": (4, 3072)}, "flux"),
        ({"transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight": (4, 999)}, "unknown"),
        ({"lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight": (4, 4096)}, "flux"),
    ],
)
def test_names_that_two_families_share(shapes: Shapes, expected: str):
    assert family(shapes) == expected


def test_names_alone():
    assert family_of(["lora_unet_double_blocks_0_img_attn_qkv"]) == "flux"
    assert family_of(["nonsense", ""]) == family_of([]) == "unknown"
