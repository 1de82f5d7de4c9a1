"""Kohya's settings for blocks and single layers, and LoRAs merged first: what they become here."""

import json
import math
import tomllib

import pytest

from lora_core.merge import known
from lora_core.merge.blocks import block_of
from lora_core.selection import is_kernel, known_names, select
from lora_core.settings import RunSettings
from lora_core.settings.kohya import import_tree
from lora_core.settings.kohya.export import to_gui, to_scripts
from tests.settings.kohya_files import entry, gui, nothing, scripts


def layers(told, family="sd1"):
    names = [name for name in known.layers(family) if name in known.default_targets(family)]
    return select(names, told.settings.network, family)


def by_block(told, family="sd1"):
    return {block_of(name, family): choice for name, choice in layers(told, family).items()}


def test_rates_of_blocks():
    down, up = [0, 0.5, 1, 1, 0.25, *[1] * 7], [1, 1, 1, *[0.75] * 9]
    told = gui(down_lr_weight=",".join(map(str, down)), mid_lr_weight="0.1", up_lr_weight=", ".join(map(str, up)))
    assert entry(told, "down_lr_weight").group == "mapped"
    found = {block: choice.rate for block, choice in by_block(told).items()}
    assert found["IN01"] == 0.5
    assert found["IN04"] == 0.25
    assert found["MID"] == 0.1
    assert found["OUT03"] == found["OUT11"] == 0.75
    assert found["IN02"] == found["BASE"] == 1


def test_rates_below_the_threshold_leave_a_block_out():
    told = gui(mid_lr_weight="0.1", block_lr_zero_threshold="0.1")
    assert "MID" not in by_block(told)


@pytest.mark.parametrize(
    ("curve", "formula"),
    [
        ("sine", lambda i: math.sin(math.pi * (i / 11) / 2)),
        ("cosine+0.1", lambda i: math.sin(math.pi * ((11 - i) / 11) / 2) + 0.1),
        ("linear", lambda i: i / 11),
        ("reverse_linear+.5", lambda i: (11 - i) / 11 + 0.5),
        ("zeros+0.3", lambda i: 0.3),
    ],
)
def test_curves_of_sd_scripts(curve, formula):
    found = by_block(gui(up_lr_weight=curve))
    for number in range(3, 12):
        assert found[f"OUT{number:02d}"].rate == pytest.approx(formula(number), abs=1e-5)


def test_ranks_of_blocks_keep_the_one_alpha_of_kohya():
    dims = [2 + n for n in range(25)]
    told = gui(block_dims=",".join(map(str, dims)), network_dim=8, network_alpha=4)
    found = by_block(told)
    assert (found["IN01"].settings.rank, found["IN01"].settings.alpha) == (3, 4.0)
    assert (found["MID"].settings.rank, found["OUT11"].settings.rank) == (14, 26)
    assert {choice.settings.alpha for choice in found.values()} == {4.0}
    told = gui(block_dims=",".join(map(str, dims)), block_alphas=",".join(["3"] * 25))
    assert by_block(told)["OUT05"].settings.alpha == 3


def test_sdxl_has_other_blocks():
    told = gui(sdxl=True, block_dims=",".join(str(n) for n in range(1, 24)), down_lr_weight="1,1,1,1,0.5")
    found = {block_of(n, "sdxl"): c for n, c in layers(told, "sdxl").items()}
    assert found["IN04"].settings.rank == 6
    assert found["IN04"].rate == 0.5
    assert found["MID"].settings.rank == 12
    assert found["OUT00"].settings.rank == 14


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize(
    "values",
    [
        {"block_ranks": "MID=4, OUT03-05=2"},
        {"block_ranks": "MID=0, IN04=6", "block_alphas": "IN04=1"},
        {"block_lrs": "OUT=0.5, MID=0.25"},
        {"block_lrs": "OUT04=0"},
        {"algo": "locon", "conv_rank": 4, "conv_alpha": 2, "block_conv_ranks": "MID=2, OUT=0", "block_ranks": "OUT=4"},
        {"block_ranks": "/_mid(dle)?_block/=4"},
    ],
)
@pytest.mark.parametrize("write", [to_gui, to_scripts])
def test_blocks_go_out_as_lists_and_come_back_as_the_same_layers(family, values, write):
    own = {"algo": "lora", "rank": 8, "alpha": 4} | values
    settings = RunSettings.model_validate({"model": {"family": family}, "network": own})
    exported = write(settings)
    assert not [entry for entry in exported.entries if entry.key.startswith("network.")]
    tree = json.loads(exported.text) if write is to_gui else tomllib.loads(exported.text) | {"sdxl": family == "sdxl"}
    told = import_tree(tree, "x", nothing).settings
    assert trained(told) == trained(settings)


