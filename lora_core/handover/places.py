"""Which program a folder belongs to, and where in it LoRAs go.

Sources: AUTOMATIC1111 1.10 extensions-builtin/Lora/preload.py (models/Lora, and models/LyCORIS as before); Forge has
the same folders and its own ``modules_forge``; ComfyUI folder_paths.py (models/loras; the desktop program keeps its
models apart from its code, but beside ``custom_nodes``).
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora_core.errors import UserError

Card = Literal["webui", "civitai"]
"""What tells a program about a LoRA: name.json of AUTOMATIC1111 and Forge, or name.civitai.info."""
LORA_FOLDERS = frozenset({"lora", "loras", "lycoris"})
"""What folders of LoRAs are called, in lower case."""
MOST_LOOKED_AT = 200
"""Folders inside a folder that are looked at for a program."""


@dataclass(frozen=True)
class Program:
    """A program to draw with."""

    name: str
    """As ``lora_core.inspect.hosts`` has it."""
    marks: tuple[str, ...]
    """Files or folders, any of which only this program's own folder holds."""
    called: str
    """Pattern of what that folder is usually called; counts where it has a folder of models."""
    loras: str
    """Where its LoRAs are."""
    cards: tuple[Card, ...]


PROGRAMS: tuple[Program, ...] = (
    Program("Forge", ("modules_forge",), r"forge", "models/Lora", ("webui",)),
    Program(
        "AUTOMATIC1111",
        ("webui.py", "webui-user.sh", "webui-user.bat"),
        r"stable-diffusion-webui|sd[-_. ]?webui|automatic1111|a1111",
        "models/Lora",
        ("webui",),
    ),
    Program("ComfyUI", ("folder_paths.py", "custom_nodes"), r"comfyui", "models/loras", ("civitai",)),
)
"""Add a program as a row. Forge comes first: it has AUTOMATIC1111's files, too."""
SHARED = Program("", (), "", "", ("webui", "civitai"))
"""A folder of LoRAs that several programs may read, such as Stability Matrix's."""


@dataclass(frozen=True)
class Place:
    """A folder for LoRAs, and whose it is."""

    folder: Path
    program: Program


def place_of(folder: Path) -> Place:
    """Where LoRAs go, from a folder that somebody named: the program's own, one around it, or that of its LoRAs.

    The folder of the LoRAs may not be there yet in a program that was never started. Raises UserError for what is no
    folder, belongs to no program known, or could mean several.
    """
    folder = folder.absolute()
    if not os.path.isdir(folder):
        raise UserError("handover.no_folder", folder=folder)
    for top in (folder, *folder.parents):
        if program := program_at(top):
            return Place(_within(folder, top, program), program)
    inside = [(child, program) for child in _folders(folder) if (program := program_at(child))]
    if len(inside) > 1:
        raise UserError("handover.several", folder=folder, programs=", ".join(child.name for child, _ in inside))
    if inside:
        return Place(lora_folder(*inside[0]), inside[0][1])
    if LORA_FOLDERS.isdisjoint(part.casefold() for part in folder.parts) and not _has_loras(folder):
        raise UserError("handover.unknown_folder", folder=folder)
    return Place(folder, SHARED)


def program_at(folder: Path) -> Program | None:
    """The program whose own folder this is."""
    return next((program for program in PROGRAMS if _is_home(folder, program)), None)


def _is_home(folder: Path, program: Program) -> bool:
    if any(os.path.exists(folder / mark) for mark in program.marks):
        return True
    return bool(re.search(program.called, folder.name, re.IGNORECASE)) and os.path.isdir(folder / "models")


def _within(folder: Path, top: Path, program: Program) -> Path:
    """The folder itself if it is one for LoRAs; the program's where its own folder or that of its models was named."""
    parts = [part.casefold() for part in folder.relative_to(top).parts]
    if not LORA_FOLDERS.isdisjoint(parts):
        return folder
    right = lora_folder(top, program)
    if parts not in ([], ["models"]):
        raise UserError("handover.other_folder", folder=folder, program=program.name, right=right)
    return right


def lora_folder(top: Path, program: Program) -> Path:
    """Where a program keeps its LoRAs, in the spelling that is there."""
    usual = top / program.loras
    there = (child for child in _folders(usual.parent) if child.name.casefold() == usual.name.casefold())
    return next(there, usual)


def _folders(folder: Path) -> Iterator[Path]:
    """Folders in a folder by name; none where it can't be read."""
    try:
        found = sorted(child for child in folder.iterdir() if os.path.isdir(child))
    except OSError:
        return
    yield from found[:MOST_LOOKED_AT]


def _has_loras(folder: Path) -> bool:
    return next(folder.glob("*.safetensors"), None) is not None
