"""The estimate from the tables equals what is really attached: modules by part, and numbers of each algorithm."""

import pytest
import torch
from torch import nn

from lora_core.adapters import ALGORITHMS
from lora_core.estimate import PARAMETERS, estimate, part_of
from lora_core.settings import RunSettings
from lora_core.settings.overlay import with_values

LAYERS = {
    "linear": nn.Linear(48, 96),
    "3x3": nn.Conv2d(16, 32, 3),
    "1x1": nn.Conv2d(16, 32, 1),
}
CHOICES = {
    "lora": {},
    "locon": {"network.conv_rank": 4},
    "loha": {"network.conv_rank": 2},
    "lokr": {"network.factor": 4, "network.conv_rank": 2},
    "dora": {"network.conv_rank": 4},
    "oft": {},
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("algo", PARAMETERS)
def test_numbers_of_a_layer_are_those_of_its_adapter(algo, kind):
    network = with_values(RunSettings(), {"network.algo": algo, "network.rank": 8, **CHOICES[algo]}).network
    layer = LAYERS[kind]
    if algo in ("lora", "oft") and kind == "3x3":
        pytest.skip("LoRA has no convolutions")
    adapter = ALGORITHMS[algo].create("lora_unet_x", layer, "unet", network, torch.Generator())
    numbers = sum(parameter.numel() for parameter in adapter.parameters())
    assert PARAMETERS[algo](tuple(layer.weight.shape), network) == pytest.approx(numbers, rel=0.05)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("both", [False, True])
def test_lokr_is_counted_whole_or_split(full, both):
    changes = {"network.algo": "lokr", "network.rank": 2, "network.full_matrix": full, "network.decompose_both": both}
    network = with_values(RunSettings(), changes).network
    adapter = ALGORITHMS["lokr"].create("lora_unet_x", nn.Linear(64, 64), "unet", network, torch.Generator())
    assert PARAMETERS["lokr"]((64, 64), network) == sum(p.numel() for p in adapter.parameters())


@pytest.mark.parametrize(("family", "unet", "text"), [("sd1", 192, 72), ("sdxl", 722, 264), ("flux", 304, 72)])
def test_modules_are_those_of_the_families(family, unet, text):
    found = estimate(RunSettings.model_validate({"model": {"family": family}}))
    assert found is not None
    assert (found.modules["unet"], found.text_encoders) == (unet, text)


def test_without_the_text_encoder_the_file_is_smaller():
    both, alone = (
        estimate(with_values(RunSettings(), {"train.train_text_encoder": trained})) for trained in (True, False)
    )
    assert alone.text_encoders == 0
    assert alone.size < both.size


def test_an_sd15_lora_of_rank_32_has_the_size_people_know():
    """36 MB (37,870,000 bytes) in fp16, as kohya's trainer writes it."""
    found = estimate(with_values(RunSettings(), {"network.rank": 32}))
    assert found.size == pytest.approx(37.87e6, rel=0.01)
    assert (
        estimate(with_values(RunSettings(), {"network.rank": 32, "save.save_precision": "float"})).size
        > 1.9 * found.size
    )


def test_patterns_blocks_and_pissa_count():
    plain = estimate(RunSettings())
    half = estimate(with_values(RunSettings(), {"network.include": "attn1"}))
    assert half.modules == {"unet": 64}
    assert half.size < plain.size
    smaller = estimate(with_values(RunSettings(), {"network.block_ranks": "MID=1"}))
    assert smaller.modules == plain.modules
    assert smaller.size < plain.size
    assert estimate(with_values(RunSettings(), {"network.include": "nothing_like_this"})) is None
    assert estimate(with_values(RunSettings(), {"network.init": "pissa"})).size > 1.9 * plain.size


def test_convolutions_train_the_blocks_around_them_too():
    plain, more = (
        estimate(with_values(RunSettings(), {"network.algo": algo})).modules["unet"] for algo in ("lora", "locon")
    )
    assert (plain, more) == (192, 278)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("lora_te_text_model_x", "text_encoder"),
        ("lora_te1_x", "text_encoder"),
        ("lora_te2_x", "text_encoder_2"),
        ("lora_unet_x", "unet"),
    ],
)
def test_parts_by_name(name, part):
    assert part_of(name) == part
