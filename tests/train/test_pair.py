"""A copier LoRA of two pictures: the formulas written out, the two directions, the mask, and a run from end to end."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image, ImageDraw

from lora_core.adapters import AdapterNetwork
from lora_core.data.dataset import Batch
from lora_core.errors import ProblemsFound
from lora_core.events import CheckpointSaved, RunFinished, StepDone
from lora_core.families import FAMILIES
from lora_core.flow import FlowMatching
from lora_core.noise import Ddpm
from lora_core.settings import RunSettings, Sd1Model
from lora_core.train.distributed import Team
from lora_core.train.loop import prepare, train
from lora_core.train.pair import PairLatents, area_loss, changed_area, facing, pair_loss, turned
from lora_core.train.session import encode_captions
from tests.models import tiny_sd_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_sd_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A grey square, and the same with a red dot in a corner."""
    root = tmp_path_factory.mktemp("pair")
    picture = Image.new("RGB", (64, 64), "#888888")
    ImageDraw.Draw(picture).rectangle((8, 30, 50, 60), fill="#3355aa")
    picture.save(root / "before.png")
    ImageDraw.Draw(picture).ellipse((40, 4, 60, 24), fill="red")
    picture.save(root / "after.png")
    return root


def latents(seed=0):
    generator = torch.Generator().manual_seed(seed)
    before = torch.randn(1, 4, 8, 8, generator=generator)
    after = before.clone()
    after[..., :3, :3] += 1.0
    return before, after


def test_the_mask_is_where_the_pictures_differ():
    mask = changed_area(*latents())
    assert mask.shape == (1, 1, 8, 8)
    assert float(mask[0, 0, 0, 0]) == 1
    assert float(mask[0, 0, 7, 7]) == 0
    assert 0 < float(mask.mean()) < 0.6


def test_pictures_that_are_alike_have_no_empty_mask():
    before, _ = latents()
    assert float(changed_area(before, before).min()) == 1


@pytest.mark.parametrize("noise", [Ddpm(), Ddpm(prediction_type="v_prediction"), FlowMatching()], ids=str)
def test_the_target_stands_for_the_other_pictures_estimate_plus_the_difference(noise):
    """x0 of what is wanted for B = x0 of the answer for A + x_B - x_A, whatever the model predicts."""
    generator = torch.Generator().manual_seed(1)
    x_A, x_B, epsilon = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(3))
    t = noise.sample_timesteps(2, generator, 16)
    z_A, z_B = (noise.add_noise(x, epsilon, t) for x in (x_A, x_B))
    answer = torch.randn(2, 4, 8, 8, generator=generator)
    wanted = turned(answer, here=noise.target(x_B, epsilon, t), other=noise.target(x_A, epsilon, t))
    expected = estimate(noise, z_A, answer, t) + x_B - x_A
    torch.testing.assert_close(estimate(noise, z_B, wanted, t), expected, rtol=1e-3, atol=1e-3)


def estimate(noise, z, answer, t):
    """The clean picture that an answer stands for."""
    if isinstance(noise, FlowMatching):
        return z - (t / noise.steps).view(-1, 1, 1, 1) * answer
    a = noise.alpha_bar[t].view(-1, 1, 1, 1).double()
    if noise.prediction_type == "epsilon":
        return (z - (1 - a).sqrt() * answer) / a.sqrt()
    return a.sqrt() * z - (1 - a).sqrt() * answer


def test_each_area_counts_by_its_own_size():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :2, :2] = 1
    wanted = torch.zeros(1, 4, 8, 8)
    assert float(area_loss(mask.expand(1, 4, 8, 8), wanted, mask, 1.0)) == pytest.approx(1)
    assert float(area_loss(1 - mask.expand(1, 4, 8, 8), wanted, mask, 3.0)) == pytest.approx(3)


@pytest.fixture
def session(folder):
    family = FAMILIES["sd1"]
    settings = RunSettings(model={"base": str(folder)}, network={"rank": 2, "alpha": 2}, loss={"pair_outside": 0.5})
    components = family.load(Sd1Model(base=str(folder)), dtype=torch.float32, device=torch.device("cpu"))
    network = AdapterNetwork.create(family.adapter_targets(components, text_parts=()), settings.network, seed=0)
    generator = torch.Generator().manual_seed(5)
    for parameter in network.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    yield SimpleNamespace(
        settings=settings,
        family=family,
        components=components,
        network=network.attach(),
        noise=family.noise_process(components),
        texts=None,
        stopped_texts=None,
        device=torch.device("cpu"),
        team=Team(),
        pairs={Path("b.png"): PairLatents.of(*latents())},
    )
    network.detach()


@pytest.mark.parametrize("strength", [1.0, -1.0])
def test_the_loss_equals_the_formula_written_out(session, strength):
    session.network.multiplier = strength
    batch = Batch(["a bear", "a bear"], torch.ones(2), [Path("b.png")] * 2)
    found = pair_loss(session, batch, torch.Generator().manual_seed(7), encode_captions)
    assert session.network.multiplier == strength

    random = torch.Generator().manual_seed(7)
    t = torch.randint(0, 1000, (2,), generator=random)
    epsilon = torch.randn(2, 4, 8, 8, generator=random)
    x_A, x_B = (x.expand(2, -1, -1, -1) for x in latents())
    here, other = (x_B, x_A) if strength > 0 else (x_A, x_B)
    told = session.family.encode_prompts(session.components, batch.captions, session.settings.model)

    def answer(x):
        return session.family.predict(session.components, session.noise.add_noise(x, epsilon, t), t, told)

    session.network.detach()
    with torch.no_grad():
        base_here, base_other = answer(here), answer(other)
    session.network.attach()
    mask = session.pairs[Path("b.png")].mask_B1HW
    error = (answer(here) - (mask * base_other + (1 - mask) * base_here)).square().mean(1, keepdim=True)
    expected = (error * mask).mean() / mask.mean() + 0.5 * (error * (1 - mask)).mean() / (1 - mask).mean()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("forward", "strength"), [(True, 1), (False, -1), (None, 1)])
