"""Starts the page's server: environment, port, security, and the caretaker that keeps the line of jobs moving."""

import os
import signal
import socket
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_core.errors import UserError
from lora_core.i18n import Language, text
from lora_core.runs import home

PORT = 7860
PORTS_TRIED = 100
CARETAKER_SECONDS = 5.0
LOOK_SECONDS = 0.5
"""On Windows a wait without end does not hear Ctrl-C."""


@dataclass(frozen=True)
class ServerOptions:
    host: str = "127.0.0.1"
    port: int = PORT
    user: str = "kumakobo"
    password: str | None = None
    """Needed when other machines can reach the page."""
    open_browser: bool = True
    language: Language | None = None
    """None: each browser's own."""


def prepare_environment() -> None:
    """What must be set before gradio is imported: nothing is reported to anybody, uploads stay in our own folder."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(home() / "cache" / "uploads")
    os.environ.pop("GRADIO_MCP_SERVER", None)
    os.environ.pop("GRADIO_SHARE", None)


def serve(options: ServerOptions, console: Language = "en") -> None:
    """Serve the page until Ctrl-C. Raises UserError for what the person can put right."""
    prepare_environment()
    from app.security import is_local

    if not is_local(options.host) and not options.password:
        raise UserError("server.password_needed")
    port = free_port(options.host, options.port)
    with interrupts() as stop:
        demo, url = launch(options, port)
        if port != options.port:
            print(text("server.other_port", console, wanted=options.port, port=port))
        print(text("server.ready", console, url=url), flush=True)
        if options.open_browser:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        threading.Thread(target=take_care, daemon=True, name="caretaker").start()
        try:
            while not stop.wait(LOOK_SECONDS):
                pass
            print("\n" + text("server.bye", console), flush=True)
        finally:
            demo.close(verbose=False)


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets: raised as an exception in the middle of starting, it would get lost in a library.

    A second Ctrl-C is an exception after all.
    """
    stop = threading.Event()

    def ask(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not in the main thread, as in a test
        yield stop
        return
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def launch(options: ServerOptions, port: int) -> tuple[Any, str]:
    """Build the page and start its server in the background; returns the page and its address."""
    from app.i18n import words
    from app.page import Context
    from app.security import is_local
    from app.shared_files import shared_folder
    from app.ui import build

    local = is_local(options.host)
    for folder in (shared_folder(), Path(os.environ["GRADIO_TEMP_DIR"])):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError("jobs.cannot_write", path=folder, error=error.strerror or error) from error
    demo = build(Context(roots=() if local else (Path.home(), home())))
    demo.queue(default_concurrency_limit=8, api_open=False)
    demo.launch(
        server_name=options.host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        inbrowser=False,
        _frontend=False,  # else Gradio asks for the page once, and ends the app when that takes longer than 3 seconds
        auth=(options.user, options.password) if options.password else None,
        i18n=words(),
        **page_options(demo),
        **safe_options(options),
    )
    return demo, f"http://{'127.0.0.1' if local or options.host == '0.0.0.0' else options.host}:{port}"


def page_options(demo: Any) -> dict[str, Any]:
    """Look and scripts of the page, as app.ui has them (launch takes them since Gradio 6, not Blocks)."""
    from app import ui
    from app.widgets.run_status import COPY_HEAD

    options: dict[str, Any] = {"footer_links": [], "head": COPY_HEAD + getattr(ui, "HEAD", "")}
    options["theme"] = ui.theme()
    options["css_paths"] = sorted((Path(__file__).parent / "styles").glob("*.css"))
    return options


def safe_options(options: ServerOptions) -> dict[str, Any]:
    """Everything that closes the server: nothing shared, listed, reported or served that the page does not need."""
    from app.security import middleware, own_names
    from app.shared_files import shared_folder

    return {
        "share": False,
        "show_error": False,
        "run_history": False,
        "mcp_server": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "pwa": False,
        "strict_cors": True,
        "max_file_size": "2gb",
        "state_session_capacity": 100,
        "allowed_paths": [str(shared_folder())],
        "app_kwargs": {
            "docs_url": None,
            "redoc_url": None,
            "openapi_url": None,
            "middleware": middleware(own_names(options.host), options.language),
        },
    }


def free_port(host: str, first: int) -> int:
    """The first free port from ``first`` on. Raises UserError when a hundred are taken."""
    for port in range(first, min(first + PORTS_TRIED, 65536)):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if os.name != "nt":  # on Windows this option would let two servers share a port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host.strip("[]"), port))
            except OSError:
                continue
            return port
    raise UserError("server.no_port", first=first, host=host)


def take_care(stop: threading.Event | None = None) -> None:
    """Keep the line of jobs moving when no page is open. Runs until ``stop`` is set."""
    from lora_core import jobs

    stop = stop or threading.Event()
    while not stop.wait(CARETAKER_SECONDS):
        jobs.advance()
