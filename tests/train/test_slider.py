"""A concept slider from prompts: the formula written out, the two directions, every family, runs from end to end."""

from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image

from lora_core.errors import ProblemsFound
from lora_core.events import CheckpointSaved, RunStarted, Stop
from lora_core.families.components import Components
from lora_core.flow import FlowMatching
from lora_core.noise import Ddpm
from lora_core.settings import RunSettings, SliderSettings
from lora_core.slider import wordings
from lora_core.train.loop import prepare
from lora_core.train.pair import facing
from lora_core.train.randomness import generator
from lora_core.train.session import batch_loss, train_step
from lora_core.train.slider import PromptSlider, steered
from tests.models import tiny_sd_folder
from tests.models_flux import T5_LENGTH, tiny_flux_folder
from tests.models_sdxl import tiny_file
from tests.train.test_loop import At, changed, events_of, final, only, weights
from tests.train.test_pair import estimate
from tests.train.test_reference_step import run_to_end

FAMILIES = ("sd1", "sd2", "sdxl", "flux")
ETA, PICTURES = 3.0, 6


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """Gives the tiny model of a family, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("models")

    @cache
    def made(family: str) -> Path:
        if family == "flux":
            return tiny_flux_folder(folder / family)
        return (
            tiny_sd_folder(folder / family) if family == "sd1" else tiny_file(folder / f"{family}.safetensors", family)
        )

    return made


@pytest.fixture(autouse=True)
def few(monkeypatch):
    for module in ("slider", "plan"):
        monkeypatch.setattr(f"lora_core.{module}.PICTURES", PICTURES)


@pytest.fixture
def family() -> str:
    return "sd1"


@pytest.fixture
def settings(model_of, family, tmp_path) -> RunSettings:
    length = {"t5_max_token_length": T5_LENGTH} if family == "flux" else {}
    return RunSettings(
        model={"family": family, "base": str(model_of(family)), **length},
        dataset={"resolution": "64", "min_bucket_reso": 32, "bucket_reso_steps": 32},
        slider={"target": "bear", "more": "red bear", "less": "snow bear", "guidance": ETA},
        network={"rank": 4, "alpha": 4},
        optimizer={"name": "AdamW"},
        train={
            "epochs": 1,
            "train_batch_size": 4,
            "learning_rate": 3e-3,
            "mixed_precision": "no",
            "seed": 0,
            "train_text_encoder": False,
        },
        sample={"steps": 1, "guidance": 2.0},
        save={"output_dir": tmp_path / "out", "output_name": "usu", "save_precision": "float"},
    )


def stir(network) -> None:
    draws = torch.Generator().manual_seed(1)
    for adapter in network:
        adapter.up.data.normal_(0, 0.1, generator=draws)


def loss_of(session, *, forward: bool):
    with facing(session.network, forward):
        return batch_loss(session, session.feed(1, 0), generator(0, "noise", 1, 0))


# ---- the formula -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [Ddpm(), Ddpm(prediction_type="v_prediction"), FlowMatching()], ids=str)
def test_the_direction_is_the_same_whatever_the_model_predicts(noise):
    """x0 of what is wanted = x0(target) + eta (x0(more) - x0(less)) for noise, velocity and flow."""
    draws = torch.Generator().manual_seed(1)
    z, *answers = (torch.randn(2, 4, 8, 8, generator=draws, dtype=torch.float64) for _ in range(4))
    t = noise.sample_timesteps(2, draws, 16)
    target, more, less = (estimate(noise, z, answer, t) for answer in answers)
    found = estimate(noise, z, steered(*answers, ETA), t)
    torch.testing.assert_close(found, target + ETA * (more - less))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("forward", [True, False])
def test_the_loss_equals_the_formula_written_out(settings, prediction, forward):
    """In float64, on the bare network of diffusers, with the draws made again."""
    settings = changed(settings, model={"prediction_type": prediction}, train={"train_batch_size": 4})
    session = run_to_end(prepare(settings))
    stir(session.network)
    found = loss_of(session, forward=forward)

    batch, draws = session.feed(1, 0), generator(0, "noise", 1, 0)
    x0 = batch.mean_BCHW.double() * session.components.vae.config.scaling_factor
    torch.randn(x0.shape, generator=draws)  # the draw from the VAE, whose spread is 0 here
    t = torch.randint(0, 1000, (4,), generator=draws)
    epsilon = torch.randn(x0.shape, generator=draws).double()
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    a = (1 - betas).cumprod(0)[t].view(-1, 1, 1, 1)
    z = a.sqrt() * x0 + (1 - a).sqrt() * epsilon

    def answer(prompt: str) -> torch.Tensor:
        told = session.family.encode_prompts(session.components, [prompt] * 4, settings.model).hidden.double()
        return unet(z, t, encoder_hidden_states=told).sample

    session.network.multiplier = 1.0 if forward else -1.0
    unet = session.components.denoiser.double()
    session.network.double()
    answered = answer("bear")
    session.network.detach()
    direction = ETA * (answer("red bear") - answer("snow bear"))
    wanted = answer("bear") + direction if forward else answer("bear") - direction
    torch.testing.assert_close(found.double(), (answered - wanted).square().mean(), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_at_the_first_step_both_directions_are_as_far_away(settings):
    session = run_to_end(prepare(settings))
    there, back = (loss_of(session, forward=forward).detach() for forward in (True, False))
    torch.testing.assert_close(there, back, rtol=1e-4, atol=0)
    assert float(there) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_both_directions(settings):
    """The same latents again and again: what is left to either side is less than half of it soon."""
    session = run_to_end(prepare(settings))
    optimizer = torch.optim.Adam(session.network.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        for forward in (True, False):
            with facing(session.network, forward):
                loss = batch_loss(session, session.feed(1, 0), generator(0, "noise", 1, 0))
                loss.backward()
            losses.append(loss.item())
        optimizer.step()
    assert max(losses[-2:]) < 0.5 * min(losses[:2]), losses


# ---- words and pictures ----------------------------------------------------------------------------------------------


def test_words_to_keep_apart_stand_in_front_of_all_three():
    slider = SliderSettings(target=" bear ", more="red bear", less="snow bear", keep="old\n\n young ")
    assert [(w.target, w.more, w.less) for w in wordings(slider)] == [
        ("bear", "red bear", "snow bear"),
        ("old bear", "old red bear", "old snow bear"),
        ("young bear", "young red bear", "young snow bear"),
    ]


def test_a_drawn_picture_is_asked_about_in_its_own_words(settings):
    settings = changed(settings, slider={"keep": "old"})
    slider, drawn = PromptSlider.of(settings), ["old bear", "bear"]
    assert slider.choose(drawn, torch.Generator()).tolist() == [1, 0]
    other = PromptSlider.of(changed(settings, dataset={"train_dir": "pictures"}))
    chosen = other.choose(["a bear in the snow"] * 100, torch.Generator().manual_seed(0))
    assert 20 < int(chosen.sum()) < 80


def test_the_pictures_are_the_source_models_and_the_same_each_time(settings):
    first = run_to_end(prepare(settings))
    data = first.feed.data
    assert data.latents_NCHW.shape == (PICTURES, 4, 8, 8)
    assert len({tuple(latent.flatten().tolist()) for latent in data.latents_NCHW}) == PICTURES
    again = run_to_end(prepare(changed(settings, train={"learning_rate": 1e-5}, network={"rank": 8})))
    assert torch.equal(again.feed.data.latents_NCHW, data.latents_NCHW)
    shown = [index for batch in data.stream(1, 0, seed=5) for index in where(batch, data)]
    assert sorted(shown) == list(range(PICTURES))
    (second,) = data.stream(1, 1, seed=5)
    assert where(second, data) == shown[4:]


def where(batch, data) -> list[int]:
    return [next(i for i, one in enumerate(data.latents_NCHW) if torch.equal(one, row)) for row in batch.mean_BCHW]


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_stopped_and_resumed_it_ends_with_the_file_of_an_unbroken_run(settings, tmp_path, family):
    settings = changed(settings, train={"train_batch_size": 2})
    whole = changed(settings, save={"output_dir": tmp_path / "whole"})
    events = events_of(whole)
    assert str(PICTURES) in "\n".join(only(events, RunStarted)[0].summary["en"])
    stopped = events_of(settings, At(step3=Stop(save=True)))
    events_of(changed(settings, save={"resume": only(stopped, CheckpointSaved)[-1].state}))
    assert weights(final(settings)) == weights(final(whole))


@pytest.mark.parametrize("change", [{"slider": {"more": "a bear"}}, {"sample": {"steps": 2}}], ids=str)
def test_a_run_with_another_slider_is_not_gone_on_with(settings, change):
    stopped = events_of(settings, At(step1=Stop(save=True)))
    resume = {"save": {"resume": only(stopped, CheckpointSaved)[-1].state}}
    with pytest.raises(ValueError, match="state"):
        events_of(changed(settings, **(change | resume)))


def test_the_text_encoder_makes_room_before_the_first_step(settings, monkeypatch):
    freed = []
    free = Components.free
    monkeypatch.setattr(Components, "free", lambda self, part: (freed.append(part), free(self, part)))
    session = run_to_end(prepare(settings))
    assert freed == ["text_encoder"]
    train_step(session, 0)
    assert "text_encoder" not in session.components.loaded


def test_the_pictures_of_a_folder_take_the_place_of_drawn_ones(settings, tmp_path):
    folder = tmp_path / "train" / "4_bear"
    folder.mkdir(parents=True)
    Image.linear_gradient("L").convert("RGB").resize((64, 64)).save(folder / "a.png")
    settings = changed(settings, dataset={"train_dir": folder.parent}, slider={"keep": "old"})
    session = run_to_end(prepare(settings))
    assert session.plan.train_samples == 4
    first = loss_of(session, forward=True).item()
    assert first > 0
    again = run_to_end(prepare(changed(settings, slider={"guidance": 2 * ETA})))
    assert loss_of(again, forward=True).item() == pytest.approx(4 * first, rel=1e-3)


def test_a_text_encoder_may_be_trained_too(settings):
    session = run_to_end(prepare(changed(settings, train={"train_text_encoder": True})))
    assert float(train_step(session, 0)) > 0
    assert any(adapter.up.any() for adapter in session.network if adapter.part == "text_encoder")


def test_class_words_can_be_held(settings):
    """Prior preservation is an anchor: a prompt whose answer stays that of the source model."""
    held = changed(settings, loss={"prior_preservation": 1.0, "prior_words": "snow"})
    plain, anchored = (run_to_end(prepare(one)) for one in (settings, held))
    for session in (plain, anchored):
        stir(session.network)
    assert loss_of(anchored, forward=True).item() > loss_of(plain, forward=True).item()


def test_a_run_without_a_way_back_does_not_start(settings):
    from lora_core.preflight import check

    found = check(changed(settings, slider={"less": ""}))
    assert [(problem.path, problem.key) for problem in found] == [("slider.less", "checks.slider_less")]
    with pytest.raises(ProblemsFound):
        events_of(changed(settings, slider={"target": ""}))
