"""Masks, prior preservation and compact source models on Stable Diffusion 2, SDXL and FLUX.1: no code knows which."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lora_core.events import CheckpointSaved, Stop
from lora_core.families.compact import CompactLinear
from lora_core.settings import RunSettings
from lora_core.train.loop import prepare
from lora_core.train.randomness import generator
from lora_core.train.session import Session, batch_loss
from tests.models_flux import T5_LENGTH, tiny_flux_folder
from tests.models_sdxl import tiny_file
from tests.train.test_loop import At, changed, events_of, final, only, weights
from tests.train.test_reference_step import run_to_end

families = pytest.mark.parametrize("family", ["sd2", "sdxl", "flux"])


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("models")
    files = {
        family: {"base": str(tiny_file(folder / f"{family}.safetensors", family)), "prediction_type": "epsilon"}
        for family in ("sd2", "sdxl")
    }
    return files | {"flux": {"base": str(tiny_flux_folder(folder / "flux")), "t5_max_token_length": T5_LENGTH}}


@pytest.fixture
def settings(models, family: str, tmp_path: Path) -> RunSettings:
    """Two pictures of one size that are seen through in their right half."""
    images = tmp_path / "train" / "1_usu bear"
    images.mkdir(parents=True)
    alpha = Image.new("L", (64, 64), 255)
    alpha.paste(0, (32, 0, 64, 64))
    for number in range(2):
        picture = Image.radial_gradient("L").resize((64, 64)).convert("RGB").rotate(45 * number)
        picture.putalpha(alpha)
        picture.save(images / f"{number}.png")
    return RunSettings(
        model={"family": family} | models[family],
        dataset={"train_dir": images.parent, "resolution": "64", "min_bucket_reso": 32, "bucket_reso_steps": 32},
        network={"rank": 2, "alpha": 2},
        train={"epochs": 1, "train_batch_size": 2, "mixed_precision": "no", "seed": 0},
        save={"output_dir": tmp_path / "out", "output_name": "usu"},
    )


def stirred(settings: RunSettings) -> Session:
    """A session whose adapters change something."""
    session = run_to_end(prepare(settings))
    draws = torch.Generator().manual_seed(1)
    for parameter in session.network.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=draws))
    return session


def loss_of(session: Session, masks_B1HW: torch.Tensor | None = None, **loss) -> float:
    """The loss of the first batch, with other masks or other settings of the loss."""
    batch = replace(session.feed(1, 0), masks_B1HW=masks_B1HW)
    session = replace(session, settings=changed(session.settings, loss=loss))
    return batch_loss(session, batch, generator(0, "noise", 1, 0)).item()


@families
def test_a_mask_keeps_the_loss_of_its_own_half(settings, family: str):
    session = stirred(changed(settings, loss={"masked_loss": "alpha"}))
    masks = session.feed(1, 0).masks_B1HW
    half = masks.shape[-1] // 2
    assert masks.min() == 0
    assert torch.equal(masks[..., half:], torch.zeros_like(masks[..., half:]))
    left, right, whole = loss_of(session, masks), loss_of(session, 1 - masks), loss_of(session)
    assert left != pytest.approx(right, rel=1e-2)
    share = masks.mean().item()
    assert share * left + (1 - share) * right == pytest.approx(whole, rel=1e-5)
    assert loss_of(session, torch.ones_like(masks)) == pytest.approx(whole, rel=1e-6)


@families
@pytest.mark.parametrize("texts", [False, True], ids=["texts kept", "texts learned"])
def test_prior_preservation_is_nothing_at_the_start_and_then_grows_with_its_weight(settings, family: str, texts: bool):
    own = {"loss": {"prior_preservation": 0.5, "prior_words": "bear"}, "train": {"train_text_encoder": texts}}
    new = run_to_end(prepare(changed(settings, **own)))
    assert loss_of(new, prior_preservation=0.5) == pytest.approx(loss_of(new, prior_preservation=None), rel=1e-6)
    session = stirred(changed(settings, **own))
    plain, once, twice = (loss_of(session, prior_preservation=weight) for weight in (None, 0.5, 1.0))
    assert once > plain * 1.0001
    assert twice - plain == pytest.approx(2 * (once - plain), rel=1e-3)


@families
@pytest.mark.parametrize(("storage", "allowed"), [("int8", 0.01), ("nf4", 0.1)])
def test_a_compact_source_model_answers_nearly_as_the_full_one(settings, family: str, storage: str, allowed: float):
    full, compact = stirred(settings), stirred(changed(settings, train={"base_precision": storage}))
    kept = [m for m in compact.components.denoiser.modules() if isinstance(m, CompactLinear)]
    assert kept
    assert len({m.storage for m in kept}) == 1
    assert loss_of(compact) == pytest.approx(loss_of(full), rel=allowed)
    assert loss_of(compact) != loss_of(full)


@families
def test_resumed_on_a_compact_source_model_a_run_ends_with_the_same_file(settings, tmp_path, family: str):
    settings = changed(settings, train={"base_precision": "int8", "epochs": 4, "gradient_checkpointing": True})
    whole = changed(settings, save={"output_dir": tmp_path / "whole"})
    events_of(whole)
    stopped = events_of(settings, At(step2=Stop(save=True)))
    state = only(stopped, CheckpointSaved)[-1].state
    events_of(changed(settings, save={"resume": state}))
    assert weights(final(settings)) == weights(final(whole))


@families
def test_base_weights_are_merged_into_a_compact_source_model(settings, tmp_path, family: str):
    events_of(changed(settings, train={"learning_rate": 0.1}))
    over = {"network": {"base_weights": f"{final(settings)}:1"}, "save": {"output_name": "second"}}
    plain = loss_of(run_to_end(prepare(settings)))
    full = loss_of(run_to_end(prepare(changed(settings, **over))))
    compact = loss_of(run_to_end(prepare(changed(settings, **over, train={"base_precision": "int8"}))))
    assert abs(full - plain) > 0.05 * plain
    assert compact == pytest.approx(full, rel=0.02)
