"""The real app in its own process and folder, and a real browser. Skipped with one line where there is no Chromium."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from app.calm import COOKIE
from lora_core import jobs
from lora_core.runs import PROJECT, RunFolder, create_run, list_runs
from lora_core.settings import RunSettings
from lora_core.setup.browser import system_chromium

FAKE = Path(__file__).with_name("fake_trainer.py")
QUIET_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LOCAL = ("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:", "about:")


THOROUGH = (
    "test_two_loras_become_one[ja]",
    "test_a_mix_of_families_is_refused_at_once[ja]",
    "test_a_lora_is_told_and_its_training_loaded[ja-JP]",
    "test_two_are_compared[ja-JP]",
    "test_what_is_wrong_is_found_and_cleaned[ja-JP]",
    "test_a_prompt_becomes_a_picture_with_the_lora[ja-JP]",
    "test_a_folder_without_epochs_is_told[ja-JP",
    "test_the_model_stays_loaded_until_it_is_freed[ja-JP]",
    "test_what_cannot_be_drawn_is_told_at_once[-",
    "test_a_search_leads_into_a_closed_part_above_the_level[kohya]",
    "test_a_search_leads_into_a_closed_part_above_the_level[label]",
    "test_a_phone_needs_no_sideways_scrolling[en-US]",
    "test_nothing_runs_off_a_phone[en-US]",
    "test_a_folder_and_two_words_become_a_training[ja-JP]",
    "test_a_short_run_finishes",
    "test_what_cannot_be_proved_is_told_at_once[none",
)
"""Beginnings of the names of tests that are left out unless asked for: a browser test takes ten seconds, and these show
what another one shows, in the other language or for another value. Japanese words are the longer ones on a phone."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
        if item.name.startswith(THOROUGH):
            item.add_marker(pytest.mark.thorough)


@dataclass
class App:
    """One running app; ``home`` is its folder."""

    home: Path
    port: int
    env: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = (sys.executable, "-m", "app")
    process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def root(self) -> Path:
        return self.home / "runs"

    def start(self) -> "App":
        env = {**os.environ, "KUMAKOBO_HOME": str(self.home), "PYTHONUTF8": "1", **self.env}
        with (self.home / "app.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.program, "--port", str(self.port), "--no-browser"],
                cwd=PROJECT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        until = time.monotonic() + 90
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            try:
                urllib.request.urlopen(self.url, timeout=5).close()
                return self
            except OSError:
                time.sleep(0.25)
        raise AssertionError("the app did not start:\n" + (self.home / "app.log").read_text(encoding="utf-8"))

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def enqueue(self, name: str = "usu_bear", **fake: Any) -> RunFolder:
        """Put a run in line, as another page or another app would; the app under test starts it."""
        run = create_run(RunSettings(save={"output_name": name, "output_dir": str(self.home / "out")}), self.root)
        (run.path / "fake.json").write_text(json.dumps(fake), encoding="utf-8")
        jobs.put_in_line(run)
        return run

    def end_jobs(self) -> None:
        for run in list_runs(self.root):
            (run.path / "queued").unlink(missing_ok=True)
            if process := jobs.alive(run):
                jobs.end_by_force(process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def new_app():
    """Makes an app with the stand-in trainer, not started yet."""

    def make(home: Path) -> App:
        home.mkdir(parents=True, exist_ok=True)
        return App(home, free_port(), {"KUMAKOBO_TRAINER": json.dumps([sys.executable, str(FAKE)])})

    return make


@pytest.fixture(scope="session")
def shared_app(new_app, tmp_path_factory) -> Iterator[App]:
    app = new_app(tmp_path_factory.mktemp("home") / "私の studio").start()
    yield app
    app.end_jobs()
    app.kill()


@pytest.fixture
def app(shared_app) -> Iterator[App]:
    """The app, without any runs."""
    shared_app.end_jobs()
    time.sleep(0.3)
    shutil.rmtree(shared_app.root, ignore_errors=True)
    yield shared_app
    shared_app.end_jobs()


@pytest.fixture
def own_app(new_app, tmp_path) -> Iterator[App]:
    """An app of one's own, to kill."""
    app = new_app(tmp_path / "home").start()
    yield app
    app.end_jobs()
    app.kill()


@pytest.fixture(scope="session")
def real_app(new_app, tmp_path_factory) -> Iterator[App]:
    """An app with the real trainer. What earlier tests ran in it is still there."""
    app = new_app(tmp_path_factory.mktemp("studio") / "home")
    app.env = {"KUMAKOBO_TRAINER": json.dumps([sys.executable, "-m", "lora_core", "train"]), "OMP_NUM_THREADS": "1"}
    yield app.start()
    app.end_jobs()
    app.kill()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright: pip install playwright")
    with api.sync_playwright() as playwright:
        found = system_chromium()
        if found is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("browser tests need Chromium: install it, or run: playwright install chromium")
        browser = playwright.chromium.launch(executable_path=found, args=QUIET_FLAGS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """What a browser asked for and complained about."""

    foreign: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


SLOW = "KUMAKOBO_TEST_SLOW"
"""Environment variable, such as 3: a browser so many times slower, and answers late and out of order, to find races."""


def slow_down(context: Any, page: Any, times: float) -> None:
    context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": times})
    random = Random(0)
    delay = f"""
        const send = window.fetch, random = {[random.random() for _ in range(97)]};
        let count = 0;
        window.fetch = async (...what) => {{
          const answer = await send(...what);
          await new Promise((go) => setTimeout(go, {200 * times} * random[count++ % random.length]));
          return answer;
        }};"""
    page.add_init_script(delay)


@pytest.fixture
def visit() -> Visit:
    return Visit()


@pytest.fixture
def open_page(chromium, request, visit):
    """Opens the page in a fresh browser profile: ``open_page(locale="ja-JP", width=390)``."""
    contexts = []

    def open_it(
        locale: str = "en-US",
        width: int = 1280,
        height: int = 900,
        url: str | None = None,
        context=None,
        level: str | None = "expert",
    ):
        url = url or request.getfixturevalue("app").url
        if context is None:
            context = chromium.new_context(locale=locale, viewport={"width": width, "height": height})
            contexts.append(context)
            if level:  # of settings; None: as a newcomer finds the page
                context.add_cookies([{"name": COOKIE, "value": level, "url": url}])
        page = context.new_page()
        page.set_default_timeout(90_000)
        page.on("request", lambda request: request.url.startswith(LOCAL) or visit.foreign.append(request.url))
        page.on("pageerror", lambda error: visit.errors.append(str(error)))
        if slow := float(os.environ.get(SLOW, 0)):
            slow_down(context, page, slow)
        page.goto(url)
        page.wait_for_selector("#job_pill .jp")
        return page

    yield open_it
    for context in contexts:
        context.close()


@pytest.fixture
def show_monitor():
    """Goes to the Monitor tab of an open page, by a click on the pill."""

    def show(page) -> None:
        page.click("#job_pill .jp")
        page.wait_for_selector("#monitor_status .rs", state="visible")

    return show


@pytest.fixture
def monitor(open_page, show_monitor):
    """Opens the page on the Monitor tab."""

    def open_it(**options):
        page = open_page(**options)
        show_monitor(page)
        return page

    return open_it
