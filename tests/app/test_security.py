"""What the server refuses, what it never does, and what no process of the app ever loads."""

import os
import socket
import subprocess
import sys

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app import security
from app.__main__ import main, parser
from app.i18n import COOKIE
from app.server import ServerOptions, free_port, safe_options
from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES, text
from lora_core.runs import PROJECT


@pytest.fixture
def site() -> TestClient:
    """A page behind our middlewares, as the app has them when only this machine may open it."""
    page = "<!doctype html><html><head><title>x</title></head><body></body></html>"
    routes = [
        Route("/", lambda request: HTMLResponse(page)),
        Route("/act", lambda request: PlainTextResponse("done"), methods=["POST", "GET"]),
    ]
    app = Starlette(routes=routes, middleware=security.middleware(security.own_names("127.0.0.1")))
    return TestClient(app, base_url="http://127.0.0.1:7860")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.1.5", ""])
def test_unknown_host_names_are_refused(site, host):
    assert site.get("/", headers={"host": host}).status_code == 400


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860"])
def test_our_own_names_are_served(site, host):
    assert site.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_other_pages_cannot_act(site, headers):
    assert site.post("/act", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "headers", [{}, {"origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}]
)
def test_our_page_can_act(site, headers):
    assert site.post("/act", headers=headers).status_code == 200


def test_the_browser_is_told_to_load_nothing_from_elsewhere(site):
    policy = site.get("/").headers["content-security-policy"]
    assert "http:" not in policy
    assert "https:" not in policy
    assert "*" not in policy
    assert "default-src 'self'" in policy


@pytest.mark.parametrize(
    ("cookie", "accept", "language"),
    [
        (None, "ja-JP,ja;q=0.9", "ja"),
        (None, "de,ja;q=0.5", "en"),
        (None, "", "en"),
        ("ja", "en-US", "ja"),
        ("en", "ja", "en"),
        ("<script>", "ja", "ja"),
    ],
)
def test_the_page_starts_in_the_chosen_language(site, cookie, accept, language):
    headers = {"accept-language": accept} | ({"cookie": f"{COOKIE}={cookie}"} if cookie else {})
    answer = site.get("/", headers=headers)
    assert f"get:()=>'{language}'" in answer.text.partition("<title>")[0]
    assert int(answer.headers["content-length"]) == len(answer.content)
    if cookie not in LANGUAGES:
        assert answer.cookies[COOKIE] == language


def test_the_language_of_the_command_line_counts_until_somebody_chooses():
    app = Starlette(
        routes=[Route("/", lambda request: HTMLResponse("<head></head>"))],
        middleware=[Middleware(security.LanguageHead, default="ja")],
    )
    client = TestClient(app)
    assert "'ja'" in client.get("/", headers={"accept-language": "en"}).text
    assert "'en'" in client.get("/", headers={"cookie": f"{COOKIE}=en"}).text


def test_other_machines_need_a_password(monkeypatch, capsys):
    monkeypatch.delenv("KUMAKOBO_PASSWORD", raising=False)
    for arguments in (["--listen"], ["--host", "0.0.0.0"], ["--host", "192.168.1.2"]):
        for language in LANGUAGES:
            assert main([*arguments, "--no-browser", "--lang", language]) == 2
            assert capsys.readouterr().err.strip() == text("server.password_needed", language)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.5"])
def test_local_addresses(host):
    assert security.is_local(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_addresses_that_others_reach(host):
    assert not security.is_local(host)


def test_names_never_hold_a_wildcard():
    for host in ("127.0.0.1", "0.0.0.0", "::", "192.168.1.2", "studio.local"):
        names = security.own_names(host)
        assert not {"*", "0.0.0.0", "::"} & set(names)
        assert "127.0.0.1" in names
    assert "studio.local" in security.own_names("studio.local")


def test_little_is_served_and_nothing_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path))
    options = safe_options(ServerOptions())
    assert options["allowed_paths"] == [str(tmp_path / "cache" / "page")]
    assert options["show_error"] is False
    assert options["share"] is False
    assert options["app_kwargs"]["openapi_url"] is None


def test_the_next_free_port_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port("127.0.0.1", port) <= port + 100


def test_no_free_port_is_said(monkeypatch):
    monkeypatch.setattr("app.server.PORTS_TRIED", 0)
    with pytest.raises(UserError):
        free_port("127.0.0.1", 7860)


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_in_both_languages(language):
    assert "--listen" in parser(language).format_help()


@pytest.mark.parametrize("module", ["app.__main__", "app.ui", "lora_core.jobs", "app.tabs.monitor", "app.tabs.system"])
def test_the_app_never_imports_torch(module):
    heavy = ("torch", "diffusers", "transformers", "accelerate", "peft", "bitsandbytes")
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, env={**os.environ, "PYTHONUTF8": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("[]")


@pytest.fixture(scope="module")
def page():
    from app.page import Context
    from app.ui import build

    return build(Context())


def test_every_event_is_private(page):
    assert page.fns
    assert [fn.api_name for fn in page.fns.values() if fn.api_visibility != "private"] == []


def test_nothing_is_reported_to_anybody(page, monkeypatch):
    from app.server import prepare_environment

    prepare_environment()
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
