"""Schedules equal the Hugging Face ones of the same name, and are functions of the step alone."""

import pytest
import torch
from diffusers.optimization import get_scheduler
from pydantic import TypeAdapter

from lora_core.settings import ScheduleSettings
from lora_core.train.schedules import factor, set_rates, warmup_steps

SCHEDULE = TypeAdapter(ScheduleSettings)
TOTAL = 60
CASES = [
    {"name": "constant"},
    {"name": "constant_with_warmup", "warmup": 10},
    {"name": "linear", "warmup": 0},
    {"name": "linear", "warmup": 25},
    {"name": "cosine", "warmup": 10},
    {"name": "cosine_with_restarts", "warmup": 5, "num_cycles": 3},
    {"name": "polynomial", "warmup": 10, "power": 2.0},
]


def rates_of_library(case: dict) -> list[float]:
    settings = SCHEDULE.validate_python(case)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    scheduler = get_scheduler(
        case["name"],
        optimizer,
        num_warmup_steps=warmup_steps(settings, TOTAL),
        num_training_steps=TOTAL,
        num_cycles=case.get("num_cycles", 1),
        power=case.get("power", 1.0),
    )
    rates = []
    for _ in range(TOTAL):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c.values())))
def test_equals_the_library(case):
    at = factor(SCHEDULE.validate_python(case), TOTAL)
    assert [1e-4 * at(step) for step in range(TOTAL)] == pytest.approx(rates_of_library(case), rel=1e-6, abs=1e-12)


def test_every_schedule_is_between_0_and_1_and_has_a_case():
    names = {variant["properties"]["name"]["const"] for variant in SCHEDULE.json_schema()["$defs"].values()}
    assert names == {case["name"] for case in CASES} | {"adafactor"}
    for name in names:
        at = factor(SCHEDULE.validate_python({"name": name}), TOTAL)
        assert all(0.0 <= at(step) <= 1.0 for step in range(2 * TOTAL))


def test_groups_keep_their_own_base_rate_and_adafactor_its_own():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    groups = [{"params": [p], "lr": lr, "base_lr": lr} for p, lr in zip(parameters, (1e-4, 5e-5, None), strict=True)]
    groups[2].pop("lr")
    optimizer = torch.optim.SGD(groups, lr=7.0)
    set_rates(optimizer, lambda step: 0.5, 3)
    assert [g["lr"] for g in optimizer.param_groups] == [5e-5, 2.5e-5, 7.0]
