"""When an environment is made, brought up to date or left alone, and what is said when that fails."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import namedtuple
from pathlib import Path

import pytest

from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES, text
from lora_core.setup import backends, browser, environment, hardware, testing
from lora_core.setup.__main__ import split
from lora_core.setup.environment import _CAUSES, PROJECT, Environment, Stamp, _cause, ensure, require_space
from lora_core.setup.progress import describe, follow


@pytest.fixture
def project(tmp_path) -> Environment:
    folder = tmp_path / "くま 工房"
    folder.mkdir()
    shutil.copy(PROJECT / "pyproject.toml", folder)
    shutil.copy(PROJECT / "constraints.txt", folder)
    return Environment(folder)


@pytest.fixture
def installs(monkeypatch, project) -> list[list[str]]:
    """The installer calls that would be made, on a Linux machine without a card and without PyTorch's index."""
    made: list[list[str]] = []

    def fake_follow(command, log, language, env):
        made.append(list(command))
        return 0, ""

    def fake_venv(where):
        where.programs.mkdir(parents=True)
        where.python.symlink_to(sys.executable)

    monkeypatch.setattr(hardware, "detect", lambda: hardware.Hardware("Linux"))
    monkeypatch.setattr(backends, "reachable", lambda backend: False)
    monkeypatch.setattr(environment, "follow", fake_follow)
    monkeypatch.setattr(environment, "make_venv", fake_venv)
    monkeypatch.setattr(environment, "_pip_is_configured", lambda where: True)
    monkeypatch.setenv("KUMAKOBO_MIN_DISK_GB", "0")
    return made


def test_the_first_start_installs_torch_first_and_the_next_nothing(project, installs, capsys):
    ensure(project, "en")
    torch, rest = installs
    assert torch[-1] == f"torch=={backends.TORCH}"
    assert not any(re.match(r"torch\b(?![-_.])|torchvision|torchaudio", word) for word in rest)
    assert "not reachable" in capsys.readouterr().out
    installs.clear()
    ensure(project, "en")
    assert installs == []
    assert capsys.readouterr().out == ""


def test_test_extras_are_added_once_and_kept(project, installs):
    ensure(project, "en")
    installs.clear()
    ensure(project, "en", extras=["test"])
    assert any(word.startswith("pytest>") for word in installs[-1])
    installs.clear()
    ensure(project, "en")
    ensure(project, "en", extras=["test"])
    assert installs == []


def test_changed_pins_install_again_with_the_same_extras_and_backend(project, installs):
    ensure(project, "en", wanted="cu126", extras=["test"])
    with (project.project / "constraints.txt").open("a", encoding="utf-8") as pins:
        pins.write("# another day\n")
    installs.clear()
    ensure(project, "en")
    stamp = project.stamp()
    assert stamp is not None
    assert (stamp.backend, stamp.wanted, stamp.extras) == ("cu126", "cu126", ("test",))
    assert any(word.startswith("pytest>") for word in installs[-1])


def test_torch_is_not_looked_up_again_when_only_other_packages_are_wanted(project, installs, capsys):
    ensure(project, "en")
    packages = "Lib/site-packages" if os.name == "nt" else "lib/python3.12/site-packages"
    (project.folder / packages / f"torch-{backends.TORCH}+cpu.dist-info").mkdir(parents=True)
    installs.clear()
    ensure(project, "en", extras=["test"])
    assert len(installs) == 1
    assert "not reachable" not in capsys.readouterr().out.partition("Installed.")[2]


def test_another_backend_replaces_torch(project, installs, monkeypatch):
    ensure(project, "en")
    removed: list[bool] = []
    monkeypatch.setattr(environment, "_uninstall_torch", lambda where: removed.append(True))
    monkeypatch.setattr(backends, "reachable", lambda backend: True)
    installs.clear()
    ensure(project, "en", wanted="cu130")
    assert removed == [True]
    assert f"torch=={backends.TORCH}+cu130" in installs[0]
    assert f"{backends.PYTORCH_INDEX}/cu130" in installs[0]


def test_an_interrupted_update_is_done_again(project, installs, monkeypatch):
    ensure(project, "en")
    monkeypatch.setattr(environment, "follow", lambda *a, **k: (1, "Temporary failure in name resolution"))
    with pytest.raises(UserError, match="could not be downloaded"):
        ensure(project, "en", extras=["test"])
    monkeypatch.setattr(environment, "follow", lambda command, *a, **k: (installs.append(command), (0, ""))[1])
    installs.clear()
    ensure(project, "en")
    assert installs


