"""What every settings model shares, and the field types that clean what people paste."""

import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from lora_core.errors import UserError


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, docstrings of fields are their help."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False)


def setting(default: Any, title: str, kohya: str | None = None, **limits: Any) -> Any:
    """A field with its English label and the name Kohya's GUI has for it."""
    return Field(default, title=title, json_schema_extra={"kohya": kohya} if kohya else None, **limits)


def clean_path(value: Any) -> Any:
    """A path as people paste it: quotes around it, ``~``, ``file://``, spaces at the ends. Empty means not set."""
    if not isinstance(value, str):
        return value
    value = value.strip().strip("\"'“”").strip()
    if value.startswith("file://"):
        value = unquote(urlsplit(value).path)
        value = re.sub(r"^/([A-Za-z]:)", r"\1", value)  # file:///C:/x is C:/x
    if drive := re.match(r"([A-Za-z]):[\\/]", value):
        value = from_windows(value, drive[1], Path("/mnt"))
    return str(Path(value).expanduser()) if value.startswith("~") else value or None


def from_windows(path: str, drive: str, mounted: Path) -> str:
    """``C:\\pictures`` as /mnt/c/pictures where Windows drives are mounted there (WSL); elsewhere as it is."""
    root = mounted / drive.lower()
    return str(root / path[3:].replace("\\", "/")) if root.is_dir() else path


def _clean_source(value: Any) -> Any:
    """Like clean_path, for what may also be a name: empty stays empty text."""
    return clean_path(value) or "" if isinstance(value, str) else value


def one_component(name: str) -> str:
    """A file name without folders and without what Windows refuses."""
    if re.search(r'[<>:"/\\|?*\x00-\x1f]', name) or name in {".", ".."} or name != name.strip(" ."):
        raise UserError("settings.file_name")
    if re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name):
        raise UserError("settings.reserved_name", name=name)
    return name


def _resolution(value: Any) -> Any:
    """Accepts "512", "600,900", "600x900", 512 and [600, 900]; gives "WIDTH,HEIGHT" or one number."""
    if isinstance(value, list | tuple):
        value = ",".join(str(v) for v in value)
    sides = re.split(r"\s*[,x×]\s*", str(value).strip().lower())
    if not (1 <= len(sides) <= 2 and all(s.isdecimal() and 16 <= int(s) <= 8192 for s in sides)):
        raise UserError("settings.resolution")
    return ",".join(str(int(s)) for s in sides)


UserPath = Annotated[Path | None, BeforeValidator(clean_path)]
SourceModel = Annotated[str, BeforeValidator(_clean_source)]
FileName = Annotated[str, AfterValidator(one_component)]
Resolution = Annotated[str, BeforeValidator(_resolution)]


def sides(resolution: str) -> tuple[int, int]:
    """(width, height) in pixels of a Resolution: "512" is (512, 512), "600,900" is (600, 900)."""
    numbers = [int(side) for side in resolution.split(",")]
    return numbers[0], numbers[-1]
