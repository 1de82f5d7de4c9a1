"""Writing LoRA files and training states during a run."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core.adapters.files import save_lora
from lora_core.errors import UserError
from lora_core.events import CheckpointSaved, EventBase, StageChanged, Warned
from lora_core.i18n import LANGUAGES
from lora_core.io.metadata import training_metadata
from lora_core.train.distributed import leader_only
from lora_core.train.files import average_file, epoch_file, final_file, settings_file, state_folder, step_file
from lora_core.train.optimizers import averaged_weights
from lora_core.train.state import Position, flat, save_state

if TYPE_CHECKING:
    from lora_core.train.session import Session

RETRY_AFTER = 5.0
"""Seconds until the finished LoRA is tried to be written again."""


@leader_only
def save_in_rhythm(session: "Session", step: int, *, epoch_ended: bool) -> Iterator[EventBase]:
    """One of the saves that the settings ask for on the way. One that fails is told, and training goes on."""
    save, total = session.settings.save, session.plan.total_steps
    path = epoch_file(save, session.epoch_of(step)) if epoch_ended else step_file(save, step)
    yield StageChanged(stage="saving", done=step, total=total)
    try:
        yield _saved(session, path, step)
    except UserError as error:
        yield not_saved(error)
    yield StageChanged(stage="training", done=step, total=total)


@leader_only
def save_step(session: "Session", step: int, *, state: bool = False) -> Iterator[EventBase]:
    """The LoRA after a number of steps; ``state`` writes the training state whatever the settings say.

    Raises UserError when it can't be written.
    """
    total = session.plan.total_steps
    yield StageChanged(stage="saving", done=step, total=total)
    yield _saved(session, step_file(session.settings.save, step), step, state=state)
    yield StageChanged(stage="training", done=step, total=total)


@leader_only
def save_final(session: "Session", step: int) -> Iterator[EventBase]:
    """The finished LoRA under its plain name, and the settings beside it. Raises UserError when it can't be written."""
    path = final_file(session.settings.save)
    yield StageChanged(stage="saving", done=step, total=session.plan.total_steps)
    state = write(session, path, step, with_state=session.settings.save.save_state)
    settings_file(path).write_text(session.settings.model_dump_json(indent=2), encoding="utf-8")
    yield CheckpointSaved(path=path, step=step, epoch=session.epoch_of(step), final=True, state=state)


@leader_only
def rescue(session: "Session", step: int) -> Iterator[EventBase]:
    """After an error, keep what was learned up to the last whole step, if that is still possible."""
    if step == session.first_step:
        return
    try:
        # When another process died, this one is about to be ended, too: not in the middle of this.
        with deaf_to_sigterm() if not session.team.alone else nullcontext():
            yield from list(save_step(session, step, state=True))
    except Exception as error:
        print(f"could not save after the error: {error}", flush=True)


@contextmanager
def deaf_to_sigterm() -> Iterator[None]:
    try:
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def not_saved(error: UserError) -> Warned:
    return Warned(path="save.output_dir", message={language: error.message(language) for language in LANGUAGES})


def _saved(session: "Session", path: Path, step: int, *, state: bool = False) -> CheckpointSaved:
    folder = write(session, path, step, with_state=state or session.settings.save.save_state)
    session.retention.add(path)
    return CheckpointSaved(path=path, step=step, epoch=session.epoch_of(step), state=folder)


def write(session: "Session", path: Path, step: int, *, with_state: bool) -> Path | None:
    """Write one LoRA and, if asked, the training state beside it; gives the state's folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    precision, facts = session.settings.save.save_precision, metadata(session, step)
    with finished_weights(session):
        save_lora(session.network, facts, average_file(path) if beside(session) else path, precision)
    if beside(session):
        save_lora(session.network, facts, path, precision)
    if not with_state:
        return None
    folder = state_folder(path)
    position = Position(step, session.seed, session.data_facts.fingerprint, flat(session.settings))
    more = {} if session.validation is None else session.validation.kept()
    save_state(folder, position, session.network, session.optimizer, session.accelerator.scaler, session.ema, more)
    return folder


def beside(session: "Session") -> bool:
    """Whether the plain weights are saved as well as their average."""
    return session.ema is not None and session.settings.train.ema_save == "beside"


@contextmanager
def finished_weights(session: "Session") -> Iterator[None]:
    """Inside, the adapter has the weights to save and draw with: averages, where the run keeps some."""
    with session.ema.weights() if session.ema is not None else averaged_weights(session.optimizer):
        yield


def metadata(session: "Session", step: int) -> dict[str, str]:
    """The ss_* and modelspec.* entries as they stand after ``step`` steps."""
    return training_metadata(
        session.settings,
        plan=session.plan,
        source=session.components.source,
        dataset=session.data_facts.metadata,
        seed=session.seed,
        precision=session.precision,
        prediction_type=session.components.prediction_type,
        zero_terminal_snr=getattr(session.noise, "zero_terminal_snr", False),
        started_at=session.started_at,
        finished_at=time.time(),
        steps=step,
        epoch=session.epoch_of(step),
    )
