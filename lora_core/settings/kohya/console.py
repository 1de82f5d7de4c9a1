"""``kumakobo kohya``: say what comes along from a Kohya file, and write settings for Kohya."""

import argparse
import sys
from pathlib import Path

from lora_core.errors import UserError
from lora_core.i18n import Language, text
from lora_core.settings.kohya import report
from lora_core.settings.kohya.export import Exported, to_gui, to_scripts


def run(arguments: argparse.Namespace, language: Language) -> int:
    """Report, then save our settings or export, as asked."""
    from lora_core.settings.files import load, load_text, save_settings

    source: Path = arguments.file
    loaded = load_text(sys.stdin.read(), Path("-")) if str(source) == "-" else load(source)
    output: Path | None = arguments.output
    if output is not None and output.exists() and source.exists() and output.samefile(source):
        raise UserError("kohya.same_file", path=output)
    if loaded.kohya is None and not arguments.export:
        raise UserError("kohya.not_kohya", path=source)
    if loaded.kohya is not None:
        out = sys.stderr if arguments.export and output is None else sys.stdout
        print("\n".join(report.lines(loaded.kohya, language)), file=out)
    if arguments.export:
        prompts = None if output is None else output.with_name(f"{output.stem}.prompts.txt")
        exported = to_gui(loaded.settings) if arguments.export == "json" else to_scripts(loaded.settings, prompts)
        _put(exported, output, prompts, arguments.force, language)
    elif output is not None:
        print(text("kohya.written", language, path=save_settings(loaded.settings, output, overwrite=arguments.force)))
    return 0


def _put(exported: Exported, output: Path | None, prompts: Path | None, force: bool, language: Language) -> None:
    from lora_core.settings.files import write_text

    lost = [report.line(entry, language) for entry in exported.entries]
    if output is None:
        print(exported.text, end="")
        lost += [text("kohya.export.prompts", language)] if exported.prompts else []
    else:
        files = {output: exported.text} | ({prompts: exported.prompts + "\n"} if prompts and exported.prompts else {})
        for path in files:
            if path.exists() and not force:
                raise UserError("settings.file_exists", path=path)
        for path, words in files.items():
            write_text(path, words)
            print(text("kohya.written", language, path=path))
    if lost:
        print("\n".join([text("kohya.export_lost", language), *(f"  {line}" for line in lost)]), file=sys.stderr)
