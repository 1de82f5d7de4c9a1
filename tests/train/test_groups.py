"""Parameter groups by rate: LoRA+ and rates of blocks, and what the chart shows of them."""

import pytest
import torch

from lora_core.adapters import AdapterNetwork
from lora_core.selection import select
from lora_core.settings import RunSettings
from lora_core.train.groups import split_groups
from lora_core.train.optimizers import current_rates
from lora_core.train.session import parameter_groups
from tests.adapters.helpers import make_tiny


def groups_of(**network):
    settings = RunSettings.model_validate(
        {"network": {"rank": 2} | network, "train": {"learning_rate": 1e-3, "text_encoder_lr": 1e-4}}
    )
    targets = make_tiny().targets
    choices = select([target.name for target in targets], settings.network, "sd1")
    made = AdapterNetwork.create(targets, settings.network, 1, choices)
    groups = split_groups(parameter_groups(settings, made), made, settings.network)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(id(parameter) for parameter in made.parameters())
    return made, groups


def test_without_rates_of_their_own_the_groups_are_the_parts():
    made, groups = groups_of()
    assert [(group["name"], group["lr"]) for group in groups] == [("text_encoder", 1e-4), ("unet", 1e-3)]
    assert groups[1]["params"] == made.parameters_of("unet")


@pytest.mark.parametrize("algo", ["lora", "locon", "dora"])
def test_lora_plus_is_for_the_up_matrices(algo):
    made, groups = groups_of(algo=algo, loraplus_ratio=16.0, loraplus_text_encoder_ratio=4.0)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for adapter in made:
        base, ratio = (1e-3, 16) if adapter.part == "unet" else (1e-4, 4)
        assert rates[id(adapter.up)] == pytest.approx(base * ratio)
        assert {rates[id(p)] for p in adapter.parameters() if p is not adapter.up} == {base}
    assert [group["name"] for group in groups] == ["text_encoder", "text_encoder up", "unet", "unet up"]
    assert all(group["base_lr"] == group["lr"] for group in groups)


def test_the_chart_shows_one_line_for_a_part_whatever_its_blocks_do():
    lists = ",".join(f"{n / 100:g}" for n in range(10, 36))
    made, groups = groups_of(block_lrs=lists, loraplus_unet_ratio=2.0)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for adapter in made.of("unet"):
        assert rates[id(adapter.down)] == pytest.approx(1e-3 * adapter.rate)
        assert rates[id(adapter.up)] == pytest.approx(2e-3 * adapter.rate)
    shown = current_rates(torch.optim.AdamW(groups))
    highest = max(adapter.rate for adapter in made.of("unet"))
    assert shown == pytest.approx({"text_encoder": 1e-5, "unet": 1e-3 * highest, "unet up": 2e-3 * highest})
    assert len(groups) < 2 * 26
