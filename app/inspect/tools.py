"""What the tools of the Inspect tab write, as settings of a job: edit, strip, clean, convert, resize."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from app.merge.values import FormError
from lora_core.settings.tools import CleanSettings, ConvertSettings, ResizeSettings

Tool = Literal["edit", "strip", "clean", "convert", "resize"]
TOOLS: tuple[Tool, ...] = ("edit", "clean", "convert", "resize", "strip")
ToolSettings = ConvertSettings | CleanSettings | ResizeSettings
Values = Mapping[str, Any]

ENTRIES = {
    "title": "modelspec.title",
    "author": "modelspec.author",
    "trigger": "modelspec.trigger_phrase",
    "tags": "modelspec.tags",
    "license": "modelspec.license",
    "description": "modelspec.description",
}
"""Field of the form -> metadata entry (Stability's model metadata standard 1.0.1)."""
LONGEST = 10_000
"""Characters of one entry."""
NAMES = ("same", "kohya", "diffusers", "peft")
PRECISIONS = ("same", "fp16", "bf16", "float")
RESIZED = {"fp32": "float", "bf16": "bf16"}
"""Number format of a file -> that of the same LoRA in another rank; fp16 for all others."""
CHANGED: dict[Tool, str] = {
    "edit": "edited",
    "strip": "stripped",
    "clean": "clean",
    "convert": "converted",
    "resize": "rank",
}
DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(ENTRIES, ""),
    "zero_layers": True,
    "remove_blocks": "",
    "names": "same",
    "precision": "same",
    "rank": None,
    "conv_rank": None,
}
"""Field of the panel -> what it shows at first."""
FIELDS: dict[Tool, tuple[str, ...]] = {
    "edit": tuple(ENTRIES),
    "strip": (),
    "clean": ("zero_layers", "remove_blocks"),
    "convert": ("names", "precision"),
    "resize": ("rank", "conv_rank"),
}


@dataclass(frozen=True)
class Source:
    """The LoRA that a tool reads."""

    path: Path
    metadata: Mapping[str, str] = field(default_factory=dict)
    precision: str = ""
    """fp32, fp16, bf16, fp8 or ""."""


def settings_of(tool: Tool, values: Values, source: Source, output: Path, overwrite: bool = False) -> ToolSettings:
    """The job of a tool. Raises FormError for what can't be used."""
    target = {"lora": source.path, "output": output, "overwrite": overwrite}
    try:
        match tool:
            case "edit":
                return ConvertSettings(metadata=edited(values, source.metadata), precision="same", **target)
            case "strip":
                return ConvertSettings(strip_metadata=True, precision="same", **target)
            case "clean":
                blocks = _text(values, "remove_blocks")
                return CleanSettings(zero_layers=values["zero_layers"] is True, remove_blocks=blocks, **target)
            case "convert":
                return ConvertSettings(**converted(values), **target)
            case "resize":
                ranks = {name: _rank(values, name) for name in ("rank", "conv_rank")}
                precision = RESIZED.get(source.precision, "fp16")
                return ResizeSettings(precision=precision, **ranks, **target)
    except ValidationError as error:
        found = error.errors()[0]
        raise FormError("inspector.bad_value", reason=found["msg"]) from error


def edited(values: Values, now: Mapping[str, str]) -> dict[str, str | None]:
    """Entries that differ from the file's; an emptied one is removed. FormError when nothing differs."""
    changes: dict[str, str | None] = {}
    for name, key in ENTRIES.items():
        text = _text(values, name)
        if text != shown_entry(now, name):
            changes[key] = text or None
    if not changes:
        raise FormError("inspector.nothing_edited")
    return changes


def shown_entry(metadata: Mapping[str, str], name: str) -> str:
    """An entry as the form shows it: of an endless one nothing, for what is not shown can't be edited."""
    text = metadata.get(ENTRIES[name], "")
    return text.strip() if len(text) <= LONGEST else ""


def converted(values: Values) -> dict[str, str]:
    names, precision = values["names"], values["precision"]
    if names not in NAMES or precision not in PRECISIONS:
        raise FormError("inspector.bad_value", reason=f"{names}, {precision}"[:100])
    if names == precision == "same":
        raise FormError("inspector.nothing_converted")
    return {"names": names, "precision": precision}


def _text(values: Values, name: str) -> str:
    value = values[name]
    if not isinstance(value, str) or len(value) > LONGEST:
        raise FormError("inspector.too_long", count=LONGEST)
    return value.strip()


def _rank(values: Values, name: str) -> int | None:
    """A rank from 1 to 4096; the one of convolutions may be left empty."""
    value = values[name]
    if value is None and name == "conv_rank":
        return None
    legal = isinstance(value, int | float) and not isinstance(value, bool) and value == value and abs(value) < 1e9
    if not legal or int(value) != value or not 1 <= value <= 4096:
        raise FormError("inspector.bad_rank")
    return int(value)


# ---- where it goes ---------------------------------------------------------------------------------------------------


def proposed_output(lora: Path, tool: Tool, values: Values) -> Path:
    """Beside the LoRA, named after what was done to it, with a number where that is taken."""
    stem = f"{lora.stem}-{_suffix(tool, values)}"
    names = (stem, *(f"{stem}-{number}" for number in range(2, 1000)))
    return next((path for name in names if not _exists(path := lora.with_name(f"{name}.safetensors"))), lora)


def _suffix(tool: Tool, values: Values) -> str:
    if tool == "convert":
        wanted = [str(values[name]) for name in ("names", "precision") if values[name] != "same"]
        return re.sub(r"[^\w-]", "", "-".join(wanted)) or CHANGED[tool]
    rank = values["rank"]
    return f"rank{rank:g}" if tool == "resize" and isinstance(rank, int | float) else CHANGED[tool]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def checked_output(output: Path | None, lora: Path, overwrite: bool) -> Path:
    """The file to write. FormError when it is the LoRA itself, or there already and not to be replaced."""
    if output is None:
        raise FormError("inspector.no_output")
    if not output.is_absolute():
        output = lora.parent / output
    if output.suffix.lower() != ".safetensors":
        output = output.with_name(output.name + ".safetensors")
    if _exists(output) and output.samefile(lora):
        raise FormError("inspector.output_is_input")
    if _exists(output) and not overwrite:
        raise FormError("inspector.output_exists", name=output.name)
    return output
