"""The launch scripts themselves: that they agree, and that a fresh copy of the project starts with them."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from lora_core.setup.environment import PROJECT, Environment

SH = (PROJECT / "launch.sh").read_text(encoding="utf-8")
PS1 = (PROJECT / "launch.ps1").read_text(encoding="utf-8")
BAT = (PROJECT / "launch.bat").read_bytes()


@pytest.mark.parametrize(
    "pattern",
    [
        r"import sys; sys\.exit\(not \(3, 11\) <= sys\.version_info\[:2\] <= \(3, 13\)\)",
        r"-m lora_core\.setup",
        r"KUMAKOBO_PYTHON",
        r"--reinstall",
        r"uv python find ['\"]>=3\.11,<3\.14['\"]",
        r"uv python install --quiet 3\.12",
        r"PYTHONUTF8",
        r"Python 3\.11, 3\.12 or 3\.13 was not found",
    ],
)
def test_both_scripts_do_the_same(pattern):
    assert re.search(pattern, SH)
    assert re.search(pattern, PS1)


def test_decisions_are_made_in_python_only():
    for script in (SH, PS1, BAT.decode("ascii")):
        assert not re.search(r"nvidia-smi|download\.pytorch|pip install|cu1\d\d|torch==", script)


def test_windows_scripts_can_be_read_by_windows():
    assert PS1.isascii()  # Windows PowerShell reads a file without BOM in the system's legacy encoding
    assert BAT.count(b"\r\n") == BAT.count(b"\n")
    assert b'-ExecutionPolicy Bypass -File "%~dp0launch.ps1" %*' in BAT


def test_the_python_range_is_that_of_the_project():
    assert 'requires-python = ">=3.11,<3.14"' in (PROJECT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.skipif(os.name == "nt", reason="launch.sh is for Linux and macOS")
@pytest.mark.parametrize(("lang", "words"), [("ja_JP.UTF-8", "見つかりません"), ("C.UTF-8", "was not found")])
def test_a_machine_without_python_is_told_what_to_install(tmp_path, lang, words):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "env"):
        (tools / name).symlink_to(str(shutil.which(name)))
    for name in ("python3", "python"):  # too old a Python, as far as the script can see
        (tools / name).write_text("#!/usr/bin/env bash\nexit 1\n", encoding="ascii")
        (tools / name).chmod(0o755)
    copy = tmp_path / "空 の"
    copy.mkdir()
    shutil.copy(PROJECT / "launch.sh", copy)
    done = subprocess.run(
        [copy / "launch.sh"], env={"PATH": str(tools), "LANG": lang}, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 1
    assert words in done.stderr


def fresh_copy(target: Path) -> Path:
    """The files that a clone would have, with the changes that are not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=PROJECT, capture_output=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.decode("utf-8").split("\0")):
        if (PROJECT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, target / name)
    return target


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A fresh copy at a path with a space and Japanese letters, installed by its own launcher, with nothing shared."""
    if os.name == "nt":
        pytest.skip("launch.sh is for Linux and macOS")
    copy = fresh_copy(tmp_path_factory.mktemp("fresh") / "くま 工房")
    done = launch(copy, "doctor", "--json")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "First start" in done.stdout
    return copy


def launch(copy: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [copy / "launch.sh", *arguments],
        cwd="/",
        env=clean_environment() | variables,
        capture_output=True,
        encoding="utf-8",
        timeout=1200,
    )


def clean_environment() -> dict[str, str]:
    """Without what points at this test run's own environment and settings."""
    unwanted = ("PYTHONPATH", "VIRTUAL_ENV", "KUMAKOBO_HOME", "KUMAKOBO_TRAINER", "PYTEST_XDIST_WORKER")
    inherited = {name: value for name, value in os.environ.items() if name not in unwanted}
    own = Path(sys.prefix) / "bin"
    path = [part for part in os.environ.get("PATH", "").split(os.pathsep) if Path(part) != own]
    return inherited | {"PATH": os.pathsep.join(path), "KUMAKOBO_LANG": "en"}


@pytest.mark.install
class TestFreshCopy:
    def test_the_doctor_reports_from_its_own_environment(self, installed):
        done = launch(installed, "doctor", "--json")
        rows = {row["key"]: row for row in json.loads(done.stdout)}
        assert rows["torch"]["status"] == "ok"
        assert rows["folder"]["value"] == str(installed)
        assert rows["verdict"]["status"] != "error"

    def test_a_later_start_installs_nothing_and_needs_no_network(self, installed):
        before = {path: path.stat().st_mtime_ns for path in installed.joinpath(".venv").iterdir()}
        nowhere = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"), "http://127.0.0.1:9")
        done = launch(installed, "train", "--help", **nowhere)
        assert done.returncode == 0
        assert done.stdout.startswith("usage: kumakobo train")
        assert {path: path.stat().st_mtime_ns for path in installed.joinpath(".venv").iterdir()} == before

    def test_the_studio_opens_and_stops(self, installed):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        studio = subprocess.Popen(
            [installed / "launch.sh", "--port", str(port), "--no-browser"],
            cwd="/",
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            assert "Kumakobo" in page(f"http://127.0.0.1:{port}/", studio)
        finally:
            os.killpg(studio.pid, signal.SIGINT)
            try:
                studio.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(studio.pid, signal.SIGKILL)
                raise

    def test_nothing_of_torchvision_was_installed(self, installed):
        python = Environment(installed).python
        listed = subprocess.run([python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True)
        names = {line.split("==")[0] for line in listed.stdout.splitlines()}
        assert "torch" in names
        assert not names & {"torchvision", "torchaudio", "kumakobo"}


def page(url: str, process: subprocess.Popen, seconds: float = 120) -> str:
    """The page at the address, once it is served."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.read().decode("utf-8")
        except OSError:
            time.sleep(0.5)
    process.kill()
    raise AssertionError(f"no page at {url}:\n{process.communicate()[0].decode('utf-8', 'replace')}")
