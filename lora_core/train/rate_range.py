"""The learning rate range test: a short training whose rate rises, measured on fixed pictures with fixed noise.

Everything is the run's own: data, batches, losses, optimizer, model and the step of the loop. What differs is the
schedule, which rises by the same factor at each step, and that nothing is written: no LoRA, no state, no samples. What
is measured is the training's own loss (its weights, masks and all) of the same batches with the same noise every time,
so that two points of the curve differ by the weights alone. A tuned rate is about the weights as they are trained:
the running average is off, as is stopping the text encoder, for the test is too short for either.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch

from lora_core.data.dataset import Batch
from lora_core.errors import ProblemsFound, UserError
from lora_core.events import EventBase, RatePoint, StageChanged
from lora_core.io.writing import replacing
from lora_core.launching import show_cards
from lora_core.rate_range import RESULT, check_ready, judge, rate_at, reference, runs_away
from lora_core.runs import RunFolder
from lora_core.settings import LaunchSettings, RunSettings, SampleSettings
from lora_core.settings.problems import SettingsError
from lora_core.settings.tools import RateRangeSettings
from lora_core.train.loop import prepare
from lora_core.train.pair import facing
from lora_core.train.randomness import generator
from lora_core.train.schedules import Factor
from lora_core.train.session import Session, batch_loss, train_step
from lora_core.train.validation import measuring

MEASURED = 16
"""Pictures with noise that the loss is measured on. One measurement takes about as long as a third of the steps that
would train on as many."""
EVERY = 2
"""Steps from one measurement to the next."""


def rate_range(settings: RateRangeSettings, run: RunFolder | None = None) -> Iterator[EventBase]:
    """Train with a rising rate until the loss runs away, and say which rate to train with (a RateRangeDone).

    The answer is also written into the run folder. Raises UserError for what the person can put right.
    """
    check_ready(settings)
    training = tested(settings)
    show_cards(settings.training.launch)
    try:
        session = yield from prepare(training)
    except ProblemsFound as found:
        raise SettingsError(training.save.output_name, found.problems) from found
    has_a_rate(session)
    session.rate = rising(settings)
    start, points, blew_up_at = yield from measured_rates(session, settings)
    answer = judge(settings, start, points, blew_up_at, seed=session.seed)
    if run is not None:
        with replacing(run.path / RESULT) as temporary:
            temporary.write_text(answer.model_dump_json(indent=2), encoding="utf-8")
    yield answer


def tested(settings: RateRangeSettings) -> RunSettings:
    """The training as it is tested: so many steps, on one card with batches as large as all of them had."""
    training, steps = settings.training, settings.steps
    accumulation = training.train.gradient_accumulation_steps * training.launch.processes
    train = {
        "epochs": steps,
        "max_train_steps": steps,
        "gradient_accumulation_steps": accumulation,
        "ema_decay": None,
        "stop_text_encoder_training": None,
        "stop_text_encoder_steps": None,
    }
    sections = {
        "train": training.train.model_copy(update=train),
        "save": training.save.model_copy(update={"resume": None}),
        "sample": SampleSettings(prompts=""),
        # The same pictures are held out as in the run; here they are not looked at.
        "validation": training.validation.model_copy(update={"max_pictures": 1}),
        "launch": LaunchSettings(),
    }
    return training.model_copy(update=sections)


def has_a_rate(session: Session) -> None:
    """Raises UserError for an optimizer of the person's own class that finds its rate or averages its weights."""
    inner = getattr(session.optimizer, "optimizer", session.optimizer)
    name = type(inner).__name__
    if any("train_mode" in group for group in inner.param_groups):
        raise UserError("lr_range.schedule_free", optimizer=name)
    if any("d" in group and "d0" in inner.defaults for group in inner.param_groups):
        raise UserError("lr_range.own_rate", optimizer=name)


def rising(settings: RateRangeSettings) -> Factor:
    """The schedule of the test: what every rate of the settings is multiplied by. They keep their proportion."""
    usual = reference(settings.training.train)
    return lambda step: rate_at(settings, step) / usual


def measured_rates(session: Session, settings: RateRangeSettings) -> Iterator[EventBase]:
    """Do the steps; the generator's value is (loss at the start, points, rate at which the loss ran away or None)."""
    questions = list(fixed_batches(session))
    start = measured_loss(session, questions)
    if not math.isfinite(start):
        raise UserError("train.loss_not_finite", step=0, loss=start)
    points: list[RatePoint] = []
    yield StageChanged(stage="training", done=0, total=settings.steps)
    for step in range(settings.steps):
        train_step(session, step)
        if (step + 1) % EVERY == 0 or step + 1 == settings.steps:
            point = RatePoint(step=step + 1, rate=rate_at(settings, step), loss=measured_loss(session, questions))
            if runs_away(point.loss, start):
                return start, points, point.rate
            points.append(point)
        yield StageChanged(stage="training", done=step + 1, total=settings.steps)
    return start, points, None


def fixed_batches(session: Session) -> Iterator[Batch]:
    """The first batches of the first epoch, over and over until there are enough: each time with other noise."""
    pictures = 0
    for number in itertools.count():
        if pictures >= MEASURED:
            return
        batch = session.feed(1, number % session.plan.batches_per_epoch)
        pictures += len(batch)
        yield batch


def measured_loss(session: Session, batches: Sequence[Batch]) -> float:
    """The mean over the pictures of the training's loss, with noise that is the same every time and no dropout."""
    losses, sizes = [], []
    with measuring(session):
        for number, batch in enumerate(batches):
            with facing(session.network, session.forward(batch, number)):
                losses.append(batch_loss(session, batch, generator(session.seed, "rate range", number)).detach())
            sizes.append(float(len(batch)))
    found = torch.stack(losses).double().cpu()  # the one wait for the device
    return float(torch.dot(found, torch.tensor(sizes, dtype=torch.float64)) / sum(sizes))
