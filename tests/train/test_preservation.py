"""Prior preservation: the gradient written out, the source model untouched, and that alone it teaches nothing."""

from types import SimpleNamespace

import pytest
import torch

from lora_core.adapters import AdapterNetwork
from lora_core.data.dataset import Batch
from lora_core.families import FAMILIES
from lora_core.settings import RunSettings, Sd1Model
from lora_core.train.distributed import Team
from lora_core.train.preservation import with_class_words, without_adapters
from lora_core.train.session import batch_loss
from tests.models import tiny_sd_folder

CAPTIONS = ["usu bear, red", "usu bear"]
ALGORITHMS = ["lora", "locon", "loha", "lokr", "dora"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_sd_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def components(folder):
    return FAMILIES["sd1"].load(Sd1Model(base=str(folder)), dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture
def session(folder, components, request):
    """As much of a session as a step's arithmetic needs, with both parts trained."""
    settings = RunSettings(
        model={"base": str(folder)},
        network={"algo": getattr(request, "param", "lora"), "rank": 2, "alpha": 2},
        loss={"prior_preservation": 0.5, "prior_words": "bear"},
    )
    family = FAMILIES["sd1"]
    targets = family.adapter_targets(components, text_parts=("text_encoder",))
    network = AdapterNetwork.create(targets, settings.network, seed=0).attach()
    network.train()
    yield SimpleNamespace(
        settings=settings,
        family=family,
        components=components,
        network=network,
        noise=family.noise_process(components),
        texts=None,
        stopped_texts=None,
        team=Team(),
        pairs=None,
        slider=None,
        device=torch.device("cpu"),
    )
    network.detach()


def batch(weights=(1.0, 1.0)):
    generator = torch.Generator().manual_seed(3)
    mean = torch.randn(2, 4, 8, 8, generator=generator)
    return Batch(CAPTIONS, torch.tensor(weights), [], mean_BCHW=mean, std_BCHW=torch.full_like(mean, 0.1))


def trained(network):
    """Numbers as after some training: the adapters change something."""
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def gradients(session, loss):
    session.network.zero_grad()
    loss.backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in session.network.parameters()]


def draws():
    return torch.Generator().manual_seed(7)


def changed(session, **loss):
    settings = session.settings
    return SimpleNamespace(
        **vars(session) | {"settings": settings.model_copy(update={"loss": settings.loss.model_copy(update=loss)})}
    )


def inputs(session):
    """Noisy latents, times, captions' answers, written out once more."""
    random, data = draws(), batch()
    draw = torch.randn(data.mean_BCHW.shape, generator=random)
    x0 = session.family.scale_latents(session.components, data.mean_BCHW + data.std_BCHW * draw)
    t = torch.randint(0, 1000, (2,), generator=random)
    noise = torch.randn(x0.shape, generator=random)
    noisy = session.noise.add_noise(x0, noise, t)

    def answer(captions):
        told = session.family.encode_prompts(session.components, captions, session.settings.model)
        return session.family.predict(session.components, noisy, t, told)

    return answer, noise


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_loss_and_gradient_equal_the_formula_written_out(session, weight):
    session = changed(session, prior_preservation=weight)
    trained(session.network)
    found = batch_loss(session, batch(), draws())
    got = gradients(session, found)

    answer, noise = inputs(session)
    session.network.detach()
    with torch.no_grad():
        base = answer(["bear", "bear"])
    session.network.attach()
    usual = (answer(CAPTIONS) - noise).square().mean()
    kept = (answer(["bear", "bear"]) - base).square().mean()
    assert float(kept.detach()) > 1e-6
    expected = usual + weight * kept
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    for ours, theirs in zip(got, gradients(session, expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("session", ALGORITHMS, indirect=True)
def test_alone_it_leaves_a_new_lora_without_effect(session):
    answer, _ = inputs(session)
    # No AdamW: it takes a rounding error of DoRA, whose lengths are trained, for a gradient like any other.
    optimizer = torch.optim.SGD(session.network.parameters(), lr=1e-1)
    for _ in range(3):
        prediction, target = with_class_words(session.network, answer, "bear", 2)
        loss = (prediction - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        after = answer(CAPTIONS)
        with without_adapters(session.network):
            torch.testing.assert_close(after, answer(CAPTIONS), rtol=0, atol=1e-5)


@pytest.mark.parametrize("session", ALGORITHMS, indirect=True)
def test_without_adapters_it_is_the_source_model_text_encoder_included(session):
    trained(session.network)
    answer, _ = inputs(session)
    with torch.no_grad():
        with without_adapters(session.network):
            inside = answer(CAPTIONS)
        with_them = answer(CAPTIONS)
        session.network.detach()
        bare = answer(CAPTIONS)
        session.network.attach()
    assert torch.equal(inside, bare)
    assert not torch.equal(inside, with_them)
    assert session.network.multiplier == 1.0


def test_the_target_carries_no_gradient(session):
    trained(session.network)
    answer, _ = inputs(session)
    prediction, target = with_class_words(session.network, answer, "", 2)
    assert prediction.requires_grad
    assert not target.requires_grad


def test_it_pulls_a_trained_lora_back_on_the_class_words(session):
    trained(session.network)
    answer, _ = inputs(session)
    optimizer = torch.optim.SGD(session.network.parameters(), lr=1e-2)
    losses = []
    for _ in range(4):
        prediction, target = with_class_words(session.network, answer, "bear", 2)
        loss = (prediction - target).square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_a_samples_weight_counts_for_both_terms(session):
    trained(session.network)
    first, second, both = (float(batch_loss(session, batch(w), draws()).detach()) for w in ((1, 0), (0, 1), (0.5, 2)))
    assert both == pytest.approx(0.5 * first + 2 * second, rel=1e-4)


def test_off_it_asks_the_model_once(session, monkeypatch):
    asked = []
    predict = type(session.family).predict
    monkeypatch.setattr(
        type(session.family), "predict", lambda *given, **named: asked.append(1) or predict(*given, **named)
    )
    batch_loss(changed(session, prior_preservation=None), batch(), draws())
    assert len(asked) == 1
    batch_loss(session, batch(), draws())
    assert len(asked) == 4