def trained(settings):
    """Rank, alpha and rate of every layer that is trained."""
    found = select(known_names(settings), settings.network, settings.model.family)
    return {n: (*c.settings.rank_and_alpha(kernel=is_kernel(n)), c.rate) for n, c in found.items()}


@pytest.mark.parametrize(
    ("family", "values"),
    [
        ("sd1", {"block_ranks": "attn2=4"}),
        ("sd1", {"block_ranks": "BASE=4"}),
        ("sd1", {"block_lrs": "BASE=0.5"}),
        ("sd1", {"block_ranks": "MID=4", "algo": "loha"}),
        ("flux", {"block_ranks": "D03=4"}),
    ],
)
def test_blocks_that_lists_can_not_say_are_told(family, values):
    settings = RunSettings.model_validate({"model": {"family": family}, "network": values})
    (field,) = (name for name in values if name.startswith("block"))
    (entry,) = (entry for entry in to_gui(settings).entries if entry.key == f"network.{field}")
    assert "one number for each" in entry.message()


@pytest.mark.parametrize("values", [{"block_dims": "1,2,3"}, {"down_lr_weight": "fast"}, {"block_alphas": "x"}])
def test_what_can_not_be_read_is_told(values):
    (key,) = values
    assert entry(gui(**values), key).group == "unsupported"


def test_patterns_of_layers():
    told = scripts(
        network_dim=8,
        network_alpha=4,
        learning_rate=1e-4,
        unet_lr=2e-4,
        network_args=["network_reg_dims=attn2_to_q$=2,mid/x|mid_block=6", "network_reg_lrs=attn1=1e-4"],
    )
    for name, choice in layers(told).items():
        if name.endswith("attn2_to_q"):
            assert (choice.settings.rank, choice.settings.alpha) == (2, 4.0)
        elif "mid_block" in name:
            assert choice.settings.rank == 6
        assert choice.rate == (0.5 if "attn1" in name else 1.0)


def test_lora_plus_and_decomposition():
    told = gui(loraplus_lr_ratio=16, loraplus_unet_lr_ratio=0, LoRA_type="Standard")
    assert (told.settings.network.loraplus_ratio, told.settings.network.loraplus_unet_ratio) == (16.0, None)
    told = gui(LoRA_type="LyCORIS/LoHa", dora_wd=True)
    assert told.settings.network.weight_decompose
    told = gui(LoRA_type="LyCORIS/Diag-OFT", constrain=0.001, network_dim=4)
    assert (told.settings.network.algo, told.settings.network.constraint) == ("oft", 0.001)
    assert entry(told, "network_alpha").group == "no_effect"


def test_loras_merged_first_come_along_and_go_back():
    told = scripts(base_weights=["/x/a.safetensors", "/y/b.safetensors"], base_weights_multiplier=[0.5])
    assert told.settings.network.base_weights == "/x/a.safetensors:0.5\n/y/b.safetensors"
    assert entry(told, "base_weights_multiplier").group == "mapped"
    again = import_tree(tomllib.loads(to_scripts(told.settings).text), "x", nothing)
    assert again.settings.network.base_weights == told.settings.network.base_weights
    assert "--base_weights /x/a.safetensors /y/b.safetensors" in to_gui(told.settings).text
