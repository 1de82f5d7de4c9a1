"""Schedules equal the Hugging Face ones of the same name, and are functions of the step alone."""

import subprocess
import sys

import pytest
import torch
from diffusers.optimization import get_scheduler as diffusers_scheduler
from pydantic import TypeAdapter, ValidationError
from transformers import get_scheduler

from lora_core.settings import ScheduleSettings
from lora_core.train.schedules import decay_steps, factor, set_rates, warmup_steps

SCHEDULE = TypeAdapter(ScheduleSettings)
TOTAL = 60
CASES = [
    ({"name": "constant"}, {}),
    ({"name": "constant_with_warmup", "warmup": 10}, {}),
    ({"name": "linear", "warmup": 0}, {}),
    ({"name": "linear", "warmup": 25}, {}),
    ({"name": "linear", "warmup": 25, "warmup_steps": 7}, {}),
    ({"name": "cosine", "warmup": 10}, {}),
    ({"name": "cosine_with_min_lr", "warmup": 10, "min_lr_ratio": 0.25}, {"min_lr_rate": 0.25}),
    ({"name": "cosine_with_restarts", "warmup": 5, "num_cycles": 3}, {"num_cycles": 3}),
    ({"name": "polynomial", "warmup": 10, "power": 2.0}, {"power": 2.0}),
    ({"name": "inverse_sqrt", "warmup": 10}, {}),
    ({"name": "inverse_sqrt", "warmup": 0}, {}),
    ({"name": "inverse_sqrt", "warmup_steps": 4, "timescale": 9}, {"timescale": 9}),
    ({"name": "warmup_stable_decay", "warmup": 10, "decay": 30, "min_lr_ratio": 0.1}, {"min_lr_ratio": 0.1}),
    ({"name": "warmup_stable_decay", "warmup_steps": 0, "decay_steps": 9}, {}),
    ({"name": "piecewise_constant", "step_rules": "1:10,0.1:20,0.01:30,0.005"}, {}),
    ({"name": "piecewise_constant", "step_rules": "1:50%,0.3:40, 2e-1"}, {"step_rules": "1:30,0.3:40,0.2"}),
]


def rates_of_library(case: dict, arguments: dict) -> list[float]:
    """The Hugging Face schedule of the same name: diffusers' where transformers has none."""
    settings = SCHEDULE.validate_python(case)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    warm = {"num_warmup_steps": warmup_steps(settings, TOTAL), "num_training_steps": TOTAL}
    if case["name"] == "piecewise_constant":
        rules = arguments.get("step_rules", case["step_rules"])
        scheduler = diffusers_scheduler("piecewise_constant", optimizer, step_rules=rules)
    elif case["name"] == "warmup_stable_decay":
        more = {"num_decay_steps": decay_steps(settings, TOTAL), **arguments}
        scheduler = get_scheduler(case["name"], optimizer, **warm, scheduler_specific_kwargs=more)
    else:
        scheduler = get_scheduler(case["name"], optimizer, **warm, scheduler_specific_kwargs=arguments)
    rates = []
    for _ in range(TOTAL):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(("case", "arguments"), CASES, ids=["-".join(map(str, c.values())) for c, _ in CASES])
def test_equals_the_library(case, arguments):
    at = factor(SCHEDULE.validate_python(case), TOTAL)
    expected = rates_of_library(case, arguments)
    assert [1e-4 * at(step) for step in range(TOTAL)] == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_every_schedule_is_between_0_and_1_and_has_a_case():
    names = {variant["properties"]["name"]["const"] for variant in SCHEDULE.json_schema()["$defs"].values()}
    assert names == {case["name"] for case, _ in CASES} | {"adafactor", "rex"}
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


@pytest.mark.parametrize("warm", [0, 12])
def test_rex_is_the_formula_of_its_paper(warm):
    at = factor(SCHEDULE.validate_python({"name": "rex", "warmup_steps": warm}), TOTAL)
    z = [(step - warm) / (TOTAL - warm) for step in range(warm, TOTAL)]
    assert [at(step) for step in range(warm, TOTAL)] == pytest.approx([(1 - z) / (1 / 2 + 1 / 2 * (1 - z)) for z in z])
    assert at(TOTAL) == 0.0


@pytest.mark.parametrize(("warm", "decay"), [(0, 0), (60, 60), (50, 30), (7, None)])
def test_slopes_longer_than_the_run_stay_within_it(warm, decay):
    settings = {"name": "warmup_stable_decay", "warmup_steps": warm, "decay_steps": decay}
    schedule = SCHEDULE.validate_python(settings)
    assert 0 <= decay_steps(schedule, TOTAL) <= TOTAL - warmup_steps(schedule, TOTAL)
    values = [factor(schedule, TOTAL)(step) for step in range(TOTAL + 1)]
    assert values[TOTAL] == 0.0
    assert max(values) == 1.0 or warm == TOTAL


@pytest.mark.parametrize("rules", ["", "1", "1:5", "x:5,1", "1:5,", "1:5,0.1:9", "1:-5,1"])
def test_step_rules_are_read_or_refused(rules):
    if rules == "1":
        assert factor(SCHEDULE.validate_python({"name": "piecewise_constant", "step_rules": rules}), 9)(8) == 1.0
        return
    with pytest.raises((ValidationError, ValueError)):
        SCHEDULE.validate_python({"name": "piecewise_constant", "step_rules": rules})


def test_the_page_can_import_it_without_torch():
    code = "import sys; import lora_core.train.schedules; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
