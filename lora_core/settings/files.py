"""Settings in files: TOML and JSON to write by hand or save, and the copy inside a LoRA."""

import json
import os
import re
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit

from lora_core.errors import UserError
from lora_core.io.metadata import settings_from_lora
from lora_core.runs import home
from lora_core.settings.fields import values_of
from lora_core.settings.kohya import Imported, anything, import_command, import_tree, is_command, is_kohya
from lora_core.settings.overlay import apply_fix, apply_overrides, nest, settings_from, with_values
from lora_core.settings.problems import SettingsError, problems_from
from lora_core.settings.run import RunSettings

__all__ = [
    "MIGRATIONS",
    "SettingsError",
    "apply_fix",
    "apply_overrides",
    "load",
    "load_settings",
    "load_text",
    "problems_from",
    "read_tree",
    "recent",
    "remember",
    "save_settings",
    "with_values",
    "write_text",
]


def _loss_and_noise_apart(tree: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had the settings of the loss and of the noise in the section train."""
    moved = {"min_snr_gamma": "loss", "prior_loss_weight": "loss", "noise_offset": "noise"}
    train = tree.get("train")
    if not isinstance(train, dict):
        return tree
    tree = tree | {"train": {name: value for name, value in train.items() if name not in moved}}
    for name, section in moved.items():
        if name in train and isinstance(tree.get(section, {}), dict):
            tree[section] = {name: train[name]} | tree.get(section, {})
    return tree


MIGRATIONS: list[Callable[[dict[str, Any]], dict[str, Any]]] = [_loss_and_noise_apart]
"""MIGRATIONS[n - 1] turns the sections of settings version n into those of version n + 1.

Each leaves what is new already as it is: a file written by hand may leave the version out, and is then taken as old.
"""

COMMANDS = (".sh", ".bat", ".cmd", ".ps1", ".txt")
"""Endings of files that hold a training command of sd-scripts."""

_RECENT_LIMIT = 10
_LARGEST = 10_000_000
"""Bytes of a settings file. A real one has some thousand."""


@dataclass(frozen=True)
class Loaded:
    """Settings from a file and, if it is one of Kohya's, what became of its keys."""

    settings: RunSettings
    kohya: Imported | None = None


def load_settings(path: Path) -> RunSettings:
    """Settings from a file, as ``load`` gives them."""
    return load(path).settings


def load(path: Path, may_read: Callable[[Path], bool] = anything) -> Loaded:
    """Settings from a .toml or .json file, a preset, a LoRA (.safetensors), the folder of a run, or a file of Kohya's.

    What a file leaves out has its default. Raises UserError (SettingsError for single settings) naming place and cure.
    ``may_read`` says which files that a Kohya file names may be read, too.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / "settings.json"
    if path.suffix.lower() == ".safetensors":
        return Loaded(_from_lora(path))
    if path.suffix.lower() in COMMANDS:
        return load_text(_read_text(path), path, may_read)
    tree = read_tree(path)
    if "preset" in tree:
        from lora_core.settings.presets import apply_preset, read_preset  # which read their files with this module

        return Loaded(apply_preset(RunSettings(), read_preset(path)))
    return _of_tree(tree, path, may_read)


def load_text(text: str, path: Path, may_read: Callable[[Path], bool] = anything) -> Loaded:
    """Settings from a pasted training command. ``path`` is what messages call it."""
    if not is_command(text) and path.suffix:
        raise UserError("settings.file_kind", path=path)
    imported = import_command(text, path.name, may_read)
    return Loaded(imported.settings, imported)


def _of_tree(tree: dict[str, Any], path: Path, may_read: Callable[[Path], bool]) -> Loaded:
    if is_kohya(tree):
        imported = import_tree(tree, path.name, may_read, path)
        return Loaded(imported.settings, imported)
    return Loaded(settings_from(migrated(tree, path), str(path)))


def read_tree(path: Path) -> dict[str, Any]:
    """The sections of a .toml or .json file as they stand there."""
    readers = {".toml": _parse_toml, ".json": _parse_json}
    if path.suffix.lower() not in readers:
        raise UserError("settings.file_kind", path=path)
    tree = readers[path.suffix.lower()](_read_text(path), path)
    if not isinstance(tree, dict):
        raise UserError("settings.file_no_table", path=path)
    return tree


def migrated(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    """The tree in today's version; files written by hand may leave the version out."""
    known = len(MIGRATIONS) + 1
    version = tree.get("version", 1)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise UserError("settings.bad_version", path=path, version=version, known=known)
    if version > known:
        raise UserError("settings.newer_version", path=path, version=version, known=known)
    for step in MIGRATIONS[version - 1 :]:
        tree = step(tree)
    return tree | {"version": known}


def save_settings(settings: RunSettings, path: Path, *, overwrite: bool = False) -> Path:
    """Write all settings as .toml or .json, complete or not at all. An existing file stays unless ``overwrite``."""
    path = Path(path).expanduser()
    writers = {".toml": to_toml, ".json": lambda settings: settings.model_dump_json(indent=2) + "\n"}
    if path.suffix.lower() not in writers:
        raise UserError("settings.save_kind", path=path)
    if path.exists() and not overwrite:
        raise UserError("settings.file_exists", path=path)
    write_text(path, writers[path.suffix.lower()](settings))
    return path


def to_toml(settings: RunSettings) -> str:
    """All settings as TOML. TOML has no null: "not set" is an empty text, which loads as such."""
    document = tomlkit.document()
    document.add(tomlkit.comment('Kumakobo settings, explained in docs/settings.md. "" means not set.'))
    document.add("version", tomlkit.item(settings.version))
    for section, values in nest(values_of(settings)).items():
        table = tomlkit.table()
        for name, value in values.items():
            table.add(name, to_toml_value(value))
        document.add(section, table)
    return tomlkit.dumps(document)


def recent() -> list[Path]:
    """The settings files used last, newest first, as far as they still exist."""
    try:
        names = json.loads(_recent_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    paths = [Path(name) for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return [path for path in paths if path.is_file()][:_RECENT_LIMIT]


def remember(path: Path) -> None:
    """Put a settings file at the head of the recent ones. A list that can't be written is no reason to fail."""
    path = Path(path).expanduser().resolve()
    names = [str(path), *(str(other) for other in recent() if other != path)][:_RECENT_LIMIT]
    try:
        write_text(_recent_file(), json.dumps(names, ensure_ascii=False, indent=2))
    except UserError:
        return


def _recent_file() -> Path:
    return home() / "recent.json"


def _from_lora(path: Path) -> RunSettings:
    return settings_from(migrated(settings_from_lora(path), path), str(path))


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError("settings.file_too_large", path=path)
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError("settings.file_missing", path=path) from None
    except UnicodeDecodeError:
        raise UserError("settings.file_not_utf8", path=path) from None
    except OSError as error:
        raise UserError("settings.file_unreadable", path=path, detail=error.strerror) from error


def _parse_json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError("settings.file_broken", path=path, line=error.lineno, format="JSON", detail=error.msg) from None
    except (RecursionError, ValueError):  # nested without end, or a number of thousands of digits
        raise UserError("settings.file_no_table", path=path) from None


def _parse_toml(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        detail, _, place = str(error).rpartition(" (at ")
        found = re.search(r"line (\d+)", place)
        line = int(found[1]) if found else len(text.splitlines())
        if "\\" in detail or "hex" in detail:
            raise UserError("settings.file_backslash", path=path, line=line) from None
        raise UserError("settings.file_broken", path=path, line=line, format="TOML", detail=detail) from None
    except (RecursionError, ValueError):
        raise UserError("settings.file_no_table", path=path) from None


def to_toml_value(value: Any) -> Any:
    """A setting as TOML has it: None is empty text, several lines stay several lines."""
    if value is None:
        return ""
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and "\n" in value and "\r" not in value:
        return tomlkit.string("\n" + value, multiline=True)
    return value


def write_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name, then rename it, so that no half file is ever there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError("settings.file_unwritable", path=path, detail=error.strerror) from error
