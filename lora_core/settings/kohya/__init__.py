"""Kohya's settings files and command lines, in and out. Torch-free.

A file becomes settings and a report in which no key is missing. table.py holds all keys of the GUI and all options of
sd-scripts; the settings' own fields say which of them come along, so a new field with a Kohya name needs no line here.
"""

from lora_core.settings.kohya.command import is_command
from lora_core.settings.kohya.convert import anything, import_command, import_tree
from lora_core.settings.kohya.entries import GROUPS, Entry, Imported
from lora_core.settings.kohya.export import Exported, to_gui, to_scripts
from lora_core.settings.kohya.sources import is_kohya

__all__ = [
    "GROUPS",
    "Entry",
    "Exported",
    "Imported",
    "anything",
    "import_command",
    "import_tree",
    "is_command",
    "is_kohya",
    "to_gui",
    "to_scripts",
]