def test_a_direction_is_a_strength(session, forward, strength):
    with facing(session.network, forward):
        assert session.network.multiplier == strength
    assert session.network.multiplier == 1


# ---- a run -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(folder, pictures, tmp_path):
    return RunSettings(
        model={"base": str(folder)},
        dataset={
            "pair_before": pictures / "before.png",
            "pair_after": pictures / "after.png",
            "resolution": "64",
            "min_bucket_reso": 32,
            "bucket_reso_steps": 32,
            "flip_aug": True,
            "random_crop": True,
        },
        network={"rank": 2, "alpha": 2},
        optimizer={"name": "AdamW"},
        train={
            "epochs": 2,
            "train_batch_size": 2,
            "learning_rate": 1e-3,
            "mixed_precision": "no",
            "seed": 0,
            "train_text_encoder": False,
        },
        save={"output_dir": tmp_path / "out", "output_name": "copier", "save_precision": "float"},
    )


def numbers(events):
    return [event.loss for event in events if isinstance(event, StepDone)]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_run_trains_the_pair_and_saves_a_lora(settings, checkpointing):
    settings.train.gradient_checkpointing = checkpointing
    events = list(train(settings))
    assert [event.reason for event in events if isinstance(event, RunFinished)] == ["completed"]
    assert any(isinstance(event, CheckpointSaved) for event in events)
    assert sum(1 for _ in numbers(events)) >= 1
    assert next(event for event in events if isinstance(event, RunFinished)).step == 10


def test_gradient_checkpointing_changes_nothing(settings, tmp_path):
    from safetensors.torch import load_file

    weights = []
    for checkpointing in (False, True):
        settings.train.gradient_checkpointing = checkpointing
        settings.save.output_dir = tmp_path / str(checkpointing)
        list(train(settings))
        weights.append(load_file(settings.save.output_dir / "copier.safetensors"))
    assert any(float(tensor.abs().max()) > 0 for key, tensor in weights[0].items() if "lora_up" in key)
    for key, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][key], rtol=1e-4, atol=1e-6)


def prepared(settings):
    steps = prepare(settings)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def test_the_directions_take_turns(settings):
    session = prepared(settings)
    assert [session.forward(session.feed(1, 0), number) for number in range(4)] == [False, True, False, True]


def test_other_pictures_cannot_be_resumed(settings, pictures):
    def fingerprint(**update):
        changed = settings.model_copy(update={"dataset": settings.dataset.model_copy(update=update)})
        return prepared(changed).data_facts.fingerprint

    first = fingerprint()
    assert fingerprint(pair_before=pictures / "after.png", pair_after=pictures / "before.png") != first


def test_a_run_with_one_picture_only_does_not_start(settings):
    settings.dataset.pair_after = None
    with pytest.raises(ProblemsFound) as found:
        list(train(settings))
    assert [problem.key for problem in found.value.problems] == ["data.pair_one_only"]


# ---- folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def of_folders(settings, tmp_path):
    """Settings for a folder of two bluish pictures, and one of two reddish ones by the names that are given."""

    def make(*names):
        for folder, files, dot in (("a", ("1", "2"), "blue"), ("b", names, "red")):
            (tmp_path / folder).mkdir()
            for number, name in enumerate(files):
                picture = Image.new("RGB", (64, 64), (120, 120 + 40 * number, 120))
                ImageDraw.Draw(picture).ellipse((20 + 10 * number, 10, 50, 40), fill=dot)
                picture.save(tmp_path / folder / f"{name}.png")
        update = {"pair_before": tmp_path / "a", "pair_after": tmp_path / "b"}
        return settings.model_copy(update={"dataset": settings.dataset.model_copy(update=update)})

    return make


def test_every_pair_of_two_folders_is_trained_as_a_pair(of_folders, tmp_path):
    settings = of_folders("2", "1")
    session = prepared(settings)
    assert {path.name for path in session.pairs} == {"1.png", "2.png"}
    for after, pair in session.pairs.items():
        own = settings.dataset.model_copy(
            update={"pair_before": tmp_path / "a" / after.name, "pair_after": after},
        )
        (alone,) = prepared(settings.model_copy(update={"dataset": own})).pairs.values()
        assert torch.equal(pair.before_BCHW, alone.before_BCHW)
        assert torch.equal(pair.mask_B1HW, alone.mask_B1HW)
    assert [event.reason for event in train(settings) if isinstance(event, RunFinished)] == ["completed"]


def test_opposites_are_drawn_at_opposite_strengths(of_folders):
    """The ordinary loss, at -1 for the first folder and at 1 for the second, in batches of one folder only."""
    settings = of_folders("x", "y")
    session = prepared(settings)
    assert session.pairs is None
    sides = []
    for number in range(session.plan.batches_per_epoch):
        batch = session.feed(1, number)
        (folder,) = {path.parent.name for path in batch.paths}
        assert session.forward(batch, number) == (folder == "b")
        sides.append(folder)
    assert sides.count("a") == sides.count("b") > 0
    assert [event.reason for event in train(settings) if isinstance(event, RunFinished)] == ["completed"]
