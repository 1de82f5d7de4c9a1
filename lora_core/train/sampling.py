"""Pictures drawn while training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from lora_core.errors import UserError
from lora_core.events import EventBase, SampleSaved, StageChanged, Warned
from lora_core.generate.draw import draw, sample_file_name, save_png
from lora_core.generate.prompts import parse
from lora_core.i18n import LANGUAGES
from lora_core.settings import SampleSettings
from lora_core.train.distributed import leader_only
from lora_core.train.files import sample_folder
from lora_core.train.saving import finished_weights

if TYPE_CHECKING:
    from lora_core.train.session import Session


def sample_is_due(sample: SampleSettings, step: int, epoch: int, *, ends_epoch: bool, last: bool) -> bool:
    """Whether pictures are to be drawn after ``step`` steps. Always at the end, if there is a rhythm."""
    if not sample.prompts.strip():
        return False
    by_step = sample.every_n_steps is not None and step % sample.every_n_steps == 0
    by_epoch = sample.every_n_epochs is not None and ends_epoch and epoch % sample.every_n_epochs == 0
    rhythm = sample.every_n_steps is not None or sample.every_n_epochs is not None
    return by_step or by_epoch or (last and rhythm)


@leader_only
def draw_samples(session: "Session", *, step: int, epoch: int, now: bool = False) -> Iterator[EventBase]:
    """Draw every prompt and save it. Training goes on afterwards exactly as if this had not happened."""
    settings = session.settings
    prompts = parse(settings.sample.prompts)
    if not prompts:
        return
    total = session.plan.total_steps
    folder = sample_folder(settings.save)
    folder.mkdir(parents=True, exist_ok=True)
    by_step = now or settings.sample.every_n_epochs is None
    with finished_weights(session), drawing(session):
        for index, prompt in enumerate(prompts):
            yield StageChanged(stage="sampling", done=index, total=len(prompts))
            picture = draw(
                session.family, session.components, prompt, settings.sample, settings.model, encode=session.texts
            )
            name = sample_file_name(
                settings.save.output_name, picture, index=index, step=step if by_step else None, epoch=epoch
            )
            try:
                save_png(picture, folder / name)
            except UserError as error:  # a picture is not worth the run
                yield Warned(path="sample.prompts", message={lang: error.message(lang) for lang in LANGUAGES})
                continue
            yield SampleSaved(path=folder / name, prompt=prompt.text, index=index, step=step, epoch=epoch)
    yield StageChanged(stage="training", done=step, total=total)


@contextmanager
def drawing(session: "Session") -> Iterator[None]:
    """Dropout of the adapters off and the VAE on the device; afterwards both are as before."""
    parked = session.components.is_parked("vae")
    session.network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if parked:
            session.components.park("vae")
        session.network.train()
