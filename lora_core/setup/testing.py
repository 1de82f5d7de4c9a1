"""``./launch.sh test``: linter, formatter and type checker, then pytest, whose closing line ends the output."""

import os
import subprocess
from collections.abc import Sequence

from lora_core.i18n import Language, text
from lora_core.setup import browser
from lora_core.setup.environment import Environment, say

CHECKS: dict[str, Sequence[str]] = {
    "ruff check": ("ruff", "check", "--quiet", "."),
    "ruff format": ("ruff", "format", "--check", "--quiet", "."),
    "mypy": ("mypy", "--no-error-summary"),
}
WORKERS = 2
PARALLEL = ("-n", str(WORKERS), "--dist", "loadscope", "--no-loadscope-reorder")
"""A module stays with one worker, so that what it prepares is prepared once."""


def run_tests(environment: Environment, language: Language, arguments: Sequence[str] = ()) -> int:
    """Run everything; with arguments for pytest, run only pytest with them. 0 when all passed."""
    variables = dict(os.environ)
    if chromium := browser.provide_chromium(environment, language):
        variables[browser.VARIABLE] = chromium
    browser.provide_japanese_font(language)
    failed = [] if arguments else [name for name in CHECKS if not _passes(environment, name, variables)]
    if failed:
        say(text("setup.checks_failed", language, names=", ".join(failed)))
    if not arguments:  # workers that each use every core get in each other's way
        variables.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))
    pytest = [str(environment.python), "-m", "pytest", *(arguments or PARALLEL)]
    tests = subprocess.run(pytest, cwd=environment.project, env=variables, check=False)
    return tests.returncode or int(bool(failed))


def _passes(environment: Environment, name: str, variables: dict[str, str]) -> bool:
    command = [str(environment.python), "-m", *CHECKS[name]]
    code = subprocess.run(command, cwd=environment.project, env=variables, check=False).returncode
    say(f"{name}: {'ok' if code == 0 else 'FAILED'}")
    return code == 0
