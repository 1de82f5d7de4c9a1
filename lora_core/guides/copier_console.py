"""``kumakobo copier``: from two pictures to the LoRA of their difference, in the terminal. Torch-free."""

import argparse
from pathlib import Path

from lora_core.i18n import Language, text


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", says: Language) -> None:
    """The command with its options."""
    words = text("cli.copier", says)
    parser = commands.add_parser("copier", help=words, description=words)
    parser.set_defaults(run=run)

    def option(name: str, *more: str, **how: object) -> None:
        key = name.removeprefix("--").replace("-", "_")
        parser.add_argument(name, *more, help=text(f"cli.copier.{key}", says), **how)  # type: ignore[arg-type]

    option("--before", type=Path, metavar="PICTURE")
    option("--after", type=Path, metavar="PICTURE")
    option("--output", "-o", type=Path, required=True, metavar="FILE")
    option("--base", default="", metavar="MODEL")
    option("--name", default="", metavar="NAME")
    option("--steps", type=int, metavar="N")
    option("--rank", type=int, metavar="N")
    option("--layers", metavar="WEIGHTS")
    option("--prompt", action="append", metavar="PROMPT")
    option("--no-grid", action="store_true")
    option("--set", action="append", default=[], metavar="KEY=VALUE")


def run(arguments: argparse.Namespace) -> int:
    """Do every part that is not done yet, then save the result. Raises UserError for what stands in the way."""
    from lora_core.cli import language
    from lora_core.guides.copier_project import PARTS, results, save_result

    says = language()
    project = _project(arguments)
    for part in PARTS[:-1] if arguments.no_grid else PARTS:
        found, words = results(project), text(f"cli.copier.part.{part}", says)
        if found[part].is_done:
            print(text("cli.copier.there", says, part=words))
            continue
        print(words, flush=True)
        project, code = _do(project, part, found, arguments)
        if code or not results(project)[part].is_done:
            print(text("cli.copier.ended", says, part=words))
            return code or 1
    folder = arguments.output.absolute().parent
    print(text("cli.copier.done", says, path=save_result(project, results(project), arguments.output.name, folder)[1]))
    return 0


def _project(arguments: argparse.Namespace):
    """The project of the name, begun if there is none, with what the command line says."""
    from lora_core.errors import UserError
    from lora_core.guides.copier_project import PROJECTS, begin, chosen, pair_of, problems_of

    name = arguments.name.strip() or arguments.output.name.removesuffix(".safetensors")
    given = arguments.before, arguments.after
    if name not in PROJECTS.names():
        project = begin(name, *given)
    else:
        project = PROJECTS.load(name)
        if any(given) and pair_of(*given) != (project.before, project.after):
            raise UserError("guides.copier_pictures_differ", name=name)
    for problem in problems_of(project.before, project.after):
        print(f"{problem.severity}: {problem.message(_says())}")
    values = {name: getattr(arguments, name) for name in ("steps", "rank", "layers")}
    values["prompts"] = None if arguments.prompt is None else "\n".join(arguments.prompt)
    return chosen(project, **{name: value for name, value in values.items() if value is not None})


def _do(project, part, found, arguments: argparse.Namespace):
    """Run one part here, in a run folder of its own; the project with it, and the exit code."""
    from lora_core import launching
    from lora_core.cli import train_here
    from lora_core.guides.copier_project import TRAINED, grid_settings, merge_settings, remember, trainings
    from lora_core.runs import create_run
    from lora_core.settings import RunSettings
    from lora_core.settings.overlay import apply_overrides, with_values
    from lora_core.tool_console import ToolConsole
    from lora_core.tools import run_job

    if part in TRAINED:
        page = with_values(RunSettings(), {"model.base": arguments.base})
        training = launching.adapted(apply_overrides(trainings(project, found, page)[part], arguments.set))
        run = create_run(training)
        project = remember(project, part, run)
        return project, train_here(training, run)
    job = merge_settings(project, found) if part == "difference" else grid_settings(project, found)
    run = create_run(job)
    project, console = remember(project, part, run), ToolConsole(_says())
    try:
        return project, run_job(job, run, [console.show])
    finally:
        console.close()


def _says() -> Language:
    from lora_core.cli import language

    return language()
