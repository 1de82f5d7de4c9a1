"""Every optimizer of the settings is built, trains, reports its rate, and is saved and restored exactly."""

from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter

from lora_core.errors import UserError
from lora_core.settings import FINDS_ITS_OWN_RATE, OptimizerSettings
from lora_core.settings.optimizer import SCHEDULE_FREE
from lora_core.train.optimizer_table import CLASSES
from lora_core.train.optimizers import averaged_weights, create_optimizer, current_rates
from lora_core.train.rounding import in_float32
from lora_core.train.stopping import freeze_text_encoders

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
    return weight, lambda own=weight: (x @ own.float() - y).square().mean()


def groups(weight: torch.nn.Parameter, name: str):
    lr = 1.0 if name in FINDS_ITS_OWN_RATE else 1e-2
    return [{"params": [weight], "lr": lr, "base_lr": lr, "name": "unet"}]


def run(optimizer, loss_of, steps: int) -> list[float]:
    losses = []
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        with in_float32(parameters, step):
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(SCHEDULE_FREE))
def test_looking_at_averaged_weights_leaves_no_trace(name, dtype):
    weight, loss_of = problem()
    weight.data = weight.data.to(dtype)
    optimizer = create_optimizer(OPTIMIZER.validate_python({"name": name}), groups(weight, name))
    run(optimizer, lambda: loss_of(weight), 20)
    before = weight.detach().clone()
    with averaged_weights(optimizer):
        assert not torch.equal(weight, before.float())
    assert torch.equal(weight, before)
    run(optimizer, lambda: loss_of(weight), 1)  # and it trains on


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s["name"])
def test_lowers_the_loss_of_weights_in_bf16_too(settings):
    weight, loss_of = problem()
    weight.data = weight.data.bfloat16()
    optimizer = create_optimizer(OPTIMIZER.validate_python(settings), groups(weight, settings["name"]))
    losses = run(optimizer, lambda: loss_of(weight), 60)
    assert weight.dtype == torch.bfloat16
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s["name"])
def test_a_part_without_gradients_stays_and_does_not_stop_the_others(settings):
    """As text encoders do when they stop: the group that stops is the first, whose rate some take for all."""
    frozen, _ = problem(1)
    weight, loss_of = problem()
    both = [
        {**groups(p, settings["name"])[0], "name": part} for p, part in ((frozen, "text_encoder"), (weight, "unet"))
    ]
    optimizer = create_optimizer(OPTIMIZER.validate_python(settings), both)
    run(optimizer, lambda: loss_of(weight) + frozen.square().mean(), 3)
    freeze_text_encoders(optimizer)
    before, other = frozen.detach().clone(), weight.detach().clone()
    run(optimizer, lambda: loss_of(weight), 3)
    assert torch.equal(frozen, before)
    assert not torch.equal(weight, other)
    rates = current_rates(optimizer)
    assert rates["text_encoder"] == 0.0
    assert rates["unet"] > 0


def test_muon_takes_matrices_and_gives_the_rest_to_adamw():
    shapes = {"down": (4, 6), "conv": (4, 3, 3, 3), "length": (6, 1), "bias": (5,), "rank 1": (1, 6)}
    parameters = {name: torch.nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}
    group = {"params": list(parameters.values()), "lr": 1e-3, "base_lr": 1e-3, "name": "unet"}
    optimizer = create_optimizer(OPTIMIZER.validate_python({"name": "Muon"}), [group])
    run(optimizer, lambda: sum(p.square().sum() for p in parameters.values()), 1)
    assert {name for name, p in parameters.items() if "momentum_buffer" in optimizer.state[p]} == {"down", "conv"}
    assert {name for name, p in parameters.items() if "exp_avg" in optimizer.state[p]} == {"length", "bias", "rank 1"}
    assert current_rates(optimizer) == {"unet": 1e-3}


def test_a_step_of_muon_has_the_size_of_one_of_adamw():
    """Moonlight's scale: the root mean square of an update is 0.2 times the rate, like AdamW's in long training."""
    weight = torch.nn.Parameter(torch.zeros(64, 96))
    chosen = OPTIMIZER.validate_python({"name": "Muon", "weight_decay": 0.0})
    optimizer = create_optimizer(chosen, groups(weight, "Muon"))
    x = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    run(optimizer, lambda: (weight * x).sum(), 1)
    assert weight.square().mean().sqrt().item() == pytest.approx(0.2 * 1e-2, rel=0.3)


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
