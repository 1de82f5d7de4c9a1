"""Keeps other web pages, other machines and other names away from the app, and tells the page its language.

Three small ASGI middlewares for ``launch(app_kwargs={"middleware": ...})``: only known host names (against DNS
rebinding), only requests from our own page (against cross-site requests), and headers that forbid the page to load
anything from elsewhere.
"""

import ipaddress
import socket
from collections.abc import Iterable

import psutil
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.i18n import COOKIE
from lora_core.i18n import LANGUAGES, Language

LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")
READING = frozenset({"GET", "HEAD", "OPTIONS"})

# Gradio compiles templates in the page, hence unsafe-eval; everything else comes from this server alone.
CONTENT_POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' data: blob:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    ]
)
HEADERS = {
    b"content-security-policy": CONTENT_POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
}


def middleware(hosts: Iterable[str], language: Language | None = None) -> list[Middleware]:
    """All of them, in order. ``language`` is the page's language until somebody chooses; None: the browser's."""
    return [
        Middleware(TrustedHostMiddleware, allowed_hosts=[*hosts], www_redirect=False),
        Middleware(SameOrigin),
        Middleware(SafeHeaders),
        Middleware(LanguageHead, default=language),
    ]


def own_names(host: str) -> list[str]:
    """The names under which a browser may reach us when we listen at ``host``."""
    if is_local(host):
        return [*LOCAL_NAMES]
    machine = socket.gethostname()
    names = {*LOCAL_NAMES, host, machine, machine.lower(), f"{machine}.local".lower()}
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET:
                names.add(address.address)
            elif address.family == socket.AF_INET6:
                names.add(f"[{address.address.partition('%')[0]}]")
    return sorted(names - {"0.0.0.0", "::", "[::]"})


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class SameOrigin:
    """Refuses what another site's page sends: anything but reading, when the browser says it comes from elsewhere."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" or (scope["type"] == "http" and scope["method"] not in READING):
            headers = HTTPConnection(scope).headers
            origin, site = headers.get("origin"), headers.get("sec-fetch-site")
            foreign = bool(origin) and origin.partition("://")[2] != headers.get("host")
            if foreign or (site and site not in ("same-origin", "none")):
                await PlainTextResponse("cross-origin request refused", 403)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class SafeHeaders:
    """Adds headers with which the browser itself refuses to load anything from another site."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message.get("headers", []) if name.lower() not in HEADERS]
                message = {**message, "headers": [*kept, *HEADERS.items()]}
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


class LanguageHead:
    """Lets the page start in the chosen language, which Gradio takes from ``navigator.language`` before our scripts.

    The cookie is set on the first visit, so that server and page never differ.
    """

    def __init__(self, app: ASGIApp, default: Language | None = None):
        self.app = app
        self.default = default

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"] not in ("", "/"):
            await self.app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        chosen = connection.cookies.get(COOKIE)
        known = chosen in LANGUAGES
        language = chosen if known else self.default or first_language(connection.headers.get("accept-language", ""))
        # The body is changed here, so it must come uncompressed.
        scope = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]}
        start: Message = {}
        body = bytearray()

        async def collect(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            page = bytes(body).replace(b"<head>", b"<head>" + head_script(language), 1)
            headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            headers.append((b"content-length", str(len(page)).encode()))
            if not known:
                cookie = f"{COOKIE}={language}; Path=/; Max-Age=31536000; SameSite=Strict"
                headers.append((b"set-cookie", cookie.encode()))
            await send({**start, "headers": headers})
            await send({"type": "http.response.body", "body": page})

        await self.app(scope, receive, collect)


def first_language(accept: str) -> Language:
    first = accept.split(",")[0].partition(";")[0].strip().lower()
    return "ja" if first == "ja" or first.startswith("ja-") else "en"


def head_script(language: str) -> bytes:
    return (
        f"<script>document.documentElement.lang='{language}';"
        f"Object.defineProperty(navigator,'language',{{get:()=>'{language}'}});"
        f"Object.defineProperty(navigator,'languages',{{get:()=>['{language}']}});</script>"
    ).encode()
