"""The commands on LoRA files: kumakobo merge, apply, extract, resize, convert, clean, inspect, compare, regularisation.

Those that draw pictures are in ``picture_commands``, those that search for settings in ``tuning_commands``; handover
has a folder of its own.

Beside their own short forms they take the command lines of sd-scripts' svd_merge_lora.py, merge_lora.py,
sdxl_merge_lora.py, flux_merge_lora.py, extract_lora_from_models.py and resize_lora.py, under the same option names.
Torch-free.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lora_core.errors import UserError
from lora_core.handover import command as handover_command
from lora_core.i18n import Language, text
from lora_core.picture_commands import PICTURE_PARSERS
from lora_core.settings import RunSettings
from lora_core.settings.problems import SettingsError
from lora_core.settings.tools import (
    ApplySettings,
    CleanSettings,
    ConvertSettings,
    ExtractSettings,
    MergeSettings,
    RegularisationSettings,
    ResizeSettings,
    ToolSettings,
    checked,
)
from lora_core.tuning_commands import TUNING_PARSERS

PRECISIONS = ("fp16", "bf16", "float")
METHOD_NAMES = ("svd", "concat", "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")
IGNORED = {
    "precision": "tools.ignored.precision",
    "load_precision": "tools.ignored.precision",
    "device": "tools.ignored.device",
    "loading_device": "tools.ignored.device",
    "working_device": "tools.ignored.device",
    "load_original_model_to": "tools.ignored.device",
    "load_tuned_model_to": "tools.ignored.device",
    "clamp_quantile": "tools.ignored.clamp",
    "shuffle": "tools.ignored.shuffle",
    "svd_lowrank_niter": "tools.ignored.iterations",
}
"""Options of sd-scripts that change nothing here -> why, which is said when they are given."""
SILENT = ("v2", "v_parameterization", "sdxl", "mem_eff_load_save", "mem_eff_safe_open", "diffusers", "verbose")
"""Options of sd-scripts that need no answer: what they say is seen in the files, or always so."""


def add_commands(commands: Any, says: Language) -> None:
    """Puts the sub-commands into an argparse set of them."""
    for name, fill in _PARSERS.items():
        parser = commands.add_parser(
            name,
            help=text(f"cli.{name}", says),
            description=text(f"cli.{name}", says),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=text(f"cli.{name}.examples", says),
        )
        fill(parser, says)
        parser.set_defaults(side_by_side=name in ("apply", "extract"))
    job = commands.add_parser("job")  # what the page starts; not for people, so it has no help
    job.set_defaults(run=run_job_folder, side_by_side=True)
    job.add_argument("folder", type=Path)
    worker = commands.add_parser("worker")  # likewise
    worker.set_defaults(run=run_worker, side_by_side=True)
    worker.add_argument("root", type=Path)
    worker.add_argument("--app", type=int, required=True)
    worker.add_argument("--token", required=True)
    worker.add_argument("--idle", type=float, required=True)


# ---- what every command shares ---------------------------------------------------------------------------------------


def _common(parser: argparse.ArgumentParser, says: Language, precisions: Sequence[str], default: str) -> None:
    parser.add_argument("-o", "--output", "--save_to", type=Path, help=text("cli.tool.output", says), metavar="FILE")
    parser.add_argument(
        "--save-precision",
        "--save_precision",
        choices=precisions,
        default=default,
        help=text("cli.tool.precision", says),
    )
    parser.add_argument("--force", action="store_true", help=text("cli.tool.force", says))
    parser.add_argument("--dry-run", action="store_true", help=text("cli.tool.dry_run", says))
    parser.add_argument("--no-metadata", "--no_metadata", action="store_true", help=text("cli.tool.no_metadata", says))


def _size(parser: argparse.ArgumentParser, says: Language) -> None:
    parser.add_argument("--rank", "--new_rank", "--dim", dest="rank", type=int, help=text("cli.tool.rank", says))
    parser.add_argument(
        "--conv-rank",
        "--new_conv_rank",
        "--conv_dim",
        dest="conv_rank",
        type=int,
        help=text("cli.tool.conv_rank", says),
    )
    parser.add_argument("--energy", type=float, metavar="SHARE", help=text("cli.tool.energy", says))
    parser.add_argument("--same-rank", action="store_true", help=text("cli.tool.same_rank", says))


def _accepted(parser: argparse.ArgumentParser, *names: str) -> None:
    """Options of sd-scripts without help: they are taken, not advertised."""
    flags = ("shuffle", *SILENT)
    for name in names:
        option = {"action": "store_true"} if name in flags else {"default": None}
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS, **option)  # type: ignore[arg-type]


def _sources(parser: argparse.ArgumentParser, says: Language) -> None:
    parser.add_argument("--models", nargs="*", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--ratios", nargs="*", default=[], type=float, help=text("cli.tool.ratios", says))
    parser.add_argument(
        "--blocks",
        "--lbws",
        dest="blocks",
        nargs="*",
        default=[],
        metavar="WEIGHTS",
        help=text("cli.tool.blocks", says),
    )


def target_of(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "output": arguments.output,
        "overwrite": arguments.force,
        "precision": arguments.save_precision,
        "no_metadata": arguments.no_metadata,
    }


def size_of(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in ("rank", "conv_rank", "energy", "same_rank")}


def sources_of(arguments: argparse.Namespace, given: Sequence[str]) -> list[dict[str, Any]]:
    """LoRAs with ratios and layer weights. "a.safetensors:0.5" carries its ratio with it.

    Raises UserError when there are more ratios or weights than LoRAs, or fewer ratios.
    """
    parted = [part_ratio(word) for word in (*given, *arguments.models)]
    if arguments.ratios and len(arguments.ratios) != len(parted):
        raise UserError("tools.ratios_count", ratios=len(arguments.ratios), loras=len(parted))
    if len(arguments.blocks) > len(parted):
        raise UserError("tools.blocks_count", blocks=len(arguments.blocks), loras=len(parted))
    ratios = arguments.ratios or [ratio for _, ratio in parted]
    blocks = [*arguments.blocks, *[""] * (len(parted) - len(arguments.blocks))]
    return [
        {"path": path, "ratio": ratio, "block_weights": weights}
        for (path, _), ratio, weights in zip(parted, ratios, blocks, strict=True)
    ]


def part_ratio(word: str) -> tuple[str, float]:
    """("a.safetensors", 0.5) of "a.safetensors:0.5"; without a number the ratio is 1. C:\\a.safetensors is a path."""
    path, colon, number = word.rpartition(":")
    try:
        return (path, float(number)) if colon and path else (word, 1.0)
    except ValueError:
        return word, 1.0


# ---- the commands ----------------------------------------------------------------------------------------------------


def _merge(parser: argparse.ArgumentParser, says: Language) -> None:
    parser.set_defaults(run=run_tool, settings=merge_settings)
    parser.add_argument("loras", nargs="*", metavar="LORA[:RATIO]", help=text("cli.merge.loras", says))
    _sources(parser, says)
    parser.add_argument("--method", choices=METHOD_NAMES, default="svd", help=text("cli.merge.method", says))
    _size(parser, says)
    parser.add_argument("--density", type=float, default=0.5, help=text("cli.merge.density", says))
    parser.add_argument("--seed", type=int, default=0, help=text("cli.merge.seed", says))
    parser.add_argument("--base", type=Path, help=text("cli.merge.base", says))
    parser.add_argument("--repeat", type=Path, metavar="RESULT", help=text("cli.merge.repeat", says))
    parser.add_argument("--from", dest="folder", type=Path, metavar="FOLDER", help=text("cli.merge.from", says))
    parser.add_argument("--concat", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--sd_model", "--flux_model", dest="checkpoint", type=Path, help=argparse.SUPPRESS)
    _accepted(parser, "precision", "device", "loading_device", "working_device", "shuffle", *SILENT[:1], *SILENT[3:6])
    for name in ("clip_l", "t5xxl", "clip_l_save_to", "t5xxl_save_to"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    _common(parser, says, PRECISIONS, "fp16")


def merge_settings(arguments: argparse.Namespace) -> ToolSettings:
    """MergeSettings, or ApplySettings when a checkpoint is given, as merge_lora.py means it."""
    for name in ("clip_l", "t5xxl"):
        if getattr(arguments, name):
            raise UserError("tools.separate_encoder", option=f"--{name}")
    if arguments.repeat:
        from lora_core.merge.repeat import repeated

        return repeated(arguments.repeat, arguments.folder or arguments.repeat.parent, target_of(arguments))
    loras = sources_of(arguments, arguments.loras)
    if arguments.checkpoint:
        return checked(
            ApplySettings,
            {**target_of(arguments), "checkpoint": arguments.checkpoint, "loras": loras, "precision": "same"},
        )
    method = "concat" if arguments.concat else arguments.method
    others = {name: getattr(arguments, name) for name in ("density", "seed", "base")}
    return checked(
        MergeSettings, {**target_of(arguments), **size_of(arguments), **others, "method": method, "loras": loras}
    )


def _apply(parser: argparse.ArgumentParser, says: Language) -> None:
    parser.set_defaults(run=run_tool, settings=apply_settings)
    parser.add_argument("checkpoint", nargs="?", type=Path, help=text("cli.apply.checkpoint", says))
    parser.add_argument("loras", nargs="*", metavar="LORA[:RATIO]", help=text("cli.apply.loras", says))
    parser.add_argument("--sd_model", "--flux_model", dest="sd_model", type=Path, help=argparse.SUPPRESS)
    _sources(parser, says)
    parser.add_argument("--reverse", action="store_true", help=text("cli.apply.reverse", says))
    _accepted(parser, "precision", "device", "v2")
    _common(parser, says, ("same", *PRECISIONS), "same")


def apply_settings(arguments: argparse.Namespace) -> ToolSettings:
    checkpoint = arguments.sd_model or arguments.checkpoint
    given = [*([str(arguments.checkpoint)] if arguments.sd_model and arguments.checkpoint else []), *arguments.loras]
    loras = sources_of(arguments, given)
    return checked(
        ApplySettings,
        {**target_of(arguments), "checkpoint": checkpoint, "loras": loras, "reverse": arguments.reverse},
    )


def _extract(parser: argparse.ArgumentParser, says: Language) -> None:
    parser.set_defaults(run=run_tool, settings=extract_settings)
    parser.add_argument("tuned", nargs="?", type=Path, help=text("cli.extract.tuned", says))
    parser.add_argument("--base", "--model_org", dest="base", type=Path, help=text("cli.extract.base", says))
    parser.add_argument("--model_tuned", type=Path, help=argparse.SUPPRESS)
    _size(parser, says)
    parser.add_argument("--no-conv", action="store_true", help=text("cli.extract.no_conv", says))
    parser.add_argument("--no-text-encoder", action="store_true", help=text("cli.extract.no_text", says))
    parser.add_argument("--min-diff", "--min_diff", type=float, default=0.0, help=text("cli.extract.min_diff", says))
    _accepted(parser, "load_precision", "device", "clamp_quantile", "load_original_model_to", "load_tuned_model_to")
    _accepted(parser, "v2", "v_parameterization", "sdxl", "mem_eff_safe_open")
    _common(parser, says, PRECISIONS, "fp16")


def extract_settings(arguments: argparse.Namespace) -> ToolSettings:
    """As extract_lora_from_models.py with --model_org, convolutions are left out unless --conv_dim is given."""
    theirs = arguments.model_tuned is not None
    given = {**target_of(arguments), **size_of(arguments), "base": arguments.base, "min_diff": arguments.min_diff}
    if given["rank"] is None and given["energy"] is None:
        given["rank"] = 16
    conv = not arguments.no_conv and not (theirs and arguments.conv_rank is None)
    more = {"tuned": arguments.model_tuned or arguments.tuned, "conv": conv}
    return checked(ExtractSettings, {**given, **more, "text_encoder": not arguments.no_text_encoder})


def _resize(parser: argparse.ArgumentParser, says: Language) -> None:
    parser.set_defaults(run=run_tool, settings=resize_settings)
    _one_lora(parser, says)
    _size(parser, says)
    parser.add_argument(
        "--dynamic-method",
        "--dynamic_method",
        choices=("sv_ratio", "sv_cumulative", "sv_fro"),
        help=text("cli.resize.dynamic", says),
    )
    parser.add_argument(
        "--dynamic-param", "--dynamic_param", type=float, help=text("cli.resize.dynamic_param", says), metavar="NUMBER"
    )
    _accepted(parser, "device", "verbose", "svd_lowrank_niter")
    _common(parser, says, PRECISIONS, "fp16")


def _one_lora(parser: argparse.ArgumentParser, says: Language) -> None:
    parser.add_argument("lora", nargs="?", type=Path, help=text("cli.tool.lora", says))
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)


def resize_settings(arguments: argparse.Namespace) -> ToolSettings:
    dynamic = {name: getattr(arguments, name) for name in ("dynamic_method", "dynamic_param")}
    lora = arguments.model or arguments.lora
    return checked(ResizeSettings, {**target_of(arguments), **size_of(arguments), **dynamic, "lora": lora})


def _convert(parser: argparse.ArgumentParser, says: Language) -> None:
    parser.set_defaults(run=run_tool, settings=convert_settings)
    _one_lora(parser, says)
    parser.add_argument(
        "--to", choices=("same", "kohya", "diffusers", "peft"), default="same", help=text("cli.convert.to", says)
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text("cli.convert.set", says))
    parser.add_argument("--remove", action="append", default=[], metavar="KEY", help=text("cli.convert.remove", says))
    parser.add_argument("--strip", action="store_true", help=text("cli.convert.strip", says))
    _common(parser, says, ("same", *PRECISIONS), "same")


def convert_settings(arguments: argparse.Namespace) -> ToolSettings:
    entries: dict[str, str | None] = dict.fromkeys(arguments.remove)
    for word in arguments.set:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError("tools.key_value", text=word[:80])
        entries[key.strip()] = value
    given = {"lora": arguments.model or arguments.lora, "names": arguments.to, "strip_metadata": arguments.strip}
    return checked(ConvertSettings, {**target_of(arguments), **given, "metadata": entries})


def _clean(parser: argparse.ArgumentParser, says: Language) -> None:
    parser.set_defaults(run=run_tool, settings=clean_settings)
    _one_lora(parser, says)
    parser.add_argument("--keep-zero", action="store_true", help=text("cli.clean.keep_zero", says))
    parser.add_argument("--remove-blocks", default="", metavar="BLOCKS", help=text("cli.clean.remove_blocks", says))
    _common(parser, says, ("same", *PRECISIONS), "same")


def clean_settings(arguments: argparse.Namespace) -> ToolSettings:
    given = {"lora": arguments.model or arguments.lora, "zero_layers": not arguments.keep_zero}
    return checked(CleanSettings, {**target_of(arguments), **given, "remove_blocks": arguments.remove_blocks})


def _regularisation(parser: argparse.ArgumentParser, says: Language) -> None:
    def option(name: str, *more: str, **options: Any) -> None:
        parser.add_argument(name, *more, help=text(f"cli.regularisation.{options.pop('said')}", says), **options)

    parser.set_defaults(run=run_tool, settings=regularisation_settings)
    option("prompt", metavar="CLASS", said="prompt")
    option("--folder", type=Path, required=True, said="folder")
    option("--settings", dest="training", type=Path, metavar="FILE", said="settings")
    option("--model", metavar="FILE", said="model")
    option("--family", choices=("sd1", "sd2", "sdxl", "flux"), said="family")
    option("--train-dir", type=Path, metavar="FOLDER", said="train_dir")
    option("-n", "--count", type=int, said="count")
    option("--seed", type=int, default=1, said="seed")
    option("--negative", default="", said="negative")
    option("--captions", action="store_true", said="captions")
    parser.add_argument("--dry-run", action="store_true", help=text("cli.tool.dry_run", says))


def regularisation_settings(arguments: argparse.Namespace) -> ToolSettings:
    """With the model and the pictures of a training, where one is given; what is said besides takes their place."""
    from lora_core.settings.files import load_settings

    training = load_settings(arguments.training) if arguments.training else RunSettings()
    model = training.model.model_dump()
    if arguments.family and arguments.family != model["family"]:
        model = {"family": arguments.family}
    if arguments.model:
        model["base"] = arguments.model
    dataset = training.dataset.model_dump()
    if arguments.train_dir:
        dataset |= {"train_dir": arguments.train_dir, "config": None, "metadata_file": None}
    given = {name: getattr(arguments, name) for name in ("prompt", "folder", "count", "seed", "negative", "captions")}
    device = training.train.device
    return checked(RegularisationSettings, {**given, "model": model, "dataset": dataset, "device": device})


def _inspect(parser: argparse.ArgumentParser, says: Language) -> None:
    parser.set_defaults(run=run_inspect)
    parser.add_argument("files", nargs="+", type=Path, help=text("cli.inspect.files", says))
    parser.add_argument("--header", action="store_true", help=text("cli.inspect.header", says))
    parser.add_argument("--json", action="store_true", help=text("cli.tool.json", says))


def _compare(parser: argparse.ArgumentParser, says: Language) -> None:
    parser.set_defaults(run=run_compare)
    parser.add_argument("a", type=Path, help=text("cli.compare.a", says))
    parser.add_argument("b", type=Path, help=text("cli.compare.b", says))
    parser.add_argument("--json", action="store_true", help=text("cli.tool.json", says))


_PARSERS: dict[str, Callable[[argparse.ArgumentParser, Language], None]] = {
    "merge": _merge,
    "apply": _apply,
    "extract": _extract,
    "resize": _resize,
    "inspect": _inspect,
    "compare": _compare,
    "convert": _convert,
    "clean": _clean,
    "regularisation": _regularisation,
    "handover": handover_command.fill,
    **PICTURE_PARSERS,
    **TUNING_PARSERS,
}


# ---- running ---------------------------------------------------------------------------------------------------------


def run_tool(arguments: argparse.Namespace) -> int:
    """Make the settings, then do the job, or with --dry-run say what would be done."""
    from lora_core.cli import language

    says = language()
    for line in dict.fromkeys(ignored(arguments, says)):
        print(line, file=sys.stderr)
    try:
        settings = arguments.settings(arguments)
    except SettingsError as error:
        for problem in error.problems:
            print(f"{problem.path}: {problem.message(says)}", file=sys.stderr)
        return 2
    if arguments.dry_run:
        return dry_run(settings, says)
    from lora_core.tool_console import run_in_terminal

    return run_in_terminal(settings, says)


def ignored(arguments: argparse.Namespace, says: Language) -> list[str]:
    """What to say about options of sd-scripts that were given and change nothing."""
    given = [name for name in IGNORED if getattr(arguments, name, None) not in (None, False)]
    return [text(IGNORED[name], says, option=f"--{name}") for name in given]


def dry_run(settings: ToolSettings, says: Language) -> int:
    """Print what would be done; 1 if it could not be."""
    from lora_core.merge.describe import describe

    summary = describe(settings)
    for line in summary.lines()[says]:
        print(line)
    for problem in summary.problems:
        print(problem.message(says), file=sys.stderr)
    return 2 if summary.problems else 0


def run_inspect(arguments: argparse.Namespace) -> int:
    from lora_core.cli import language
    from lora_core.inspect.print import inspect_command

    return inspect_command(arguments.files, arguments.json, not arguments.header, language(), sys.stdout)


def run_compare(arguments: argparse.Namespace) -> int:
    from lora_core.cli import language
    from lora_core.inspect.print import compare_command

    return compare_command(arguments.a, arguments.b, arguments.json, language(), sys.stdout)


def run_job_folder(arguments: argparse.Namespace) -> int:
    """Do the job of a run folder, as the page starts it."""
    from lora_core.cli import language
    from lora_core.runs import RunFolder, read_job_settings
    from lora_core.settings import RunSettings
    from lora_core.tool_console import ToolConsole
    from lora_core.tools import run_job

    run = RunFolder(arguments.folder)
    settings = read_job_settings(run.settings)
    assert not isinstance(settings, RunSettings), "a training is started by kumakobo train"
    return run_job(settings, run, [ToolConsole(language()).show])


def run_worker(arguments: argparse.Namespace) -> int:
    """Do one picture job after another, as the page hands them over."""
    from lora_core.cli import language
    from lora_core.worker import WorkerFolder, print_into, work

    folder = WorkerFolder(arguments.root)
    print_into(folder.log)  # begun with the log of the first job, in case nothing of this could be loaded
    work(folder, arguments.app, arguments.token, language(), arguments.idle)
    sys.stdout.flush()
    os._exit(0)  # at once, the lock in hand: the system lets go of it when the process and its memory are gone
