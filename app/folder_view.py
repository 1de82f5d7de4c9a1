"""What the folder browser shows of this machine's disk, and what it may show."""

import json
import os
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.i18n import say
from lora_core.data.listing import IMAGE_ENDINGS, name_order
from lora_core.i18n import Language
from lora_core.runs import home
from lora_core.settings.base import clean_path

_MOST_ENTRIES = 500
_MOST_COUNTED = 60
"""So many sub-folders have their images counted, so many entries of each are looked at times 50."""
_RECENT = 8


@dataclass(frozen=True)
class Wanted:
    """What a path field takes."""

    kind: str = "folder"
    """"folder", "file" or "either"."""
    endings: tuple[str, ...] = ()
    """Endings of the files that are listed, in lower case; none for folders only."""

    @property
    def folder(self) -> bool:
        return self.kind in ("folder", "either")


@dataclass
class FolderView:
    """One folder, ready to be drawn: plain values only."""

    path: Path
    folders: list[dict[str, str]] = field(default_factory=list)
    files: list[dict[str, str]] = field(default_factory=list)
    images: int = 0
    error: str = ""


def start_folder(typed: str, roots: Sequence[Path]) -> Path:
    """Where to begin: the folder that was typed, the nearest one above it, else home."""
    cleaned = clean_path(typed or "")
    first = roots[0] if roots else Path.home()
    if not cleaned:
        return next((path for path in recent_folders() if path.is_dir() and is_allowed(path, roots)), first)
    path = Path(cleaned).absolute()
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path if is_allowed(path, roots) and path != path.parent else first


def look(path: Path, wanted: Wanted, language: Language, roots: Sequence[Path]) -> FolderView:
    """List a folder's sub-folders, with how many images each holds, and the files a field takes."""
    view = FolderView(path)
    if not is_allowed(path, roots):
        return FolderView(path, error=say("browse.not_allowed", language))
    try:
        with os.scandir(path) as entries:
            found = [(Path(e.path), e.is_dir()) for e in entries if not e.name.startswith((".", "$"))]
    except OSError as error:
        return FolderView(path, error=say("browse.unreadable", language, reason=error.strerror or error))
    found.sort(key=lambda entry: (name_order(entry[0])[0].lower(), entry[0].name))
    view.images = sum(not is_dir and p.suffix.lower() in IMAGE_ENDINGS for p, is_dir in found)
    for number, child in enumerate([p for p, is_dir in found if is_dir][:_MOST_ENTRIES]):
        count = count_images(child) if number < _MOST_COUNTED else 0
        note = say("browse.images", language, count=count) if count else ""
        view.folders.append({"name": child.name, "path": str(child), "note": note})
    files = [p for p, is_dir in found if not is_dir and p.suffix.lower() in wanted.endings]
    view.files = [{"name": p.name, "path": str(p), "note": _size(p)} for p in files[:_MOST_ENTRIES]]
    return view


def drawn(view: FolderView, wanted: Wanted, language: Language, roots: Sequence[Path], title: str) -> dict[str, Any]:
    """The value of the browser's component: the view, where one may go from it, and the words."""
    path = view.path
    parent = path.parent if path.parent != path and is_allowed(path.parent, roots) else None
    crumbs = [p for p in (*reversed(path.parents), path) if is_allowed(p, roots)]
    return {
        "title": title,
        "path": str(path),
        "parent": str(parent) if parent else "",
        "crumbs": [{"name": p.name or str(p), "path": str(p)} for p in crumbs],
        "places": places(language, roots),
        "folders": view.folders,
        "files": view.files,
        "choosable": wanted.folder and not view.error,
        "note": say("browse.images", language, count=view.images) if view.images else "",
        "error": view.error,
        "words": {name: say(f"browse.{name}", language) for name in _WORDS},
    }


_WORDS = ("choose", "cancel", "up", "empty", "go", "path", "recent", "places")


def places(language: Language, roots: Sequence[Path]) -> list[dict[str, str]]:
    """Shortcuts: home, Kumakobo's own folder, drives, and the folders chosen last."""
    found = [(say("browse.home", language), Path.home(), "place"), ("Kumakobo", home(), "place")]
    found += [(str(drive), drive, "place") for drive in drives()]
    found += [(path.name or str(path), path, "recent") for path in recent_folders()]
    return [
        {"name": name, "path": str(path), "kind": kind}
        for name, path, kind in found
        if is_allowed(path, roots) and path.is_dir()
    ]


def drives() -> list[Path]:
    """The drives of Windows, the root elsewhere."""
    if os.name != "nt":
        return [Path("/")]
    return [Path(f"{letter}:\\") for letter in string.ascii_uppercase if Path(f"{letter}:\\").exists()]


def is_allowed(path: Path, roots: Sequence[Path]) -> bool:
    """Whether a path may be shown: everything without roots, else what lies inside one of them, links followed."""
    if not roots:
        return True
    try:
        real = path.resolve()
        return any(real.is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError):
        return False


def count_images(folder: Path) -> int:
    """Images directly inside a folder or, when there are none, one level below it."""
    direct, folders = _count(folder)
    return direct or sum(_count(child)[0] for child in folders[:50])


def recent_folders() -> list[Path]:
    try:
        names = json.loads(_recent_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [Path(name) for name in names if isinstance(name, str)][:_RECENT] if isinstance(names, list) else []


def remember_folder(folder: Path) -> None:
    """Put a folder at the head of the recent ones; a list that can't be written is no reason to fail."""
    names = [str(folder), *(str(p) for p in recent_folders() if p != folder)][:_RECENT]
    try:
        _recent_file().parent.mkdir(parents=True, exist_ok=True)
        _recent_file().write_text(json.dumps(names, ensure_ascii=False), encoding="utf-8")
    except OSError:
        return


def _recent_file() -> Path:
    return home() / "recent_folders.json"


def _count(folder: Path) -> tuple[int, list[Path]]:
    images, folders = 0, []
    try:
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries):
                if number > 5000:
                    break
                if entry.is_dir():
                    folders.append(Path(entry.path))
                elif os.path.splitext(entry.name)[1].lower() in IMAGE_ENDINGS:
                    images += 1
    except OSError:
        return 0, []
    return images, folders


def _size(path: Path) -> str:
    try:
        size = path.stat().st_size
    except OSError:
        return ""
    return (
        f"{size / 2**30:.2f} GB" if size >= 2**30 else f"{size / 2**20:.1f} MB" if size >= 2**20 else f"{size >> 10} KB"
    )
