"""The commands that draw: kumakobo generate, kumakobo grid and kumakobo proof. Torch-free."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from lora_core.errors import UserError
from lora_core.i18n import Language, text
from lora_core.settings.generate import AxisKind, GenerateSettings, GridSettings, ProofSettings, SamplerName
from lora_core.settings.tools import ToolSettings, checked

AXIS_ALIASES = {"cfg": "guidance", "lbw": "layers", "prompt": "replace"}
PLAIN = ("base", "vae", "clip_l", "t5", "negative", "width", "height", "seed", "count", "steps", "guidance", "sampler")
"""Options named as the settings they fill in."""


def _pictures(parser: argparse.ArgumentParser, says: Language, *, loras: bool = True) -> None:
    """The options that all commands have; what is not given is left to the settings."""

    def option(name: str, key: str, *flags: str, **how: Any) -> None:
        parser.add_argument(f"--{name}", *flags, help=text(f"cli.pictures.{key}", says), **how)

    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help=text("cli.pictures.prompts", says))
    option("base", "base", metavar="MODEL")
    option("vae", "vae", metavar="FILE")
    option("clip-l", "encoder", "--clip_l", metavar="FILE")
    option("t5", "encoder", "--t5xxl", metavar="FILE")
    option("clip-skip", "clip_skip", "--clip_skip", type=int, metavar="N")
    if loras:
        option("lora", "lora", action="append", default=[], metavar="FILE[:STRENGTH]")
        option("lora-dir", "lora_dir", "--lora_dir", action="append", default=[], type=Path, metavar="FOLDER")
    else:
        parser.set_defaults(lora=[], lora_dir=[])
    option("negative", "negative", "-n", metavar="TEXT")
    option("width", "width", "-W", type=int)
    option("height", "height", "-H", type=int)
    option("seed", "seed", type=int)
    option("count", "count", type=int)
    option("steps", "steps", type=int)
    option("guidance", "guidance", "--cfg", type=float)
    option("sampler", "sampler", choices=get_args(SamplerName))
    option("output", "output", "-o", type=Path, metavar="FOLDER")
    parser.add_argument("--dry-run", action="store_true", help=text("cli.tool.dry_run", says))


def pictures_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given."""
    from lora_core.tool_commands import part_ratio

    given = {name: getattr(arguments, name) for name in (*PLAIN, "clip_skip", "output")}
    loras = [part_ratio(word) for word in arguments.lora]
    return {name: value for name, value in given.items() if value is not None} | {
        "prompts": arguments.prompts,
        "folders": arguments.lora_dir,
        "loras": [{"path": path, "strength": strength} for path, strength in loras],
    }


def _generate(parser: argparse.ArgumentParser, says: Language) -> None:
    from lora_core.tool_commands import run_tool

    parser.set_defaults(run=run_tool, settings=generate_settings)
    _pictures(parser, says)


def generate_settings(arguments: argparse.Namespace) -> ToolSettings:
    return checked(GenerateSettings, pictures_of(arguments))


def _grid(parser: argparse.ArgumentParser, says: Language) -> None:
    from lora_core.tool_commands import run_tool

    parser.set_defaults(run=run_tool, settings=grid_settings)
    _pictures(parser, says)
    parser.add_argument("--run", dest="run_folder", type=Path, metavar="FOLDER", help=text("cli.grid.run", says))
    parser.add_argument("--run-name", "--run_name", metavar="NAME", help=text("cli.grid.run_name", says))
    parser.add_argument("--strengths", metavar="LIST", help=text("cli.grid.strengths", says))
    for side in ("rows", "columns"):
        parser.add_argument(f"--{side}", metavar="WHAT=LIST", help=text(f"cli.grid.{side}", says))
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help=text("cli.grid.cache", says))


def grid_settings(arguments: argparse.Namespace) -> ToolSettings:
    given = {"run": arguments.run_folder, "run_name": arguments.run_name, "cache": arguments.cache}
    columns = f"strength={arguments.strengths}" if arguments.strengths else arguments.columns
    given |= {"rows": axis_of(arguments.rows), "columns": axis_of(columns)}
    return checked(GridSettings, pictures_of(arguments) | {k: v for k, v in given.items() if v is not None})


def axis_of(words: str | None) -> dict[str, Any] | None:
    """An axis from "cfg=5,7,9"; values are parted by | where one may hold a comma. Raises UserError."""
    if words is None:
        return None
    name, equals, values = words.partition("=")
    kind = AXIS_ALIASES.get(name.strip().lower(), name.strip().lower())
    if not equals or kind not in get_args(AxisKind):
        raise UserError("grid.axis", text=words[:80], known=", ".join(get_args(AxisKind)))
    parted = "|" if "|" in values or kind == "layers" else ","
    return {"kind": kind, "values": values.split(parted)}


def _proof(parser: argparse.ArgumentParser, says: Language) -> None:
    from lora_core.tool_commands import run_tool

    parser.set_defaults(run=run_tool, settings=proof_settings)
    parser.add_argument("file", metavar="LORA[:STRENGTH]", help=text("cli.proof.lora", says))
    _pictures(parser, says, loras=False)
    parser.add_argument(
        "--class-prompt", "--class_prompt", default="", metavar="WORDS", help=text("cli.proof.class_prompt", says)
    )
    parser.add_argument("--unrelated", action="append", metavar="PROMPT", help=text("cli.proof.unrelated", says))


def proof_settings(arguments: argparse.Namespace) -> ToolSettings:
    from lora_core.tool_commands import part_ratio

    path, strength = part_ratio(arguments.file)
    given = {"lora": path, "strength": strength, "class_prompt": arguments.class_prompt}
    if arguments.unrelated is not None:
        given["unrelated_prompts"] = "\n".join(arguments.unrelated)
    return checked(ProofSettings, pictures_of(arguments) | given)


PICTURE_PARSERS: dict[str, Callable[[argparse.ArgumentParser, Language], None]] = {
    "generate": _generate,
    "grid": _grid,
    "proof": _proof,
}
