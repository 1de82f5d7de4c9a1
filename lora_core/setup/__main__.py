"""What the launch scripts run: ``[launcher options] [command ...]``.

Makes .venv ready and hands over to the ``kumakobo`` command in it; ``test`` runs the test suite instead.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from lora_core.cli import language as terminal_language
from lora_core.errors import UserError
from lora_core.i18n import Language, text
from lora_core.setup.backends import CHOICES
from lora_core.setup.environment import Environment, ensure, require_environment
from lora_core.setup.testing import run_tests


def main(argv: Sequence[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):  # Windows consoles may not be UTF-8
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    language = terminal_language()
    own, command = split(sys.argv[1:] if argv is None else argv)
    options = parser(language).parse_args(own)
    environment = Environment()
    testing = command[:1] == ["test"]
    try:
        if options.reinstall:
            shutil.rmtree(environment.folder, ignore_errors=True)
        if options.no_install:
            require_environment(environment)
        else:
            ensure(environment, language, wanted=options.backend, extras=["test"] if testing else [])
    except UserError as error:
        print(error.message(language), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(text("setup.interrupted", language), file=sys.stderr)
        return 130
    if testing:
        return run_tests(environment, language, command[1:])
    return hand_over([str(environment.python), "-m", "lora_core", *command])


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The launcher's own options, which come first, and the command; no command means the studio in the browser."""
    own: list[str] = []
    rest = list(argv)
    while rest and (name := rest[0].partition("=")[0]) in _TAKES_VALUE:
        count = 1 + (_TAKES_VALUE[name] and "=" not in rest[0])
        own += rest[:count]
        rest = rest[count:]
    if not rest or rest[0].startswith("-"):
        rest = ["gui", *rest]
    return own, rest


_TAKES_VALUE = {"--backend": True, "--reinstall": False, "--no-install": False, "-h": False, "--help": False}


def parser(language: Language) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "launch",
        usage="launch [--backend NAME] [--reinstall] [--no-install] [gui|demo|train|merge|...|doctor|test] ...",
        description=text("setup.cli.description", language),
        epilog=text("setup.cli.commands", language),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--backend",
        choices=CHOICES,
        metavar="NAME",
        help=text("setup.cli.backend", language, choices=", ".join(CHOICES)),
    )
    made.add_argument("--reinstall", action="store_true", help=text("setup.cli.reinstall", language))
    made.add_argument("--no-install", action="store_true", help=text("setup.cli.no_install", language))
    return made


def hand_over(command: list[str]) -> int:
    """Become the command. Windows can't, and waits for it instead."""
    if os.name != "nt":
        sys.stdout.flush()
        os.execv(command[0], command)
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # Ctrl-C reaches both; the command decides when to end
            continue


if __name__ == "__main__":
    sys.exit(main())
