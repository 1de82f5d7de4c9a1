"""Over-fitting measured from the model alone: fit, generalisation and drift, always with the same noise.

fit              mean loss on some of the training pictures; falls as long as anything is learned
generalisation   mean loss on pictures that are not trained on; rises again once pictures are copied
drift            || p - p0 || / || p0 ||, p the prediction with the LoRA and p0 without it, for the class prompt and
                 for prompts that have nothing to do with it: how much of the source model is lost
following        how much of the source model's answer to a new context is left beside the trigger words (following.py)

Every number is a function of the weights: noise comes from generators made from (seed, picture's content), timesteps
are fixed quantiles of those that are trained, the latent is the mean of the VAE's posterior, captions are neither
shuffled nor dropped, dropout is off and no global random state is touched. So epochs and runs compare to the last
digits, and a run goes on as if it had not been measured. The error is the plain square (inside the mask, if there is
one), whatever loss is trained, so that runs with different losses compare.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lora_core import verdict
from lora_core.data.captions import caption_for
from lora_core.data.frames import frame_of
from lora_core.data.held_out import Picture, is_on
from lora_core.data.masks import Masks
from lora_core.data.pixels import load_pixels
from lora_core.data.samples import caption_text
from lora_core.errors import UserError
from lora_core.events import (
    BandLoss,
    CheckpointSaved,
    EventBase,
    PictureLoss,
    StageChanged,
    ValidationDone,
    warned,
)
from lora_core.families.base import Components, Conditioning, ModelFamily
from lora_core.noise import NoiseProcess
from lora_core.settings import DatasetSettings, NoiseSettings, RunSettings, ValidationSettings
from lora_core.train import saving
from lora_core.train.distributed import Team
from lora_core.train.files import best_file
from lora_core.train.following import Words, joined, share_kept, words_of
from lora_core.train.loss import masked_mean
from lora_core.train.noise import draw_timesteps
from lora_core.train.preservation import without_adapters
from lora_core.train.randomness import generator

if TYPE_CHECKING:
    from lora_core.train.session import Session

BANDS = 4
"""The way from picture to noise is told in so many equal parts."""
DRIFT_PICTURES = 2
"""The drift is measured at the noisy latents of so many pictures; every prompt needs all of them."""
HISTORY = "validation.jsonl"
"""In the folder of a training state."""
DRAWN_FOR_QUANTILES = 4096
"""Timesteps drawn to find the quantiles of their distribution."""


@dataclass(frozen=True)
class Question:
    """A picture as it is measured; everything on the CPU."""

    picture: Picture
    caption: str
    x0_CHW: Tensor
    """Scaled latent."""
    frame_6: Tensor
    mask_1HW: Tensor | None = None


@dataclass(frozen=True)
class States:
    """One picture at all noise levels and draws; N = levels x draws rows on the device."""

    noisy_NCHW: Tensor
    target_NCHW: Tensor
    timesteps_N: Tensor
    frames_N6: Tensor | None
    """None: whole pictures."""
    masks_N1HW: Tensor | None


@dataclass
class Validation:
    """What a run measures with and what it found so far. In other processes than the first only ``ended`` counts."""

    settings: ValidationSettings
    questions: Sequence[Question] = ()
    history: list[ValidationDone] = field(default_factory=list)
    ended: bool = False
    """The run is to stop: nothing got better for long enough."""
    images: int = 0
    """Pictures held out."""
    words: Words | None = None
    """What prompt-following is asked with; None where there are no trigger words."""
    base: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    """(picture's content, prompt) -> the source model's predictions, which never change."""

    def metadata(self) -> dict[str, str]:
        """What a LoRA file says about it, as sd-scripts does."""
        return {"ss_num_validation_images": str(self.images)}

    def kept(self) -> dict[str, str]:
        """Beside the training state, file by file: when to stop depends on what was found."""
        return {HISTORY: "".join(event.model_dump_json() + "\n" for event in self.history)}

    @property
    def drift_questions(self) -> Sequence[Question]:
        apart = [question for question in self.questions if question.picture.held_out]
        return (apart or self.questions)[:DRIFT_PICTURES]


# ---- preparing -------------------------------------------------------------------------------------------------------


def prepare_validation(
    settings: RunSettings,
    pictures: Sequence[Picture],
    family: ModelFamily,
    components: Components,
    team: Team,
    masks: Masks | None = None,
) -> Iterator[EventBase]:
    """Encode the pictures to be measured; the Validation is returned by the generator, None when it is off."""
    if not is_on(settings.validation):
        return None
    found = Validation(settings.validation, images=sum(picture.held_out for picture in pictures))
    found.history = restored(settings.save.resume)
    found.ended = team.same(verdict.is_over(found.history, settings.validation.patience))
    if not team.leads:
        return found
    parked = components.is_parked("vae")
    questions = []
    for done, picture in enumerate(pictures, start=1):
        questions.append(_question(picture, settings, family, components, masks))
        yield StageChanged(stage="caching_latents", done=done, total=len(pictures))
    if parked:
        components.park("vae")
    found.questions = questions
    found.words = words_of(settings.validation, pictures)
    return found


def restored(resume: Path | None) -> list[ValidationDone]:
    """What the run that is gone on with had found."""
    file = resume / HISTORY if resume is not None else None
    if file is None or not file.exists():
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        return [ValidationDone.model_validate_json(line) for line in lines]
    except ValueError as error:
        raise UserError("train.state_broken", path=resume) from error


def texts_asked(settings: RunSettings, pictures: Sequence[Picture]) -> set[str]:
    """All prompts that will be asked about, to be encoded while the text encoders are there."""
    if not is_on(settings.validation):
        return set()
    words = words_of(settings.validation, pictures)
    context = words.asked if words else set()
    return {plain_caption(picture) for picture in pictures} | {*drift_prompts(settings.validation)} | context


def drift_prompts(validation: ValidationSettings) -> list[str]:
    """The class prompt, then the unrelated ones."""
    return [validation.class_prompt.strip(), *_unrelated(validation)]


def _unrelated(validation: ValidationSettings) -> list[str]:
    return [line.strip() for line in validation.unrelated_prompts.splitlines() if line.strip()]


PLAIN: Mapping[str, object] = {
    "caption_dropout_rate": 0.0,
    "caption_dropout_every_n_epochs": None,
    "caption_tag_dropout_rate": 0.0,
    "shuffle_caption": False,
    "token_warmup_step": None,
}
"""What would show a caption differently each time. Wildcards stay: the picture's content draws them, always alike."""


def plain_caption(picture: Picture) -> str:
    """The caption as it is measured: whole and in order."""
    options: DatasetSettings = picture.subset.options.model_copy(update=dict(PLAIN))
    return caption_for(caption_text(picture.image, picture.subset), options, random.Random(picture.digest), 1)


def _question(
    picture: Picture, settings: RunSettings, family: ModelFamily, components: Components, masks: Masks | None
) -> Question:
    placement = picture.placement
    pixels_CHW = load_pixels(picture.image.path, placement)
    with torch.no_grad():
        mean_BCHW, _ = family.encode_images(components, pixels_CHW[None].to(components.device))
        x0_BCHW = family.scale_latents(components, mean_BCHW.float())
    own_mask = masks is not None and not (picture.held_out and settings.validation.folder)
    return Question(
        picture,
        plain_caption(picture),
        x0_BCHW[0].cpu(),
        torch.tensor(frame_of(placement), dtype=torch.float32),
        masks.get(picture.image.path, placement, flipped=False) if masks is not None and own_mask else None,
    )


# ---- measuring -------------------------------------------------------------------------------------------------------


def validate(session: "Session", step: int, epoch: int, *, last: bool) -> Iterator[EventBase]:
    """Measure, keep the best, and find out whether to go on. All processes go through here together."""
    validation = session.validation
    assert validation is not None
    if session.team.leads:
        yield from _measured(session, validation, step, epoch)
        yield from _best_kept(session, validation, step)
    ended = session.team.same(verdict.is_over(validation.history, validation.settings.patience))
    if ended and not validation.ended and not last and session.team.leads:
        best = verdict.best_epoch(validation.history)
        values = {"epoch": epoch, "best": best, "patience": validation.settings.patience}
        yield warned("validation.patience", "train.stopped_early", values)
    validation.ended = ended


def at_start(session: "Session") -> Iterator[EventBase]:
    """Before the first step, where the curves begin; of a run that goes on, what it had found before."""
    validation = session.validation
    if validation is None or not session.team.leads:
        return
    if validation.history:
        yield from validation.history
    elif session.first_step == 0:
        yield from _measured(session, validation, 0, 0)


def is_ended(session: "Session") -> bool:
    return session.validation is not None and session.validation.ended


def is_due(session: "Session", epoch: int, *, ends_epoch: bool, last: bool) -> bool:
    """Whether it is time to measure: in the rhythm of the settings, and at the end."""
    every = None if session.validation is None else session.validation.settings.every_n_epochs
    return every is not None and ((ends_epoch and epoch % every == 0) or last)


def _measured(session: "Session", validation: Validation, step: int, epoch: int) -> Iterator[EventBase]:
    if not any(not question.picture.held_out for question in validation.questions):
        return
    total = len(validation.questions) + len(validation.drift_questions)
    losses: list[Tensor] = []
    grid: list[Tensor] = []
    with saving.finished_weights(session), measuring(session):
        for done, question in enumerate(validation.questions):
            yield StageChanged(stage="validating", done=done, total=total)
            states = states_of(question, session.noise, session.settings, session.device)
            losses.append(losses_N(session, question, states))
            grid.append(states.timesteps_N.float().cpu())
        prompts = drift_prompts(validation.settings)
        drifts = [_drift(session, validation, prompt) for prompt in prompts]
        following = _following(session, validation)
    event = summed_up(
        validation.questions,
        losses,
        grid,
        session.noise.steps,
        epoch=epoch,
        step=step,
        drifts=drifts,
        following=following,
    )
    validation.history.append(event)
    yield event
    yield StageChanged(stage="training", done=step, total=session.plan.total_steps)


def _best_kept(session: "Session", validation: Validation, step: int) -> Iterator[EventBase]:
    """Write the LoRA when this is the best so far, and not the source model itself."""
    history = validation.history
    if not validation.settings.keep_best or not history or history[-1].epoch == 0:
        return
    scores = [event.generalisation for event in history if event.generalisation is not None and event.epoch > 0]
    if not scores or history[-1].generalisation is None or min(scores) < history[-1].generalisation:
        return
    path = best_file(session.settings.save)
    try:
        saving.write(session, path, step, with_state=False)
    except UserError as error:
        yield saving.not_saved(error)
        return
    yield CheckpointSaved(path=path, step=step, epoch=history[-1].epoch)


@contextmanager
def measuring(session: "Session") -> Iterator[None]:
    """Dropout of the adapters off, no gradients; afterwards as before."""
    session.network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        session.network.train()


def states_of(question: Question, noise: NoiseProcess, settings: RunSettings, device: torch.device) -> States:
    """The noisy latents of a picture, the same each time."""
    validation, x0_CHW = settings.validation, question.x0_CHW
    levels_T = timestep_grid(noise, x0_CHW, settings.noise, validation.timesteps)
    t_N = levels_T.repeat_interleave(validation.noise_draws)
    random_source = generator(validation.seed or 0, "validation", question.picture.digest)
    epsilon_NCHW = torch.randn((len(t_N), *x0_CHW.shape), generator=random_source).to(device)
    x0_NCHW = x0_CHW.to(device).expand_as(epsilon_NCHW)
    t_N = t_N.to(device)
    mask = question.mask_1HW
    return States(
        noise.add_noise(x0_NCHW, epsilon_NCHW, t_N),
        noise.target(x0_NCHW, epsilon_NCHW, t_N),
        t_N,
        question.frame_6.to(device).expand(len(t_N), -1),
        None if mask is None else mask.to(device).expand(len(t_N), -1, -1, -1),
    )


def timestep_grid(noise: NoiseProcess, x0_CHW: Tensor, settings: NoiseSettings, levels: int) -> Tensor:
    """(levels,) timesteps on the CPU at the quantiles (i + 1/2) / levels of those that are trained, for any process."""
    like_BCHW = x0_CHW[None].expand(DRAWN_FOR_QUANTILES, -1, -1, -1)
    drawn = draw_timesteps(noise, like_BCHW, generator(0, "timestep grid"), settings).sort().values
    places = [int(DRAWN_FOR_QUANTILES * (i + 0.5) / levels) for i in range(levels)]
    return drawn[places]


def losses_N(session: "Session", question: Question, states: States) -> Tensor:
    """(N,) mean squared error of each noise level and draw, float32 on the CPU."""
    error_NCHW = (predictions(session, states, question.caption) - states.target_NCHW.float()).square()
    if states.masks_N1HW is None:
        return error_NCHW.mean(dim=(1, 2, 3)).cpu()
    return masked_mean(error_NCHW, states.masks_N1HW, session.settings.loss.unmasked_weight).cpu()


def predictions(session: "Session", states: States, prompt: str) -> Tensor:
    """(N, C, H, W) float32: what the model says with a prompt, a few rows at a time."""
    rows = 2 * session.settings.train.train_batch_size  # without gradients that fits where a step did
    return answers(session.family, session.components, states, conditioning(session, prompt), rows)


def answers(family: ModelFamily, components: Components, states: States, told: Conditioning, rows: int = 1) -> Tensor:
    """(N, C, H, W) float32: what the denoiser says about all states when told one thing, ``rows`` at a time."""
    parts = []
    for first in range(0, len(states.timesteps_N), rows):
        part = slice(first, first + rows)
        noisy = states.noisy_NCHW[part].to(components.dtype)
        several = Conditioning.cat([told] * len(noisy))
        frames = None if states.frames_N6 is None else states.frames_N6[part]
        parts.append(family.predict(components, noisy, states.timesteps_N[part], several, frames).float())
    return torch.cat(parts)


def conditioning(session: "Session", prompt: str) -> Conditioning:
    """As the text encoders read a prompt now: with their adapters where they have some."""
    weighted = session.settings.dataset.weighted_captions
    if session.texts is not None:
        return session.texts([prompt], weighted=weighted)
    return session.family.encode_prompts(session.components, [prompt], session.settings.model, weighted=weighted)


def _drift(session: "Session", validation: Validation, prompt: str) -> float:
    found = []
    for question in validation.drift_questions:
        states = states_of(question, session.noise, session.settings, session.device)
        base_NCHW = _base(session, validation, question, states, prompt)
        found.append(relative_distance(predictions(session, states, prompt).cpu(), base_NCHW))
    return math.fsum(found) / len(found)


def _base(session: "Session", validation: Validation, question: Question, states: States, prompt: str) -> Tensor:
    """(N, C, H, W) what the source model says, on the CPU."""
    key = question.picture.digest, prompt
    if key not in validation.base:
        with without_adapters(session.network):
            validation.base[key] = predictions(session, states, prompt).cpu()
    return validation.base[key]


def _following(session: "Session", validation: Validation) -> float | None:
    """How much of the source model's answer to new contexts is kept; None without trigger words."""
    words = validation.words
    if words is None:
        return None
    found = []
    for question in validation.drift_questions:
        states = states_of(question, session.noise, session.settings, session.device)
        alone = predictions(session, states, words.trigger).cpu()
        base_alone = _base(session, validation, question, states, words.subject)
        for context in words.contexts:
            answer = predictions(session, states, joined(words.trigger, context)).cpu() - alone
            base = _base(session, validation, question, states, joined(words.subject, context)) - base_alone
            found.append(share_kept(answer, base))
    return math.fsum(found) / len(found)


def relative_distance(moved_NCHW: Tensor, base_NCHW: Tensor) -> float:
    """Mean over the rows of || p - p0 || / || p0 ||."""
    rows = (moved_NCHW - base_NCHW).flatten(1).norm(dim=1) / base_NCHW.flatten(1).norm(dim=1).clamp(min=1e-12)
    return float(rows.double().mean())


# ---- summing up ------------------------------------------------------------------------------------------------------


def summed_up(
    questions: Sequence[Question],
    losses: Sequence[Tensor],
    grid: Sequence[Tensor],
    steps: int,
    *,
    epoch: int,
    step: int,
    drifts: Sequence[float],
    following: float | None,
) -> ValidationDone:
    """From the losses (N,) and timesteps (N,) of each picture to the numbers of an epoch. Pictures count alike."""
    means = [float(own.double().mean()) for own in losses]
    pictures = [
        PictureLoss(name=q.picture.image.path.name, held_out=q.picture.held_out, loss=mean)
        for q, mean in zip(questions, means, strict=True)
    ]
    fit = [picture.loss for picture in pictures if not picture.held_out]
    apart = [picture.loss for picture in pictures if picture.held_out]
    return ValidationDone(
        epoch=epoch,
        step=step,
        fit=math.fsum(fit) / len(fit),
        generalisation=_mean(apart),
        drift_class=drifts[0],
        drift_unrelated=_mean(drifts[1:]),
        following=following,
        bands=_bands(questions, losses, grid, steps),
        pictures=pictures,
    )


def _bands(
    questions: Sequence[Question], losses: Sequence[Tensor], grid: Sequence[Tensor], steps: int
) -> list[BandLoss]:
    found: dict[tuple[int, bool], list[float]] = {}
    for question, own, t in zip(questions, losses, grid, strict=True):
        bands = (t * BANDS / steps).long().clamp(0, BANDS - 1)
        for band, loss in zip(bands.tolist(), own.double().tolist(), strict=True):
            found.setdefault((band, question.picture.held_out), []).append(loss)
    edges = [1000 * band // BANDS for band in range(BANDS + 1)]
    return [
        BandLoss(
            low=edges[band],
            high=edges[band + 1],
            fit=_mean(found.get((band, False), [])),
            generalisation=_mean(found.get((band, True), [])),
        )
        for band in range(BANDS)
    ]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
