"""``kumakobo first-lora``: the guide's proposal in the terminal, written as a settings file."""

import argparse
from pathlib import Path

from lora_core.i18n import Language, text

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


def run(arguments: argparse.Namespace) -> int:
    """Print the proposal and what the check says; write the settings unless something stands in the way."""
    from lora_core.cli import language
    from lora_core.guides.first_lora import Wish, lay_out, plan_of, preflight, propose
    from lora_core.runs import home
    from lora_core.settings import RunSettings
    from lora_core.settings.files import save_settings
    from lora_core.settings.overlay import with_values

    says = language()
    names = ("folder", "trigger", "class_word", "kind", "preset", "repeats", "epochs")
    before = with_values(RunSettings(), {"model.base": arguments.base})
    proposal = propose(Wish(**{name: getattr(arguments, name) for name in names}), before, arguments.memory)
    print(f"{proposal.preset.title(says)}: {proposal.words}")
    plan = plan_of(proposal)
    print("\n".join(f"  {line}" for line in (plan.lines(says) if plan else ())))
    problems = [*proposal.notes, *preflight(proposal)]
    for problem in problems:
        print(f"{problem.severity}: {problem.message(says)}")
    if any(problem.severity == "error" for problem in problems):
        return 1
    settings = lay_out(proposal, before)
    path = arguments.output or _free(home() / "guides" / settings.save.output_name)
    print(text("cli.first_lora.done", says, path=save_settings(settings, path)))
    return 0


def _free(folder: Path) -> Path:
    """A name for the settings that is not taken."""
    names = ("settings.toml", *(f"settings-{number}.toml" for number in range(2, 1000)))
    return next(folder / name for name in names if not (folder / name).exists())
