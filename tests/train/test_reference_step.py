"""One training step against the plain way of doing it with diffusers and peft: the same loss, the same gradients.

A family takes part with a row in ``REFERENCES``: how to make its small model, and how diffusers' pipeline computes the
loss. Everything else is the same for all: our file of the LoRA goes into the pipeline by ``load_lora_weights``, and
every number's gradient is compared under the name it has in the file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from peft.tuners.lora import LoraLayer
from PIL import Image
from torch import Tensor

from lora_core.adapters.files import save_lora
from lora_core.data.dataset import Batch
from lora_core.merge.names import locate
from lora_core.settings import RunSettings
from lora_core.train.loop import prepare
from lora_core.train.randomness import generator
from lora_core.train.session import Session, batch_loss
from tests.models import tiny_sd_folder
from tests.models_sdxl import tiny_folder

CAPTIONS = {"0": "usu bear, red, round", "1": "usu bear in the snow"}


@dataclass(frozen=True)
class Reference:
    """How one family is trained by hand."""

    family: str
    make: Callable[[Path], Path]
    pipeline: type
    loss: Callable[[Any, Batch, torch.Generator], Tensor]
    """(pipeline with the LoRA, batch, generator of the step's draws) -> loss."""
    model: tuple[tuple[str, object], ...] = ()
    """Further settings of the model."""


def draws(pipe: Any, batch: Batch, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Clean latents, timesteps and noise, drawn one after the other as a step does."""
    assert batch.pixels_BCHW is not None
    posterior = pipe.vae.encode(batch.pixels_BCHW).latent_dist
    x0 = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=random)
    t = torch.randint(0, 1000, (len(x0),), generator=random)
    return x0 * pipe.vae.config.scaling_factor, t, torch.randn(x0.shape, generator=random)


def compared(pipe: Any, prediction: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    velocity = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(x0, noise, t) if velocity else noise
    return torch.nn.functional.mse_loss(prediction, target)


def noisy_of(pipe: Any, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    return DDPMScheduler.from_config(pipe.scheduler.config).add_noise(x0, noise, t)


def sd_loss(pipe: Any, batch: Batch, random: torch.Generator) -> Tensor:
    x0, t, noise = draws(pipe, batch, random)
    hidden = pipe.encode_prompt(batch.captions, "cpu", 1, False)[0]
    return compared(pipe, pipe.unet(noisy_of(pipe, x0, noise, t), t, hidden).sample, x0, noise, t)


def sdxl_loss(pipe: Any, batch: Batch, random: torch.Generator) -> Tensor:
    x0, t, noise = draws(pipe, batch, random)
    hidden, _, pooled, _ = pipe.encode_prompt(batch.captions, do_classifier_free_guidance=False)
    frames = [frame_of_file(path) for path in batch.paths]
    added = {"text_embeds": pooled, "time_ids": torch.tensor(frames, dtype=torch.float32)}
    return compared(
        pipe, pipe.unet(noisy_of(pipe, x0, noise, t), t, hidden, added_cond_kwargs=added).sample, x0, noise, t
    )


def frame_of_file(path: Path) -> list[int]:
    """Original height and width, top and left of the crop, height and width of the bucket, for the pictures below."""
    width, height = Image.open(path).size
    assert (width, height) == (100, 72)
    # scaled to a height of 64 (88.9, so 89 wide); the bucket is 64 x 64: 25 pixels go, 12 of them on the left
    return [72, 100, 0, 12, 64, 64]


REFERENCES = {
    "sd1": Reference("sd1", tiny_sd_folder, StableDiffusionPipeline, sd_loss),
    "sd2": Reference("sd2", partial(tiny_folder, family="sd2"), StableDiffusionPipeline, sd_loss),
    "sd2 v": Reference(
        "sd2", partial(tiny_folder, family="sd2", prediction_type="v_prediction"), StableDiffusionPipeline, sd_loss
    ),
    "sdxl": Reference("sdxl", partial(tiny_folder, family="sdxl"), StableDiffusionXLPipeline, sdxl_loss),
    "sdxl v, from pure noise": Reference(
        "sdxl",
        partial(tiny_folder, family="sdxl", prediction_type="v_prediction", rescale_betas_zero_snr=True),
        StableDiffusionXLPipeline,
        sdxl_loss,
    ),
}


@pytest.fixture(params=REFERENCES)
def reference(request) -> Reference:
    return REFERENCES[request.param]


@pytest.fixture
def session(reference: Reference, tmp_path: Path) -> Session:
    """A run at its start, with a LoRA that already does something. Images are encoded at each step."""
    images = tmp_path / "images" / "1_usu bear"
    images.mkdir(parents=True)
    for name, caption in CAPTIONS.items():
        colours = torch.randint(0, 255, (9, 12, 3), generator=torch.Generator().manual_seed(int(name)))
        picture = Image.fromarray(colours.to(torch.uint8).numpy()).resize((100, 72))
        picture.save(images / f"{name}.png")
        (images / f"{name}.txt").write_text(caption, encoding="utf-8")
    settings = RunSettings(
        model={"family": reference.family, "base": str(reference.make(tmp_path / "model")), **dict(reference.model)},
        dataset={"train_dir": images.parent, "resolution": "64", "enable_bucket": False, "cache_latents": "off"},
        network={"rank": 4, "alpha": 2},
        optimizer={"name": "AdamW"},
        train={"epochs": 1, "train_batch_size": 2, "mixed_precision": "no", "seed": 0, "device": "cpu"},
        save={"output_dir": tmp_path / "out", "output_name": "usu"},
    )
    session = run_to_end(prepare(settings))
    draw = torch.Generator().manual_seed(3)
    for adapter in session.network:
        adapter.up.data.normal_(0, 0.1, generator=draw)
    return session


def run_to_end(steps: Any) -> Any:
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


@pytest.fixture
def pipe(reference: Reference, session: Session, tmp_path: Path) -> Any:
    """diffusers' pipeline with the LoRA, whose numbers may have gradients."""
    save_lora(session.network, {}, tmp_path / "usu.safetensors", "float")
    pipe = reference.pipeline.from_pretrained(session.settings.model.base, local_files_only=True)
    pipe.load_lora_weights(tmp_path, weight_name="usu.safetensors")
    for layer in layers_of(pipe, reference.family).values():
        layer.requires_grad_(True)
    return pipe


def layers_of(pipe: Any, family: str) -> dict[str, LoraLayer]:
    """diffusers' LoRA layers by the names that files of the family have for them."""
    parts = ("unet", "transformer", "text_encoder", "text_encoder_2")
    found = {}
    for part in parts:
        for place, module in getattr(getattr(pipe, part, None), "named_modules", dict)() or ():
            if isinstance(module, LoraLayer):
                found[locate(f"{part}.{place.removeprefix('text_model.')}", family).name] = module
    return found


def test_loss_and_gradients_are_those_of_diffusers(reference: Reference, session: Session, pipe: Any):
    batch = session.feed(1, 0)
    ours = batch_loss(session, batch, generator(0, "noise", 1, 0))
    theirs = reference.loss(pipe, batch, generator(0, "noise", 1, 0))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)
    ours.backward()
    theirs.backward()
    layers = layers_of(pipe, reference.family)
    assert layers.keys() == {adapter.name for adapter in session.network}
    largest = {}
    for adapter in session.network:
        (own,) = layers[adapter.name].scaling
        pairs = ((adapter.down, layers[adapter.name].lora_A[own]), (adapter.up, layers[adapter.name].lora_B[own]))
        for parameter, module in pairs:
            found, wanted = gradient(parameter), gradient(module.weight).view_as(parameter)
            difference = (found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-7)
            assert difference < 1e-4, (adapter.name, difference)
            largest[adapter.part] = max(largest.get(adapter.part, 0.0), wanted.abs().max().item())
    assert min(largest.values()) > 1e-6, "every part learns"


def gradient(parameter: Tensor) -> Tensor:
    """None is nought: SDXL's last text layers are not read."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
