"""``kumakobo handover FILE FOLDER``."""

import argparse
from pathlib import Path

from lora_core.i18n import Language, text

OPTIONS = ("folder", "name", "strength", "preview", "negative", "replace")
"""Arguments named as what they fill in."""


def fill(parser: argparse.ArgumentParser, says: Language) -> None:
    """The options of the command."""
    parser.set_defaults(run=run)
    parser.add_argument("file", type=Path, help=text("cli.handover.file", says))
    parser.add_argument("folder", type=Path, help=text("cli.handover.folder", says))
    parser.add_argument("--name", default="", help=text("cli.handover.name", says))
    parser.add_argument("--strength", type=float, help=text("cli.handover.strength", says))
    parser.add_argument("--preview", type=Path, metavar="FILE", help=text("cli.handover.preview", says))
    parser.add_argument("--negative", default="", metavar="TEXT", help=text("cli.handover.negative", says))
    parser.add_argument("--replace", action="store_true", help=text("cli.handover.replace", says))


def run(arguments: argparse.Namespace) -> int:
    from lora_core.cli import language
    from lora_core.handover.send import Wish, hand_over, told

    given = {name: getattr(arguments, name) for name in OPTIONS}
    sent = hand_over(Wish(lora=arguments.file, **given))
    print("\n".join([*told(sent, language()), text("handover.prompt", language(), prompt=sent.prompt)]))
    return 0
