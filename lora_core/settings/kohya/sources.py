"""Kohya's files as one flat set of values, each under the key the GUI has for it."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lora_core.settings.fields import fields_of
from lora_core.settings.kohya.command import options, split
from lora_core.settings.kohya.dataset import DATASET_KEYS
from lora_core.settings.kohya.entries import Given
from lora_core.settings.kohya.table import ALIASES, NETWORK_ARGS, OLD, ROWS
from lora_core.settings.kohya.values import is_empty, loosely

_TYPES = {
    "networks.lora": "Standard",
    "networks.lora_sd3": "Standard",
    "networks.lora_fa": "LoRA-FA",
    "networks.dylora": "Kohya DyLoRA",
    "networks.loha": "Kohya LoHa",
    "networks.lokr": "Kohya LoKr",
    "networks.lora_flux": "Flux1",
    "networks.oft_flux": "Flux1 OFT",
    "networks.lora_hunyuan_image": "HunyuanImage-2.1",
    "networks.lora_anima": "Anima",
    "networks.lora_lumina": "Lumina",
}
_LYCORIS = {
    "locon": "LoCon",
    "lora": "LoCon",
    "loha": "LoHa",
    "lokr": "LoKr",
    "dylora": "DyLoRA",
    "glora": "GLoRA",
    "ia3": "iA3",
    "diag-oft": "Diag-OFT",
    "boft": "BOFT",
    "full": "Native Fine-Tuning",
}
_GUI_MARKS = {"LoRA_type", "max_resolution", "lr_warmup", "optimizer", "epoch", "model_list", "flux1_checkbox"}
"""Keys that only the GUI's own files have."""


REPLACED = "replaced"
"""Marks a value that another one of the same meaning replaces."""


def is_kohya(tree: Mapping[str, Any]) -> bool:
    """Whether a tree of a .json or .toml file is Kohya's: more of its keys are Kohya's than ours."""
    ours = {f.section for f in fields_of().values()} | {"version", "preset"}
    if "version" in tree or (tree and all(name in ours and isinstance(v, Mapping) for name, v in tree.items())):
        return False
    if is_dataset(tree):
        return True
    theirs = sum(name in _KNOWN for name, _ in _leaves(tree))
    mine = sum(
        f"{section}.{name}" in fields_of()
        for section, values in tree.items()
        if isinstance(values, Mapping)
        for name in values
    )
    return theirs > mine


def is_dataset(tree: Mapping[str, Any]) -> bool:
    """A dataset config of sd-scripts."""
    return isinstance(tree.get("datasets"), list)


def is_gui(tree: Mapping[str, Any]) -> bool:
    return any(name in tree and not isinstance(tree[name], Mapping) for name in _GUI_MARKS)


def from_gui(tree: Mapping[str, Any]) -> dict[str, Given]:
    """A GUI file. Options in "Additional parameters" come last and count, as on the command line."""
    given: dict[str, Given] = {}
    for name, value in tree.items():
        key = OLD.get(name, name)
        if key != name and key in tree:  # an old name beside the new one
            key = f"{REPLACED} {name}"
        given[key] = Given(name, value, "gui")
    extra = given.get("additional_parameters")
    if extra is not None and not is_empty(extra.value):
        given = over(from_options(options(split(loosely(extra.value))), beside=given), given)
    return given


def over(stronger: Mapping[str, Given], weaker: Mapping[str, Given]) -> dict[str, Given]:
    """Both; what a stronger value replaces is kept under a name of its own, to be told."""
    replaced = {
        f"{REPLACED} {given.name}": given
        for key, given in weaker.items()
        if key in stronger and stronger[key].name != given.name
    }
    return {**weaker, **stronger, **replaced}


def from_tree(tree: Mapping[str, Any]) -> dict[str, Given]:
    """A config of sd-scripts: sections are only for reading and don't count, as there."""
    return from_options(dict(_leaves(tree)))


def from_options(found: Mapping[str, Any], beside: Mapping[str, Given] | None = None) -> dict[str, Given]:
    """Options of sd-scripts by name. ``--network_args`` is taken apart."""
    given: dict[str, Given] = {}
    for name, value in found.items():
        if name not in ("network_args", "network_module"):
            key = ALIASES.get(name, name)
            given[key if key not in given else f"{REPLACED} {name}"] = Given(name, value, "scripts")
    arguments = dict(_pairs(found.get("network_args")))
    for name, value in arguments.items():
        if name != "algo":
            key = NETWORK_ARGS.get(name, name)
            given[key if key in ROWS else f"network_args {name}"] = Given(f"network_args {name}", value, "scripts")
    module = loosely(found.get("network_module"))
    if module or (beside is None and "network_dim" in found):
        given["LoRA_type"] = Given("network_module", _lora_type(module, arguments), "scripts")
    return given


def from_accelerate(found: Mapping[str, Any]) -> dict[str, Given]:
    """Options of accelerate launch. Its mixed precision does not count: the script gives its own."""
    other = {"mixed_precision", "module", "m"}
    return {
        name if name in ROWS and name not in other else f"accelerate {name}": Given(f"accelerate {name}", v, "scripts")
        for name, v in found.items()
    }


def _lora_type(module: str, arguments: Mapping[str, str]) -> str:
    if module.startswith("lycoris"):
        return f"LyCORIS/{_LYCORIS.get(arguments.get('algo', 'lora').lower(), arguments.get('algo', ''))}"
    if module in ("networks.lora", "") and arguments.get("conv_dim"):
        return "Kohya LoCon"
    return _TYPES.get(module or "networks.lora", module)


def _pairs(arguments: Any) -> Iterator[tuple[str, str]]:
    """key=value out of ``--network_args``, a list in TOML; a lone name is a switch."""
    parts = arguments if isinstance(arguments, list) else split(loosely(arguments))
    for part in parts:
        name, equals, value = loosely(part).partition("=")
        if name.strip():
            yield name.strip(), value.strip() if equals else "true"


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and name not in _KNOWN:
            yield from value.items()
        else:
            yield name, value


def parse_json(text: str) -> Any:
    """JSON of any program; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def variables(value: Any) -> str:
    """The first variable of a shell in a value, such as $MODEL or %MODEL%; empty if there is none."""
    found = re.search(r"\$\{?\w+\}?|%\w+%|\$env:\w+", value) if isinstance(value, str) else None
    return found[0] if found else ""


_KNOWN = ROWS.keys() | ALIASES.keys() | OLD.keys() | DATASET_KEYS | {"network_args", "network_module"}

__all__ = ["from_accelerate", "from_gui", "from_options", "from_tree", "is_dataset", "is_gui", "is_kohya"]
