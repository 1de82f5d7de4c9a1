"""A Chromium and a Japanese font for the browser tests: the system's, else downloaded, else installed with apt."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lora_core.i18n import Language, text
from lora_core.setup.environment import Environment, say

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
_ASK_PLAYWRIGHT = (
    "from playwright.sync_api import sync_playwright\n"
    "with sync_playwright() as p:\n"
    "    print(p.chromium.executable_path)"
)
VARIABLE = "KUMAKOBO_CHROMIUM"
"""Environment variable with the browser the tests are to use."""


def system_chromium() -> str | None:
    """A Chromium that is already there: the one of KUMAKOBO_CHROMIUM, else the system's."""
    if (named := os.environ.get(VARIABLE)) and Path(named).exists():
        return named
    found = (shutil.which(name) for name in _NAMES)
    return next((path for path in found if path), None) or next((p for p in _PLACES if Path(p).exists()), None)


def provide_chromium(environment: Environment, language: Language) -> str | None:
    """A Chromium, downloaded or installed when there is none; None, with one line said, when none can be had."""
    if found := system_chromium() or _playwrights_own(environment):
        return found
    say(text("setup.chromium_download", language))
    if _runs([str(environment.python), "-m", "playwright", "install", "--no-shell", "chromium"], 600):
        return _playwrights_own(environment)
    if _apt("chromium", language) and (found := system_chromium()):
        return found
    say(text("setup.no_chromium", language))
    return None


def provide_japanese_font(language: Language) -> bool:
    """Whether Japanese text can be drawn; tries to install a font where apt is at hand."""
    if has_japanese_font() or (_apt("fonts-noto-cjk", language) and has_japanese_font()):
        return True
    say(text("setup.no_font", language))
    return False


def has_japanese_font() -> bool:
    """Windows and macOS always have one; elsewhere fontconfig is asked."""
    if not (lister := shutil.which("fc-list")):
        return os.name == "nt" or Path("/System/Library/Fonts").exists()
    done = subprocess.run([lister, ":lang=ja", "family"], capture_output=True, check=False)
    return bool(done.stdout.strip())


def _playwrights_own(environment: Environment) -> str | None:
    try:
        done = subprocess.run(
            [str(environment.python), "-c", _ASK_PLAYWRIGHT],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    path = done.stdout.strip()
    return path if path and Path(path).exists() else None


def _apt(package: str, language: Language) -> bool:
    """Install a Debian package, as root only: nobody is asked for a password."""
    apt = shutil.which("apt-get")
    if not apt or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    say(text("setup.apt", language, package=package))
    return _runs([apt, "update", "-q"], 300) and _runs(
        [apt, "install", "-y", "-q", "--no-install-recommends", package], 900
    )


def _runs(command: Sequence[str], seconds: float) -> bool:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=seconds,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
