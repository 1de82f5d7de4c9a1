"""What is typed into the boxes of the Guide tab: paths and numbers."""

from collections.abc import Sequence
from pathlib import Path

from app.folder_view import is_allowed
from lora_core.errors import UserError
from lora_core.settings.base import clean_path


def path_of(typed: str, roots: Sequence[Path]) -> Path | None:
    """What a box names; None for an empty one. Raises UserError for a place that this page may not show."""
    cleaned = clean_path(typed or "")
    path = Path(cleaned).absolute() if cleaned else None
    if path is not None and not is_allowed(path, roots):
        raise UserError("settings.table_not_allowed", path=path)
    return path


def number_of(typed: object) -> int | None:
    """A whole number of up to six digits; None for an empty box. Raises UserError for what is no number."""
    words = str(typed or "").strip()
    if not words:
        return None
    if not words.isdecimal() or len(words) > 6:
        raise UserError("guides.no_number", value=words[:80])
    return int(words)
