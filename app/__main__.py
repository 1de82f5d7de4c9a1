"""``kumakobo gui``: serve the page and open it in the browser."""

import argparse
import os
import sys
from collections.abc import Sequence

from app.server import PORT, ServerOptions, serve
from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES, Language, text


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C; returns the exit code."""
    console = console_language()
    arguments = parser(console).parse_args(argv)
    options = ServerOptions(
        host="0.0.0.0" if arguments.listen else arguments.host,
        port=arguments.port,
        user=arguments.user,
        password=arguments.password or os.environ.get("KUMAKOBO_PASSWORD") or None,
        open_browser=not arguments.no_browser,
        language=arguments.lang,
    )
    try:
        serve(options, arguments.lang or console)
    except UserError as error:
        print(error.message(arguments.lang or console), file=sys.stderr)
        return 2
    return 0


def parser(language: Language = "en") -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("kumakobo gui", description=text("server.cli.description", language))
    made.add_argument("--port", type=int, default=PORT, help=text("server.cli.port", language, port=PORT))
    made.add_argument("--host", default="127.0.0.1", help=text("server.cli.host", language))
    made.add_argument("--listen", action="store_true", help=text("server.cli.listen", language))
    made.add_argument("--user", default="kumakobo", help=text("server.cli.user", language))
    made.add_argument("--password", help=text("server.cli.password", language))
    made.add_argument("--no-browser", action="store_true", help=text("server.cli.no_browser", language))
    made.add_argument("--lang", choices=LANGUAGES, help=text("server.cli.lang", language))
    return made


def console_language() -> Language:
    """The terminal's language, by KUMAKOBO_LANG or the usual locale variables."""
    names = ("KUMAKOBO_LANG", "LC_ALL", "LC_MESSAGES", "LANG")
    chosen = next((os.environ[name] for name in names if os.environ.get(name)), "")
    return "ja" if chosen.lower().startswith("ja") else "en"


if __name__ == "__main__":
    sys.exit(main())
