"""The virtual environment in .venv: made once, brought up to date when the project's requirements change.

Only the packages go in there. The project itself runs from its own folder (the launchers put it on PYTHONPATH), so
that the folder may be moved, and may have any name: an editable install writes the path into a file that Python reads
in the system's legacy encoding on Windows.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lora_core.errors import UserError
from lora_core.i18n import Language, text
from lora_core.setup import backends, hardware
from lora_core.setup.progress import follow

PROJECT = Path(__file__).resolve().parents[2]
GIGABYTE = 1e9


@dataclass(frozen=True)
class Stamp:
    """What an environment was made from, in .venv/kumakobo.json."""

    fingerprint: str
    wanted: str
    """The --backend the person asked for, "auto" if none."""
    backend: str
    extras: tuple[str, ...] = ()

    def covers(self, wanted: str | None, extras: Iterable[str], fingerprint: str) -> bool:
        return self.fingerprint == fingerprint and wanted in (None, self.wanted) and set(extras) <= set(self.extras)


@dataclass(frozen=True)
class Environment:
    project: Path = PROJECT

    @property
    def folder(self) -> Path:
        return self.project / ".venv"

    @property
    def programs(self) -> Path:
        return self.folder / ("Scripts" if os.name == "nt" else "bin")

    @property
    def python(self) -> Path:
        return self.programs / ("python.exe" if os.name == "nt" else "python")

    @property
    def log(self) -> Path:
        return self.folder / "install.log"

    def stamp(self) -> Stamp | None:
        """None when there is no finished environment."""
        try:
            written = json.loads((self.folder / "kumakobo.json").read_text(encoding="utf-8"))
            stamp = Stamp(**written | {"extras": tuple(written["extras"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return stamp if self.python.exists() else None

    def write_stamp(self, stamp: Stamp) -> None:
        path = self.folder / "kumakobo.json"
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(stamp), indent=2), encoding="utf-8")
        new.replace(path)

    def requirements(self, extras: Iterable[str] = ()) -> list[str]:
        """What pyproject.toml asks for, torch excepted."""
        project = tomllib.loads((self.project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        wanted = list(project["dependencies"])
        for extra in sorted(extras):
            wanted += project["optional-dependencies"][extra]
        return [line for line in wanted if not re.match(r"torch\b(?![-_.])", line)]

    def fingerprint(self) -> str:
        """Changes when a start must install something: other requirements, other pins, another Python."""
        project = tomllib.loads((self.project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        parts = [
            json.dumps([project["dependencies"], project.get("optional-dependencies", {})]),
            (self.project / "constraints.txt").read_text(encoding="utf-8"),
            f"{sys.version_info[0]}.{sys.version_info[1]} {backends.TORCH}",
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def ensure(
    environment: Environment, language: Language, *, wanted: str | None = None, extras: Sequence[str] = ()
) -> None:
    """Make the environment ready, or do nothing when it is. Raises UserError with what went wrong and the cure."""
    stamp, fingerprint = environment.stamp(), environment.fingerprint()
    if stamp and stamp.covers(wanted, extras, fingerprint):
        return
    wanted = wanted or (stamp.wanted if stamp else "auto")
    extras = sorted({*extras, *(stamp.extras if stamp else ())})
    machine = hardware.detect()
    choice = backends.choose(machine, wanted)
    say(text("setup.updating" if stamp else "setup.first_run", language, folder=environment.folder))
    say(text("setup.backend", language, title=choice.backend.title))
    for key, values in choice.notes:
        say(text(key, language, **values))
    if not _works(environment):
        require_space(environment.project, choice.backend.gigabytes)
        make_venv(environment)
    elif stamp:
        environment.write_stamp(replace(stamp, fingerprint=""))  # until the new packages are in
        if stamp.backend != choice.name:
            _uninstall_torch(environment)
    if not (stamp and stamp.backend == choice.name and _has_torch(environment)):
        _install_torch(environment, language, choice, machine)
    _install(environment, language, environment.requirements(extras))
    _write_command(environment)
    environment.write_stamp(Stamp(fingerprint, wanted, choice.name, tuple(extras)))
    say(text("setup.ready", language))


def require_environment(environment: Environment) -> None:
    """Raise UserError when nothing is installed yet."""
    if not environment.python.exists():
        raise UserError("setup.not_installed", folder=environment.folder)


def require_space(folder: Path, gigabytes: float) -> None:
    """Raise UserError unless the disk has room; KUMAKOBO_MIN_DISK_GB overrides how much is asked for."""
    needed = float(os.environ.get("KUMAKOBO_MIN_DISK_GB") or gigabytes)
    free = shutil.disk_usage(folder).free / GIGABYTE
    if free < needed:
        raise UserError("setup.disk_low", folder=folder, free=f"{free:.1f}", needed=f"{needed:g}")


def _works(environment: Environment) -> bool:
    """Whether there is an environment with a Python of the version that runs this."""
    code = f"import sys; sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])})"
    try:
        return subprocess.run([str(environment.python), "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False


def make_venv(environment: Environment) -> None:
    """Make the empty environment; with uv where this Python has no ensurepip (Debian's python3 without venv)."""
    uv = shutil.which("uv")
    base = getattr(sys, "_base_executable", None) or sys.executable
    if importlib.util.find_spec("ensurepip") and importlib.util.find_spec("venv"):
        command = [base, "-m", "venv", "--clear", str(environment.folder)]
    elif uv:
        command = [uv, "venv", "--seed", "--clear", "--python", base, str(environment.folder)]
    else:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise UserError("setup.no_venv", version=version)
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        raise UserError(_cause(done.stderr + done.stdout), log=environment.folder, tail=_tail(done.stderr))


def _install_torch(
    environment: Environment, language: Language, choice: backends.Choice, machine: hardware.Hardware
) -> None:
    backend = choice.backend
    requirement, index = f"torch=={backends.TORCH}", []
    if backend.index and backends.reachable(backend):
        requirement, index = backend.requirement, ["--extra-index-url", backend.index]
    elif backend.index and not backends.default_index_has(choice.name, machine):
        key = "setup.index_unreachable" if choice.name == "cpu" else "setup.index_unreachable_gpu"
        say(text(key, language, title=backend.title, backend=choice.name, torch=backends.TORCH))
    _install(environment, language, [*index, requirement])


def _has_torch(environment: Environment) -> bool:
    """Whether the version wanted is installed, of whatever build."""
    packages = "Lib/site-packages" if os.name == "nt" else "lib/python*/site-packages"
    return any(environment.folder.glob(f"{packages}/torch-{backends.TORCH}*.dist-info"))


def _uninstall_torch(environment: Environment) -> None:
    """So that another build of the same version is not taken for the one wanted."""
    command = [str(environment.python), "-m", "pip", "uninstall", "-y", "-q", "torch"]
    subprocess.run(command, capture_output=True, check=False)


def _install(environment: Environment, language: Language, arguments: Sequence[str]) -> None:
    """Install packages, with uv where it is there, else (and when uv fails) with pip."""
    commands = [[str(environment.python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]]
    if (uv := shutil.which("uv")) and not _pip_is_configured(environment):
        # As pip does: the best version of all indexes. uv's default would look for everything on the PyTorch index.
        options = ["--python", str(environment.python), "--index-strategy", "unsafe-best-match"]
        commands.insert(0, [uv, "pip", "install", *options])
    pins = ["-c", str(environment.project / "constraints.txt")]
    for number, command in enumerate(commands):
        if number:
            say(text("setup.uv_failed", language, log=environment.log))
        code, output = follow([*command, *pins, *arguments], environment.log, language, env=_variables())
        if code == 0:
            return
    raise UserError(_cause(output), log=environment.log, tail=_tail(output))


def _pip_is_configured(environment: Environment) -> bool:
    """Whether the person told pip where packages come from (a mirror, a folder); uv would not know of it."""
    command = [str(environment.python), "-m", "pip", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False)
    return bool(re.search(r"index-url|find-links|no-index", done.stdout))


def _variables() -> dict[str, str]:
    """Without settings that would send packages elsewhere than into the environment."""
    unwanted = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in unwanted} | {
        "PIP_USER": "0",
        "PYTHONUTF8": "1",
    }


_CAUSES = {
    "setup.disk_full": r"No space left on device|Errno 28|not enough space|os error 28|os error 112",
    "setup.certificate": r"CERTIFICATE_VERIFY_FAILED|SSLCertVerificationError|invalid peer certificate",
    "setup.no_network": (
        r"Name or service not known|name resolution|getaddrinfo failed|NewConnectionError|ConnectTimeoutError"
        r"|Connection refused|Network is unreachable|ProxyError|Max retries exceeded|ReadTimeoutError|timed out"
        r"|dns error|error sending request|nodename nor servname"
    ),
    "setup.long_path": r"WinError 206|Long Path support",
    "setup.no_permission": r"Permission denied|Access is denied|WinError 5\b|WinError 32\b|Errno 13",
}


def _cause(output: str) -> str:
    """Key of the sentence for what an installer printed."""
    return next((key for key, pattern in _CAUSES.items() if re.search(pattern, output)), "setup.failed")


def _tail(output: str, lines: int = 12) -> str:
    return "\n".join(output.strip().splitlines()[-lines:])


def _write_command(environment: Environment) -> None:
    """Put a ``kumakobo`` command into the environment, for those who activate it."""
    if os.name == "nt":
        script = '@set "PYTHONPATH=%~dp0..\\.."\n@set PYTHONUTF8=1\n@"%~dp0python.exe" -m lora_core %*\n'
        (environment.programs / "kumakobo.cmd").write_text(script, encoding="ascii", newline="\r\n")
        return
    path = environment.programs / "kumakobo"
    path.write_text(
        "#!/bin/sh\n"
        'here=$(cd "$(dirname "$0")/../.." && pwd)\n'
        'PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH} exec "$here/.venv/bin/python" -m lora_core "$@"\n',
        encoding="ascii",
    )
    path.chmod(0o755)


def say(line: str) -> None:
    print(line, flush=True)
