"""The commands that search for settings: kumakobo lr-range. Torch-free."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_core.events import RunFinished, append
from lora_core.i18n import Language, text
from lora_core.settings import RunSettings
from lora_core.settings.tools import RateRangeSettings, ToolSettings, checked


def _training(parser: argparse.ArgumentParser, says: Language) -> None:
    """The options that name a training, as ``kumakobo train`` has them."""
    parser.add_argument("training", type=Path, metavar="settings", help=text("cli.train.settings", says))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text("cli.train.set", says))
    parser.add_argument("--preset", metavar="NAME", help=text("cli.train.preset", says))


def training_of(arguments: argparse.Namespace) -> RunSettings:
    """The training that was named: a settings file, a LoRA or a run folder."""
    from lora_core.runs import RunFolder
    from lora_core.settings.files import load_settings
    from lora_core.settings.overlay import apply_overrides
    from lora_core.settings.presets import find_preset, lay_over

    path = arguments.training
    settings = load_settings(RunFolder(path).settings if path.is_dir() else path)
    if arguments.preset:
        settings = lay_over(settings, find_preset(arguments.preset))
    return apply_overrides(settings, arguments.set)


def _rate_range(parser: argparse.ArgumentParser, says: Language) -> None:
    parser.set_defaults(run=run_rate_range, settings=rate_range_settings)
    _training(parser, says)
    parser.add_argument("--lowest", type=float, metavar="RATE", help=text("cli.lr-range.lowest", says))
    parser.add_argument("--highest", type=float, metavar="RATE", help=text("cli.lr-range.highest", says))
    parser.add_argument("--steps", type=int, help=text("cli.lr-range.steps", says))


def rate_range_settings(arguments: argparse.Namespace) -> RateRangeSettings:
    given: dict[str, Any] = {name: getattr(arguments, name) for name in ("lowest", "highest", "steps")}
    values = {name: value for name, value in given.items() if value is not None}
    return checked(RateRangeSettings, values | {"training": training_of(arguments)})


def run_rate_range(arguments: argparse.Namespace) -> int:
    """Test in this terminal, in a run folder of its own; returns the exit code."""
    from lora_core.cli import prepare_environment
    from lora_core.rate_range import check_ready

    settings = rate_range_settings(arguments)
    check_ready(settings)
    prepare_environment(allow_download=settings.training.model.allow_download)
    return run_in_own_folder(settings)


def run_in_own_folder(settings: ToolSettings) -> int:
    """Do a job here as the page would have it done: with a run folder, which keeps what it found."""
    from lora_core.cli import language
    from lora_core.runs import create_run
    from lora_core.tool_console import ToolConsole
    from lora_core.tools import EXIT_STOPPED, run_job

    run, console = create_run(settings), ToolConsole(language())
    try:
        code = run_job(settings, run, [console.show])
    except KeyboardInterrupt:
        stopped = RunFinished(reason="stopped", step=0)
        append(run.events, stopped)
        console.show(stopped)
        return EXIT_STOPPED
    finally:
        console.close()
    console.say(text("lr_range.folder", console.language, path=run.path))
    return code


TUNING_PARSERS: dict[str, Callable[[argparse.ArgumentParser, Language], None]] = {"lr-range": _rate_range}
