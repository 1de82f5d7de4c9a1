"""Where the result of a merge goes: the file that was asked for, or one proposed by what it is made from."""

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from app.folder_view import is_allowed
from app.merge.form import Values, rows_filled, size_way
from app.merge.values import FormError, field_term, path_of
from lora_core.errors import UserError
from lora_core.runs import home
from lora_core.settings.base import FileName, clean_path

ENDING = ".safetensors"
_NAME = TypeAdapter(FileName)


def output(values: Values, roots: Sequence[Path] = ()) -> Path:
    """The file (of a diffusers folder: the folder) to write. FormError or UserError for a name no system can hold."""
    folder = path_of(values, "folder", roots) or proposed_folder(values)
    name = file_name(values, str(values["name"]).strip() or proposed_name(values, folder))
    path = folder / name
    if not is_allowed(path, roots):
        raise FormError("browse.not_allowed")
    return path


def file_name(values: Values, name: str) -> str:
    """A legal file name with its ending."""
    try:
        _NAME.validate_python(name)
    except ValidationError as error:
        reason = error.errors()[0].get("ctx", {}).get("error")
        raise (
            reason if isinstance(reason, UserError) else FormError("merge_tab.bad_path", where=field_term("name"))
        ) from error
    return name if name.lower().endswith(ENDING) else name + _ending(values)


def proposed_folder(values: Values) -> Path:
    """Beside the file it is made from, else a folder of Kumakobo's own."""
    key = {"bake": "checkpoint", "extract": "extract_tuned"}.get(values["what"], "path1")
    source = clean_path(str(values[key]))
    return Path(source).parent if source and Path(source).is_absolute() else home() / "merged"


def proposed_name(values: Values, folder: Path) -> str:
    """A name without ending that says what it was made from and is not taken: bear_hat, bear_minus_hat, bear_rank8."""
    stem = re.sub(r'[<>:"/\\|?*\x00-\x1f]+', "_", _made_from(values)).strip(" ._")[:80] or "merged"
    return free_name(folder, stem, _ending(values))


def free_name(folder: Path, stem: str, ending: str = ENDING) -> str:
    """The stem, or with -2, -3 ... behind it where that file is there already."""
    names = (stem, *(f"{stem}-{number}" for number in range(2, 1000)))
    return next((name for name in names if not exists(folder / (name + ending))), stem)


def exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name the system can't hold is refused when it is used
        return False


def _made_from(values: Values) -> str:
    what = values["what"]
    loras = [_stem(values[f"path{row}"]) for row in rows_filled(values)]
    if what == "extract":
        return f"{_stem(values['extract_tuned']) or 'extracted'}_lora"
    if what == "resize":
        rank = f"rank{values['rank']:g}" if size_way(values) == "rank" and values["rank"] else "resized"
        return "_".join([*loras[:1], rank])
    if what == "bake":
        return "_".join([_stem(values["checkpoint"]), *loras][:3])
    return ("_minus_" if what == "subtract" else "_").join(loras[:3])


def _stem(path: str) -> str:
    name = Path(clean_path(str(path)) or "").name
    return re.sub(r"\.(safetensors|ckpt|pt)$", "", name)


def _ending(values: Values) -> str:
    """None where the checkpoint is a diffusers folder: then the result is one, too."""
    source = clean_path(str(values["checkpoint"])) if values["what"] == "bake" else None
    try:
        return "" if source and Path(source).is_dir() else ENDING
    except (OSError, ValueError):
        return ENDING
