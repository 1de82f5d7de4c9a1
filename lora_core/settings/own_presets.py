"""A person's own presets: saved from settings, renamed, deleted, and shared as files of the same form as presets/*.toml.

They lie in the folder presets/own of the app's home. A file that is there is never written over silently.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import tomlkit

from lora_core.errors import UserError
from lora_core.settings.applies import belongs
from lora_core.settings.fields import chooser_of, default_of, fields_of, unions_of, values_of
from lora_core.settings.files import to_toml_value, write_text
from lora_core.settings.overlay import nest
from lora_core.settings.presets import FOLDER, Preset, is_yours, own_folder, read_preset
from lora_core.settings.run import RunSettings

LONGEST_NAME = 80


def sections() -> list[str]:
    """The sections a preset can be made of."""
    return list(dict.fromkeys(field.section for field in fields_of().values()))


def values_for(settings: RunSettings, chosen: Collection[str], *, everything: bool, yours: bool) -> dict[str, Any]:
    """What a preset of these settings says: of the chosen sections, what differs from the defaults, or everything.

    ``yours`` also takes what is the person's own: folders, files, names, prompts. What chooses a variant is always said.
    """
    values = values_of(settings)
    choosers = {chooser_of(section) for section in unions_of()}

    def is_said(path: str, value: Any) -> bool:
        if fields_of()[path].section not in chosen or (is_yours(path) and not yours):
            return False
        return path in choosers or everything or value != default_of(path, values)

    return {path: value for path, value in values.items() if belongs(path, values) and is_said(path, value)}


def save_preset(
    name: str, purpose: str, values: dict[str, Any], chosen: Collection[str], *, overwrite: bool = False
) -> Preset:
    """Write a preset. Raises UserError for a name that is empty or taken (by a built-in one in any case)."""
    path = path_for(name)
    if path.exists() and not overwrite:
        raise UserError("preset.exists", name=name.strip())
    partial = sorted(chosen) if set(chosen) != set(sections()) else []
    write_text(path, _document(name.strip(), purpose.strip(), values, partial))
    return read_preset(path)


def rename_preset(preset: Preset, name: str) -> Preset:
    """Give an own preset another name; its file is renamed with it."""
    path = path_for(name)
    before = own_path(preset.name)
    if path.exists() and not _same(path, before):
        raise UserError("preset.exists", name=name.strip())
    document = tomlkit.parse(before.read_text(encoding="utf-8"))
    head = document["preset"]
    assert isinstance(head, dict)
    head["name"] = name.strip()
    write_text(path, tomlkit.dumps(document))
    if not _same(path, before):
        before.unlink()
    return read_preset(path)


def delete_preset(preset: Preset) -> None:
    """Remove an own preset. Raises UserError when it can't be removed."""
    try:
        own_path(preset.name).unlink()
    except OSError as error:
        raise UserError("preset.not_deleted", name=preset.title(), detail=error.strerror or error) from error


def take_in(path: Path, *, overwrite: bool = False) -> Preset:
    """Keep a preset that somebody shared. Raises UserError when it is none, or one of its name is there."""
    shared = read_preset(path)
    target = path_for(shared.title("en"))
    if target.exists() and not overwrite:
        raise UserError("preset.exists", name=shared.title("en"))
    write_text(target, path.read_text(encoding="utf-8-sig"))
    return read_preset(target)


def own_path(name: str) -> Path:
    """The file of an own preset; the name is that of a file, so that nothing outside the folder can be meant."""
    path = own_folder() / f"{name}.toml"
    if path.parent != own_folder() or not path.is_file():
        raise UserError("preset.gone", name=name)
    return path


def path_for(name: str) -> Path:
    """Where a preset of this name is kept. Raises UserError for an empty or over-long name and a built-in one's."""
    name = name.strip()
    stem = re.sub(r'[<>:"/\\|?*\x00-\x1f\s]+', "_", name).strip("._")
    if not stem:
        raise UserError("preset.no_name")
    if len(name) > LONGEST_NAME or len(stem.encode()) > 200:
        raise UserError("preset.long_name", limit=LONGEST_NAME)
    if re.fullmatch(r"(?i)con|prn|aux|nul|com\d|lpt\d", stem):
        stem += "_"
    built_in = [read_preset(path) for path in FOLDER.glob("*.toml")]
    taken = {word.casefold() for preset in built_in for word in (preset.name, *preset.titles.values())}
    if {name.casefold(), stem.casefold()} & taken:
        raise UserError("preset.built_in_name", name=name)
    return own_folder() / f"{stem}.toml"


def _document(name: str, purpose: str, values: dict[str, Any], partial: list[str]) -> str:
    document, head = tomlkit.document(), tomlkit.table()
    document.add(tomlkit.comment("A preset of Kumakobo. Load it on the page under Presets, or with --preset."))
    head.add("name", name)
    head.add("for", purpose)
    if partial:
        head.add("sections", partial)
    document.add("preset", head)
    for section, inner in nest(values).items():
        table = tomlkit.table()
        for key, value in inner.items():
            table.add(key, to_toml_value(value))
        document.add(section, table)
    return tomlkit.dumps(document)


def _same(first: Path, second: Path) -> bool:
    """Whether two names mean one file, also where large and small letters are the same."""
    return first == second or (first.exists() and second.exists() and first.samefile(second))
