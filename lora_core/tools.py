"""Jobs on LoRA files and checkpoints: what runs each, how it is reported, how it ends. Torch is for pictures only."""

import traceback
from collections.abc import Callable, Generator, Iterable, Mapping
from importlib import import_module

from lora_core.errors import Stopped, UserError
from lora_core.events import (
    COMMAND,
    EventBase,
    FileSaved,
    Reader,
    RunFailed,
    RunFinished,
    Stop,
    ToolStarted,
    append,
)
from lora_core.generate.shelf import Shelf
from lora_core.help_cards import explain
from lora_core.i18n import LANGUAGES
from lora_core.runs import RunFolder, job_name
from lora_core.settings.tools import IN_OWN_FOLDER, PICTURES, ToolSettings

EXIT_OK, EXIT_FAILED, EXIT_STOPPED = 0, 1, 130

TOOLS: Mapping[str, tuple[str, str]] = {
    "merge": ("lora_core.merge.combine", "merge"),
    "apply": ("lora_core.merge.apply", "apply"),
    "extract": ("lora_core.merge.extract", "extract"),
    "resize": ("lora_core.merge.resize", "resize"),
    "convert": ("lora_core.merge.convert", "convert"),
    "clean": ("lora_core.merge.convert", "clean"),
    "preview": ("lora_core.generate.preview", "preview"),
    "regularisation": ("lora_core.generate.regularisation", "regularisation"),
    "generate": ("lora_core.generate.job", "generate"),
    "grid": ("lora_core.generate.grid", "grid"),
    "lr_range": ("lora_core.train.rate_range", "rate_range"),
    "proof": ("lora_core.proof", "proof"),
}
"""Job -> module and generator of its events. A module is loaded when its job is run."""


def tool(job: str) -> Callable[..., Generator[EventBase, None, None]]:
    module, name = TOOLS[job]
    return getattr(import_module(module), name)


def events_of(
    settings: ToolSettings, run: RunFolder | None, stops: Callable[[], bool], shelf: Shelf | None = None
) -> Generator[EventBase, None, None]:
    """The events of a job from its start to its end; what goes wrong is the last of them, in words.

    ``shelf`` has the model of the last job that drew, if this process has done one.
    """
    from lora_core.merge.describe import describe

    last_file = None
    shelf = shelf or Shelf()
    shelf.stops = stops
    try:
        yield ToolStarted(job=settings.job, name=job_name(settings), summary=describe(settings, computed=False).lines())
        run_it = tool(settings.job)
        arguments = (settings, run) if isinstance(settings, IN_OWN_FOLDER) else (settings,)
        steps = run_it(*arguments, **({"shelf": shelf} if isinstance(settings, PICTURES) else {}))
        for event in steps:
            yield event
            if isinstance(event, FileSaved):
                last_file = event.path
            elif stops():
                steps.close()  # what was half written disappears
                yield RunFinished(reason="stopped", step=0)
                return
        yield RunFinished(reason="completed", step=0, path=last_file)
    except Stopped:
        yield RunFinished(reason="stopped", step=0)
    except UserError as error:
        yield RunFailed(message={language: error.message(language) for language in LANGUAGES})
    except Exception:
        detail = traceback.format_exc()
        print(detail, flush=True)
        yield RunFailed(message=explain(detail).texts(), detail=detail)


def run_job(
    settings: ToolSettings,
    run: RunFolder,
    consumers: Iterable[Callable[[EventBase], None]] = (),
    shelf: Shelf | None = None,
) -> int:
    """Do a job whose folder the app made. Returns the exit code of the process."""
    commands = Reader(run.commands, COMMAND)
    last: EventBase | None = None
    for event in events_of(settings, run, lambda: any(isinstance(c, Stop) for c in commands.read()), shelf):
        last = event
        append(run.events, event)
        for consume in consumers:
            consume(event)
    return EXIT_FAILED if isinstance(last, RunFailed) else EXIT_OK
