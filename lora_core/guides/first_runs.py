"""Which runs came of First LoRA: the output names that it filled in, in a small file. Torch-free."""

import json
from pathlib import Path

from lora_core.guides.four_step import is_named
from lora_core.runs import RunFolder, home, list_runs
from lora_core.settings.files import write_text

MOST_NAMES = 50
"""Of earlier LoRAs, which nobody looks for here any more."""


def remember(output_name: str) -> None:
    """Note a name that was filled in. Raises UserError where it can't be written."""
    kept = [name for name in names() if name != output_name]
    tree = {"outputs": [*kept, output_name][-MOST_NAMES:]}
    write_text(_file(), json.dumps(tree, ensure_ascii=False, indent=2) + "\n")


def names() -> list[str]:
    """The names that were filled in, the latest last; none where the file is not there or somebody broke it."""
    try:
        tree = json.loads(_file().read_text(encoding="utf-8"))
        return [name for name in tree["outputs"] if isinstance(name, str)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def newest_run(root: Path | None = None) -> RunFolder | None:
    """The run that First LoRA led to last."""
    own = names()
    return next((run for run in list_runs(root) if is_named(run, own)), None)


def _file() -> Path:
    return home() / "guides" / "first_lora.json"
