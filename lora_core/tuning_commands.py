"""The commands that search for settings: kumakobo lr-range and kumakobo sweep. Torch-free."""

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lora_core.errors import UserError
from lora_core.events import RunFinished, Stop, append
from lora_core.i18n import Language, text
from lora_core.settings import RunSettings
from lora_core.settings.tools import RateRangeSettings, ToolSettings, checked


def _training(parser: argparse.ArgumentParser, says: Language) -> None:
    """The options that name a training, as ``kumakobo train`` has them."""
    parser.add_argument("training", type=Path, metavar="settings", help=text("cli.train.settings", says))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text("cli.train.set", says))
    parser.add_argument("--preset", metavar="NAME", help=text("cli.train.preset", says))


def training_of(arguments: argparse.Namespace) -> RunSettings:
    """The training that was named: a settings file, a LoRA or a run folder, which may be that of a test."""
    from lora_core.runs import RunFolder, read_job_settings
    from lora_core.settings.files import load_settings
    from lora_core.settings.overlay import apply_overrides
    from lora_core.settings.presets import find_preset, lay_over

    path = arguments.training
    path = RunFolder(path).settings if path.is_dir() else path
    tested = None
    with suppress(OSError, ValueError):  # any other file of settings, perhaps of an older version
        tested = read_job_settings(path)
    settings = tested.training if isinstance(tested, RateRangeSettings) else load_settings(path)
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


# ---- several runs ----------------------------------------------------------------------------------------------------

LOOKS = 0.5
"""Seconds between two looks at the runs of a sweep."""


def _sweep(parser: argparse.ArgumentParser, says: Language) -> None:
    from lora_core.sweep import MOST_RUNS

    parser.set_defaults(run=run_sweep)
    _training(parser, says)
    parser.add_argument(
        "--field", action="append", default=[], metavar="KEY=VALUE,VALUE", help=text("cli.sweep.field", says)
    )
    parser.add_argument("--most", type=int, default=MOST_RUNS, metavar="N", help=text("cli.sweep.most", says))
    parser.add_argument("--dry-run", action="store_true", help=text("cli.tool.dry_run", says))


def run_sweep(arguments: argparse.Namespace) -> int:
    """Plan the runs, put them in line, wait for them and show their table. The file of a sweep shows it again."""
    from lora_core import sweep
    from lora_core.cli import language
    from lora_core.runs import runs_root

    says = language()
    if not arguments.field:
        if arguments.training.suffix != ".json" or not arguments.training.is_file():
            raise UserError("sweep.nothing_to_compare")
        print("\n".join(sweep.lines(sweep.kept(arguments.training, runs_root()), says)))
        return 0
    planned = sweep.plan(training_of(arguments), sweep.read_fields(arguments.field), arguments.most)
    print(text("sweep.planned", says, count=len(planned)))
    print("\n".join(f"  {one.settings.save.output_name}: {one.title}" for one in planned), flush=True)
    return 0 if arguments.dry_run else queue_and_watch(planned, says)


def queue_and_watch(planned: Sequence[Any], says: Language) -> int:
    """Put the runs in the page's line, and say as each ends. Ctrl-C stops them, saving what the present one learned."""
    from lora_core import jobs, sweep, sweeps
    from lora_core.runs import runs_root
    from lora_core.tools import EXIT_FAILED, EXIT_OK, EXIT_STOPPED

    path, runs = sweeps.start(planned)
    print(text("sweep.kept", says, path=path), flush=True)
    try:
        waiting = list(runs)
        while waiting:
            time.sleep(LOOKS)
            jobs.advance()
            for one, run in [pair for pair in waiting if jobs.state(pair[1]) in jobs.ENDED]:
                print(text(f"sweep.ended.{jobs.state(run)}", says, title=one.title), flush=True)
                waiting.remove((one, run))
    except KeyboardInterrupt:
        for _, run in reversed(runs):
            if jobs.state(run) not in jobs.ENDED:
                jobs.send(run, Stop(save=True))
        print(text("sweep.stopped", says))
        return EXIT_STOPPED
    print("\n".join(sweep.lines(sweep.kept(path, runs_root()), says)))
    return EXIT_OK if all(jobs.state(run) == "finished" for _, run in runs) else EXIT_FAILED


# ---- folds -----------------------------------------------------------------------------------------------------------


def _k_fold(parser: argparse.ArgumentParser, says: Language) -> None:
    from lora_core.kfold import FOLDS

    parser.set_defaults(run=run_k_fold)
    _training(parser, says)
    parser.add_argument("--folds", type=int, default=FOLDS, metavar="N", help=text("cli.k-fold.folds", says))
    parser.add_argument("--dry-run", action="store_true", help=text("cli.tool.dry_run", says))


def run_k_fold(arguments: argparse.Namespace) -> int:
    """Plan a run for each fold, put them in line, wait for them, and say the epoch for the final run."""
    from lora_core.cli import language
    from lora_core.kfold import plan_folds

    says = language()
    planned = plan_folds(training_of(arguments), arguments.folds)
    print(text("sweep.planned", says, count=len(planned)))
    print("\n".join(f"  {one.settings.save.output_name}: {one.title}" for one in planned), flush=True)
    return 0 if arguments.dry_run else queue_and_watch(planned, says)


TUNING_PARSERS: dict[str, Callable[[argparse.ArgumentParser, Language], None]] = {
    "lr-range": _rate_range,
    "sweep": _sweep,
    "k-fold": _k_fold,
}
