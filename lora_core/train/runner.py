"""Runs a training: the events go to the run folder, the console and, if asked, TensorBoard; errors become sentences."""

import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lora_core.errors import Problem, ProblemsFound, UserError
from lora_core.events import COMMAND, EventBase, Reader, RunFailed, RunFinished, StepDone, Stop, append
from lora_core.help_cards import explain
from lora_core.i18n import LANGUAGES, text
from lora_core.launching import place, write_note
from lora_core.preflight import check
from lora_core.runs import RunFolder
from lora_core.settings import RunSettings
from lora_core.train.console import Console

Consumer = Callable[[EventBase], None]
EXIT_OK, EXIT_FAILED, EXIT_STOPPED = 0, 1, 130


class Interrupted(BaseException):
    """The process was asked to end at once."""


class LostOthers(Exception):
    """Another of the processes that train together is gone: what was learned is saved, and this one ends, too."""


class Commands:
    """Commands from the run folder's file, and Ctrl-C, which means stop and save."""

    def __init__(self, run: RunFolder):
        self._reader = Reader(run.commands, COMMAND)
        self.interrupts = 0

    def __iter__(self):
        if self.interrupts:
            self.interrupts = 0
            yield Stop(save=True)
        yield from self._reader.read()


def run_training(settings: RunSettings, run: RunFolder, console: Console | None = None) -> int:
    """Check, train, report. Returns the exit code of the process."""
    commands = Commands(run)
    consumers = listeners(run, console)
    last: EventBase | None = None
    try:
        with signals(commands), tensorboard(settings, run) as board:
            for event in guarded(settings, commands):
                last = event
                hear = last_listeners(run, console) if isinstance(event, RunFailed) else [*consumers, *board]
                for consume in hear:
                    consume(event)
    except (Interrupted, KeyboardInterrupt):
        if place().supervisor is not None:
            return EXIT_STOPPED  # it knows why, and says so
        last = RunFinished(reason="stopped", step=0)
        for consume in consumers:
            consume(last)
        return EXIT_STOPPED
    finally:
        if console:
            console.close()
    return EXIT_FAILED if isinstance(last, RunFailed) else EXIT_OK


def listeners(run: RunFolder, console: Console | None) -> list[Consumer]:
    """Who hears what happens. Of several processes that train together, only the first one is heard."""
    if not place().leads:
        return []
    return [lambda event: append(run.events, event), *([console.show] if console else [])]


def last_listeners(run: RunFolder, console: Console | None) -> list[Consumer]:
    """Who hears that the run failed. Of several processes each may, so each tells the one that looks after them."""
    here = place()
    if here.supervisor is not None:
        return [lambda event: write_note(run, here.rank, event)]
    return listeners(run, console) or [lambda event: print(event.message["en"], flush=True)]


def checked(settings: RunSettings) -> None:
    """Raises ProblemsFound when the run can't start."""
    if errors := [p for p in check(settings, starting=True) if p.severity == "error"]:
        raise ProblemsFound(errors)


def guarded(settings: RunSettings, commands: Iterable) -> Iterator[EventBase]:
    """The events of a run; what goes wrong is the last of them, in words."""
    try:
        if place().supervisor is None:  # else it was done before this process was started
            checked(settings)
        from lora_core.train.distributed import leave  # the checks above answer before torch is loaded
        from lora_core.train.loop import train

        yield from train(settings, commands)
        leave()
    except ProblemsFound as found:
        yield failed_checks(found.problems)
    except UserError as error:
        yield RunFailed(message={language: error.message(language) for language in LANGUAGES})
    except Exception:
        detail = traceback.format_exc()
        print(detail, flush=True)
        yield RunFailed(message=explain(detail).texts(), detail=detail)


def failed_checks(errors: Sequence[Problem]) -> RunFailed:
    return RunFailed(
        message={language: "\n".join(p.message(language) for p in errors) for language in LANGUAGES},
        problems=[{"path": p.path, "key": p.key} for p in errors],
    )


@contextmanager
def signals(commands: Commands) -> Iterator[None]:
    """The first Ctrl-C stops and saves, the second ends at once; SIGTERM ends at once. Files are whole either way."""

    def on_interrupt(*_: object) -> None:
        commands.interrupts += 1
        if commands.interrupts > 1:
            raise Interrupted
        print(text("train.interrupt", "en"), flush=True)

    def on_terminate(*_: object) -> None:
        # The supervisor does not ask so: it is accelerate launch, which ends the rest when one process failed.
        raise LostOthers if place().supervisor is not None else Interrupted

    try:
        before = {signal.SIGINT: signal.signal(signal.SIGINT, on_interrupt)}
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, on_terminate)
    except ValueError:  # not in the main thread, as in some tests: signals are then the caller's business
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def tensorboard(settings: RunSettings, run: RunFolder) -> Iterator[list[Consumer]]:
    """A consumer that writes TensorBoard scalars under the names users of Kohya's scripts know."""
    if not settings.save.tensorboard or settings.save.output_dir is None or not place().leads:
        yield []
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(Path(settings.save.output_dir) / "log" / run.path.name)) as writer:

        def write(event: EventBase) -> None:
            if isinstance(event, StepDone):
                writer.add_scalar("loss/current", event.loss, event.step)
                for part, rate in event.learning_rate.items():
                    writer.add_scalar(f"lr/{part}", rate, event.step)

        yield [write]
