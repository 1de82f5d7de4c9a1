"""Every optimizer of the settings is built, trains, reports its rate, and is saved and restored exactly."""

from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter

from lora_core.errors import UserError
from lora_core.settings import FINDS_ITS_OWN_RATE, OptimizerSettings
from lora_core.train.optimizer_table import CLASSES
from lora_core.train.optimizers import averaged_weights, create_optimizer, current_rates

OPTIMIZER = TypeAdapter(OptimizerSettings)
NAMES = [variant.model_fields["name"].default for variant in get_args(get_args(OptimizerSettings)[0])]
SETTINGS = [{"name": name} for name in NAMES if name != "custom"] + [
    {"name": "custom", "class_path": "pytorch_optimizer.ADOPT"}
]


def problem(seed: int = 0):
    """A small least-squares problem: parameters, a loss, and an optimizer's groups."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.nn.Parameter(torch.randn(64, 96, generator=random))
    x, y = torch.randn(32, 64, generator=random), torch.randn(32, 96, generator=random)
    return weight, lambda: (x @ weight - y).square().mean()


def groups(weight: torch.nn.Parameter, name: str):
    lr = 1.0 if name in FINDS_ITS_OWN_RATE else 1e-2
    return [{"params": [weight], "lr": lr, "base_lr": lr, "name": "unet"}]


def run(optimizer, loss_of, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_table_names_every_optimizer_of_the_settings():
    assert set(CLASSES) | {"custom"} == set(NAMES)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s["name"])
def test_lowers_the_loss_and_reports_its_rate(settings):
    weight, loss_of = problem()
    optimizer = create_optimizer(OPTIMIZER.validate_python(settings), groups(weight, settings["name"]))
    losses = run(optimizer, loss_of, 60)
    assert losses[-1] < losses[0]
    assert current_rates(optimizer).keys() == {"unet"}
    assert current_rates(optimizer)["unet"] > 0


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s["name"])
def test_restored_from_a_file_it_goes_on_bit_for_bit(settings, tmp_path):
    chosen = OPTIMIZER.validate_python(settings)
    weight, loss_of = problem()
    unbroken = create_optimizer(chosen, groups(weight, settings["name"]))
    run(unbroken, loss_of, 7)
    torch.save(unbroken.state_dict(), tmp_path / "optimizer.pt")
    at_seven = weight.detach().clone()
    run(unbroken, loss_of, 5)

    again, loss_again = problem()
    with torch.no_grad():
        again.copy_(at_seven)
    resumed = create_optimizer(chosen, groups(again, settings["name"]))
    resumed.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    run(resumed, loss_again, 5)
    assert torch.equal(again, weight)


def test_looking_at_averaged_weights_leaves_no_trace():
    weight, loss_of = problem()
    optimizer = create_optimizer(OPTIMIZER.validate_python({"name": "AdamWScheduleFree"}), groups(weight, ""))
    run(optimizer, loss_of, 5)
    before = weight.detach().clone()
    with averaged_weights(optimizer):
        assert not torch.equal(weight, before)
    assert torch.equal(weight, before)
    run(optimizer, loss_of, 1)  # and it trains on


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"name": "custom", "class_path": "no.such.Thing"}, "train.optimizer_missing"),
        ({"name": "custom", "class_path": "pathlib.Path"}, "train.optimizer_no_class"),
        ({"name": "custom", "class_path": "Thing"}, "train.optimizer_missing"),
        ({"name": "AdamW", "args": "speed=11"}, "train.optimizer_refused"),
        ({"name": "AdamW", "args": "betas=(2,3)"}, "train.optimizer_refused"),
    ],
)
def test_what_can_not_be_built_is_said_in_words(settings, key):
    weight, _ = problem()
    with pytest.raises(UserError) as error:
        create_optimizer(OPTIMIZER.validate_python(settings), groups(weight, settings["name"]))
    assert error.value.key == key
