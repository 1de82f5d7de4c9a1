"""Files and options of Kohya for tests, with every key they may have."""

import json
from pathlib import Path

from lora_core.settings.kohya import import_tree

KEYS = json.loads((Path(__file__).parent / "data/kohya_keys.json").read_text(encoding="utf-8"))
"""The GUI's keys with their defaults, the old ones, and the options of sd-scripts with theirs."""
SCRIPTS = {"network_module": "networks.lora"}


def nothing(_):
    return False


def gui(**changes):
    """A file as today's GUI saves it."""
    return import_tree(KEYS["gui"] | changes, "kohya.json", nothing)


def scripts(**options):
    return import_tree(SCRIPTS | options, "kohya.toml", nothing)


def entry(imported, key):
    (found,) = [e for e in imported.entries if e.key == key]
    return found
