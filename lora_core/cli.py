"""The ``kumakobo`` command."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lora_core.errors import UserError
from lora_core.i18n import Language, text


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):  # Windows consoles may not be UTF-8
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["gui"]:  # the page has its own options and help
        return run_gui(words[1:])
    arguments = parser().parse_args(words)
    if hasattr(arguments, "side_by_side"):
        from lora_core.merge.parallel import blas_threads

        os.environ.setdefault("OPENBLAS_NUM_THREADS", str(blas_threads(side_by_side=arguments.side_by_side)))
    try:
        return arguments.run(arguments)
    except UserError as error:
        print(error.message(language()), file=sys.stderr)
        return 2


def language() -> Language:
    """The terminal's language, by KUMAKOBO_LANG or the usual locale variables."""
    chosen = next((os.environ[v] for v in ("KUMAKOBO_LANG", "LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(v)), "")
    return "ja" if chosen.lower().startswith("ja") else "en"


def parser() -> argparse.ArgumentParser:
    from lora_core.guides.console import add_command as add_first_lora
    from lora_core.guides.copier_console import add_command as add_copier
    from lora_core.tool_commands import add_commands  # the installer reads this module without any package

    says = language()
    top = argparse.ArgumentParser("kumakobo", description=text("cli.description", says))
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    commands.add_parser("gui", help=text("cli.gui", says))

    train = commands.add_parser(
        "train",
        help=text("cli.train", says),
        description=text("cli.train.description", says),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=text("cli.train.examples", says),
    )
    train.set_defaults(run=run_train)
    train.add_argument("settings", type=Path, help=text("cli.train.settings", says))
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text("cli.train.set", says))
    train.add_argument("--preset", metavar="NAME", help=text("cli.train.preset", says))
    train.add_argument("--check", action="store_true", help=text("cli.train.check", says))

    demo = commands.add_parser("demo", help=text("cli.demo", says), description=text("cli.demo.description", says))
    demo.set_defaults(run=run_demo)
    demo.add_argument("--output", type=Path, help=text("cli.demo.output", says))
    demo.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text("cli.train.set", says))

    kohya = commands.add_parser(
        "kohya",
        help=text("cli.kohya", says),
        description=text("cli.kohya", says),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=text("cli.kohya.examples", says),
    )
    kohya.set_defaults(run=run_kohya)
    kohya.add_argument("file", type=Path, help=text("cli.kohya.file", says))
    kohya.add_argument("--export", choices=("json", "toml"), help=text("cli.kohya.export", says))
    kohya.add_argument("-o", "--output", type=Path, metavar="FILE", help=text("cli.kohya.output", says))
    kohya.add_argument("--force", action="store_true", help=text("cli.kohya.force", says))

    presets = commands.add_parser("presets", help=text("cli.presets", says), description=text("cli.presets", says))
    presets.set_defaults(run=run_presets)

    doctor = commands.add_parser("doctor", help=text("cli.doctor", says), description=text("cli.doctor", says))
    doctor.set_defaults(run=run_doctor)
    doctor.add_argument("--json", action="store_true", help=text("cli.doctor.json", says))
    add_first_lora(commands, says)
    add_copier(commands, says)
    add_commands(commands, says)
    return top


def run_gui(words: Sequence[str]) -> int:
    from app.__main__ import main as gui

    return gui(words)


def run_train(arguments: argparse.Namespace) -> int:
    """Train from a settings file, or from a run folder as the app makes it."""
    from lora_core import launching
    from lora_core.runs import RunFolder, create_run
    from lora_core.settings.files import load
    from lora_core.settings.kohya.report import lines
    from lora_core.settings.overlay import apply_overrides

    folder = RunFolder(arguments.settings)
    is_run = arguments.settings.is_dir() and folder.settings.is_file()
    loaded = load(folder.settings if is_run else arguments.settings)
    settings = loaded.settings
    if loaded.kohya is not None:
        print("\n".join([*lines(loaded.kohya, language()), ""]))
    if arguments.preset:
        settings = with_preset(settings, arguments.preset)
    settings = apply_overrides(settings, arguments.set)
    if arguments.check:
        return report_problems(settings)
    settings = launching.adapted(settings)
    run = folder if is_run or not launching.place().leads else create_run(settings)
    return train_here(settings, run)


def train_here(settings, run) -> int:
    """Train in this terminal, on as many cards as the settings, adapted to this machine, say; returns the exit code."""
    from lora_core import launching
    from lora_core.train.console import Console
    from lora_core.train.runner import run_training

    prepare_environment(allow_download=settings.model.allow_download)
    console = Console(language())
    if launching.is_needed(settings):
        return launching.supervise(settings, run, [console.show])
    launching.show_cards(settings.launch)
    return run_training(settings, run, console)


def run_kohya(arguments: argparse.Namespace) -> int:
    from lora_core.settings.kohya.console import run

    return run(arguments, language())


def run_presets(arguments: argparse.Namespace) -> int:
    """List the presets by the name that --preset takes, with title and purpose."""
    from lora_core.settings.presets import list_own, list_presets, own_folder

    says = language()
    own, wrong = list_own()
    built_in = text("cli.presets.built_in", says), list_presets()
    for heading, presets in (built_in, (text("cli.presets.own", says, folder=own_folder()), own)):
        if presets:
            lines = [f"  {p.name}\n      {p.title(says)}. {p.purpose(says)}".rstrip(". ") for p in presets]
            print("\n".join([heading, *lines, ""]))
    for error in wrong:
        print(error.message(says), file=sys.stderr)
    print(text("cli.presets.use", says))
    return 0


def with_preset(settings, name: str):
    from lora_core.settings.presets import find_preset, lay_over

    return lay_over(settings, find_preset(name))


def report_problems(settings) -> int:
    """Print what a start would say; 1 if it would not start."""
    from lora_core.preflight import check

    found = check(settings)
    for problem in found:
        print(f"{problem.severity}: {problem.path}: {problem.message(language())}")
    if not found:
        print(text("cli.check.ok", language()))
    return int(any(problem.severity == "error" for problem in found))


def prepare_environment(*, allow_download: bool) -> None:
    """What the libraries read before they are loaded: no telemetry, no Hub unless it is allowed, polite threads."""
    # Threads that spin while they wait lose whole time slices to what else runs on their cores; a sample then took 20
    # seconds instead of one. Spinning briefly, then sleeping, costs little when they have the cores to themselves.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # It reports an optional kernel that nothing here uses, in words that look like a failed run.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DISABLE_TELEMETRY", "1")
    if not allow_download:
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["TRANSFORMERS_OFFLINE"] = "1"


def run_demo(arguments: argparse.Namespace) -> int:
    from lora_core.demo.run import run

    prepare_environment(allow_download=False)
    return run(arguments.output, arguments.set, language())


def run_doctor(arguments: argparse.Namespace) -> int:
    from lora_core.doctor import main as doctor

    return doctor(["--json"] if arguments.json else [])
