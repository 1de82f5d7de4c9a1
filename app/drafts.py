"""What a page shows, kept for the next visit."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def save_draft(values: Mapping[str, Any], path: Path) -> None:
    """Keep what the page shows, legal or not. A disk that can't be written is no reason to fail."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(dict(values), ensure_ascii=False, default=str), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)


def read_draft(path: Path) -> dict[str, Any]:
    """What ``save_draft`` kept; nothing where there is none or it can't be read. Its values are to be checked."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