def test_uv_goes_first_and_pip_follows_when_it_fails(project, installs, monkeypatch, capsys):
    monkeypatch.setattr(environment, "_pip_is_configured", lambda where: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    tried: list[str] = []

    def failing_uv(command, log, language, env):
        tried.append(Path(command[0]).name)
        return (1, "no such wheel") if tried[-1] == "uv" else (0, "")

    monkeypatch.setattr(environment, "follow", failing_uv)
    ensure(project, "en")
    assert tried == ["uv", project.python.name] * 2
    assert "trying pip" in capsys.readouterr().out


def test_the_kumakobo_command_of_the_environment_runs_from_any_folder(project, installs, tmp_path):
    ensure(project, "en")
    package = project.project / "lora_core"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import sys; print('hello', *sys.argv[1:])", encoding="utf-8")
    done = subprocess.run(
        [project.programs / "kumakobo", "train", "a b.toml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "hello train a b.toml\n"


def test_little_disk_space_is_said_before_anything_is_made(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.delenv("KUMAKOBO_MIN_DISK_GB", raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**12, 0, 3 * 10**9))
    with pytest.raises(UserError, match=r"3\.0 GB are free, an installation needs about 6 GB"):
        require_space(tmp_path, 6)
    monkeypatch.setenv("KUMAKOBO_MIN_DISK_GB", "2")
    require_space(tmp_path, 6)


@pytest.mark.parametrize(
    ("output", "key"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "setup.disk_full"),
        ("NewConnectionError: [Errno -2] Name or service not known", "setup.no_network"),
        ("error: dns error: failed to lookup address information", "setup.no_network"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))", "setup.certificate"),
        ("OSError: [WinError 5] Access is denied: 'x.pyd'", "setup.no_permission"),
        (
            "HINT: This error might have occurred since this system does not have Windows Long Path support",
            "setup.long_path",
        ),
        ("ERROR: No matching distribution found for torch==9", "setup.failed"),
    ],
)
@pytest.mark.parametrize("language", LANGUAGES)
def test_installer_failures_get_a_sentence(output, key, language):
    assert _cause(output) == key
    assert "LOG" in text(key, language, tail="", log="LOG")


def test_the_log_of_an_installer_is_kept(tmp_path, capsys):
    code = "print('Collecting torch'); print('  Downloading torch-2.13.0.whl (190.0 MB)'); raise SystemExit(3)"
    status, output = follow([sys.executable, "-c", code], tmp_path / "log", "en", dict(os.environ))
    assert status == 3
    assert "Collecting torch" in output
    assert "190.0 MB" in (tmp_path / "log").read_text(encoding="utf-8")
    assert capsys.readouterr().out == "  downloading torch (190.0 MB)\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Collecting gradio<7,>=6.31", "looking up gradio"),
        ("Collecting accelerate[x]~=1", "looking up accelerate"),
        ("Processing /some/folder/torch-2.13.0-cp311.whl (from x)", "looking up torch"),
        ("  Downloading pandas-3.1.1-cp311.whl (12.4 MB)", "downloading pandas (12.4 MB)"),
        ("  Downloading small-1.0-py3-none-any.whl.metadata (5 kB)", None),
        ("Installing collected packages: a, b", "installing the packages"),
        ("Requirement already satisfied: a", None),
    ],
)
def test_what_an_installer_does_is_told_in_a_few_words(line, said):
    assert describe(line, "en") == said


@pytest.mark.parametrize(
    ("argv", "own", "command"),
    [
        ([], [], ["gui"]),
        (["--backend", "cpu"], ["--backend", "cpu"], ["gui"]),
        (["--backend=cpu", "--reinstall", "demo"], ["--backend=cpu", "--reinstall"], ["demo"]),
        (["--port", "8000"], [], ["gui", "--port", "8000"]),
        (["train", "a.toml", "--backend", "x"], [], ["train", "a.toml", "--backend", "x"]),
        (["--no-install", "test", "-k", "a"], ["--no-install"], ["test", "-k", "a"]),
        (["-h"], ["-h"], ["gui"]),
        (["gui", "--help"], [], ["gui", "--help"]),
    ],
)
def test_launcher_options_come_first(argv, own, command):
    assert split(argv) == (own, command)


def test_setup_needs_only_the_standard_library():
    done = subprocess.run(
        [sys.executable, "-S", "-m", "lora_core.setup", "--help"],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "KUMAKOBO_LANG": "ja", "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
    )
    assert "--backend" in done.stdout, done.stderr


def test_every_check_has_a_sentence_and_every_pin_is_exact():
    pins = [line for line in (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", pin) for pin in pins)
    assert f"torch=={backends.TORCH}" in pins
    for key in _CAUSES:
        assert text(key, "ja", tail="", log="") != text(key, "en", tail="", log="")


def test_every_requirement_is_pinned():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    names = {re.split(r"[<>=;\[ ]", line)[0].lower().replace("_", "-") for line in lines}
    pins = (PROJECT / "constraints.txt").read_text(encoding="utf-8")
    assert {name for name in names if f"\n{name}==" not in pins} == set()


class TestTestCommand:
    """``launch test``: what fails, what is printed last."""

    @pytest.fixture(autouse=True)
    def _no_browser(self, monkeypatch):
        monkeypatch.setattr(browser, "provide_chromium", lambda *a: None)
        monkeypatch.setattr(browser, "provide_japanese_font", lambda *a: True)

    @pytest.mark.parametrize(("failing", "code"), [(None, 0), ("ruff", 1), ("mypy", 1), ("pytest", 1)])
    def test_fails_when_any_part_fails_and_pytest_comes_last(self, monkeypatch, project, failing, code):
        ran: list[str] = []

        def run(command, **options):
            ran.append(command[2])
            return subprocess.CompletedProcess(command, int(command[2] == failing))

        monkeypatch.setattr(testing.subprocess, "run", run)
        assert testing.run_tests(project, "en") == code
        assert ran == ["ruff", "ruff", "mypy", "pytest"]

    def test_arguments_go_to_pytest_alone(self, monkeypatch, project):
        ran: list[list[str]] = []
        monkeypatch.setattr(
            testing.subprocess, "run", lambda c, **o: (ran.append(c[1:]), subprocess.CompletedProcess(c, 0))[1]
        )
        assert testing.run_tests(project, "en", ["-k", "bear"]) == 0
        assert ran == [["-m", "pytest", "-k", "bear"]]


def test_a_stamp_of_another_shape_counts_as_none(project):
    project.folder.mkdir()
    for content in ("", "{}", json.dumps({"fingerprint": "x"}), "[]"):
        (project.folder / "kumakobo.json").write_text(content, encoding="utf-8")
        assert project.stamp() is None
    assert Stamp("a", "auto", "cpu").covers(None, [], "a")
