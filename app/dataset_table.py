"""The table of subsets on the Folders tab: reads the dataset file that is named there, and writes it when asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.folder_view import is_allowed
from lora_core.data.dataset_table import problems_of, rows_of, text_of, with_rows
from lora_core.errors import UserError
from lora_core.i18n import Language
from lora_core.settings.base import clean_path
from lora_core.settings.files import read_tree, write_text

EMPTY_ROW = ["", "", "", "", False, "", "", ""]
BACKUP = ".before"


@dataclass(frozen=True)
class Saved:
    """Where the table went, and where the file that was there before is kept."""

    path: Path
    before: Path | None = None


def read_rows(typed: str, roots: Sequence[Path]) -> list[list[Any]] | None:
    """The rows of the file that is named; None if there is none yet. Raises UserError for a broken file."""
    path = _path(typed, roots)
    if path is None or not path.is_file():
        return None
    return rows_of(read_tree(path)) or [list(EMPTY_ROW)]


def save_rows(typed: str, rows: Sequence[Sequence[Any]], roots: Sequence[Path], language: Language) -> Saved:
    """Write the table into the file that is named. The file as it was is kept beside it, for comments are not.

    Raises UserError: for a row that can't be used, a name that is no .toml or .json, a place that can't be written.
    """
    path = _path(typed, roots)
    if path is None:
        raise UserError("settings.table_no_file")
    if path.suffix.lower() not in (".toml", ".json"):
        raise UserError("settings.save_kind", path=path)
    old: Mapping[str, Any] = read_tree(path) if path.is_file() else {}
    new = with_rows(old, rows)
    if not new["datasets"]:
        raise UserError("settings.table_empty")
    if problems := problems_of(new):
        raise UserError("settings.table_problems", problems="\n".join(p.message(language) for p in problems))
    text, before = text_of(new, path), None
    if path.is_file():
        content = path.read_text(encoding="utf-8-sig")
        if content == text:
            return Saved(path)
        before = path.with_name(path.name + BACKUP)
        write_text(before, content)
    write_text(path, text)
    return Saved(path, before)


def _path(typed: str, roots: Sequence[Path]) -> Path | None:
    cleaned = clean_path(typed or "")
    if not cleaned:
        return None
    path = Path(cleaned).absolute()
    if not is_allowed(path, roots):
        raise UserError("settings.table_not_allowed", path=path)
    return path
