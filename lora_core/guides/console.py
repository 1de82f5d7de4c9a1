"""``kumakobo first-lora`` and ``kumakobo slider``: the guides in the terminal, written as a settings file."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core.i18n import Language, text

if TYPE_CHECKING:
    from lora_core.errors import Problem
    from lora_core.settings import RunSettings

KINDS = ("character", "style", "object")


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", says: Language) -> None:
    """The command with its options; what is not given is proposed."""
    words = text("cli.first_lora", says)
    parser = commands.add_parser("first-lora", help=words, description=words)
    parser.set_defaults(run=run)

    def option(name: str, **how: object) -> None:
        key = name.removeprefix("--").replace("-", "_")
        parser.add_argument(name, help=text(f"cli.first_lora.{key}", says), **how)  # type: ignore[arg-type]

    option("folder", type=Path)
    option("--trigger", default="", metavar="WORD")
    option("--class", default="", metavar="WORD", dest="class_word")
    option("--base", default="", metavar="MODEL")
    option("--kind", choices=KINDS, default="character")
    option("--preset", default="", metavar="NAME")
    option("--memory", type=float, metavar="GB")
    option("--repeats", type=int, metavar="N")
    option("--epochs", type=int, metavar="N")
    option("--output", type=Path, metavar="FILE")
    _add_slider(commands, says)


def _add_slider(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", says: Language) -> None:
    words = text("cli.slider", says)
    parser = commands.add_parser("slider", help=words, description=words)
    parser.set_defaults(run=run_slider)

    def option(name: str, **how: object) -> None:
        key = name.removeprefix("--").replace("-", "_")
        parser.add_argument(name, help=text(f"cli.slider.{key}", says), **how)  # type: ignore[arg-type]

    option("target", nargs="?", default="")
    option("--more", default="", metavar="PROMPT")
    option("--less", default="", metavar="PROMPT")
    option("--keep", action="append", default=[], metavar="WORDS")
    option("--folder-less", type=Path, metavar="FOLDER")
    option("--folder-more", type=Path, metavar="FOLDER")
    option("--base", default="", metavar="MODEL")
    option("--output", type=Path, metavar="FILE")


def run_slider(arguments: argparse.Namespace) -> int:
    """Write the settings of a concept slider; say what the check has against them, and nothing is written."""
    from lora_core.cli import language
    from lora_core.guides.slider import Wish, settings_for
    from lora_core.preflight import check
    from lora_core.settings import RunSettings
    from lora_core.settings.overlay import with_values

    says = language()
    words = {name: getattr(arguments, name) for name in ("target", "more", "less", "folder_less", "folder_more")}
    wish = Wish(**words, keep="\n".join(arguments.keep))
    settings = settings_for(wish, with_values(RunSettings(), {"model.base": arguments.base}))
    return _written(settings, check(settings), arguments.output, says)


def run(arguments: argparse.Namespace) -> int:
    """Print the proposal and what the check says; write the settings unless something stands in the way."""
    from lora_core.cli import language
    from lora_core.guides.first_lora import Wish, lay_out, plan_of, preflight, propose
    from lora_core.settings import RunSettings
    from lora_core.settings.overlay import with_values

    says = language()
    names = ("folder", "trigger", "class_word", "kind", "preset", "repeats", "epochs")
    before = with_values(RunSettings(), {"model.base": arguments.base})
    proposal = propose(Wish(**{name: getattr(arguments, name) for name in names}), before, arguments.memory)
    print(f"{proposal.preset.title(says)}: {proposal.words}")
    plan = plan_of(proposal)
    print("\n".join(f"  {line}" for line in (plan.lines(says) if plan else ())))
    problems = [*proposal.notes, *preflight(proposal)]
    blocked = any(problem.severity == "error" for problem in problems)
    settings = proposal.settings if blocked else lay_out(proposal, before)
    return _written(settings, problems, arguments.output, says)


def _written(settings: "RunSettings", problems: Sequence["Problem"], output: Path | None, says: Language) -> int:
    """Say what was found; write the settings unless something stands in the way."""
    from lora_core.runs import home
    from lora_core.settings.files import save_settings

    for problem in problems:
        print(f"{problem.severity}: {problem.message(says)}")
    if any(problem.severity == "error" for problem in problems):
        return 1
    path = output or _free(home() / "guides" / settings.save.output_name)
    print(text("cli.first_lora.done", says, path=save_settings(settings, path)))
    return 0


def _free(folder: Path) -> Path:
    """A name for the settings that is not taken."""
    names = ("settings.toml", *(f"settings-{number}.toml" for number in range(2, 1000)))
    return next(folder / name for name in names if not (folder / name).exists())
