"""How sd-scripts writes down what it trained with: options, JSON inside text, and the call of an optimizer."""

import json
import re
from collections.abc import Mapping
from typing import Any

from lora_core.settings.fields import fields_of

Metadata = Mapping[str, str]
_LARGEST = 2_000_000
"""Characters of JSON that are parsed; ss_datasets holds the tags of all folders."""


def truth(text: str) -> bool:
    """True and False as Python writes them. Raises ValueError for anything else."""
    known = {"True": True, "true": True, "False": False, "false": False}
    if text.strip() not in known:
        raise ValueError(text)
    return known[text.strip()]


def flattened(metadata: Metadata) -> dict[str, str]:
    """The options as one table: with those of the first data set (TOML mode) and of the network's arguments."""
    told = {key: value for key, value in metadata.items() if len(value) <= 10_000}
    for key, value in {**_of_datasets(metadata), **_of_network(metadata)}.items():
        if key not in told:
            told[key] = value
    if told.get("ss_batch_size_per_device", "None") == "None" and "ss_total_batch_size" in told:
        told["ss_batch_size_per_device"] = told["ss_total_batch_size"]
    return told


def _of_network(metadata: Metadata) -> dict[str, str]:
    """rank_dropout and module_dropout, and what other kinds of network were told."""
    args = _parsed(metadata.get("ss_network_args", ""))
    return {str(key): str(value) for key, value in args.items()} if isinstance(args, dict) else {}


_BUCKETS = ("enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_no_upscale")
_DATASET = ("batch_size_per_device", "resolution", *_BUCKETS)
_SUBSET = ("flip_aug", "random_crop", "shuffle_caption", "keep_tokens")


def _of_datasets(metadata: Metadata) -> dict[str, str]:
    """Options that the TOML mode writes for each data set: those of the first, and of its first folder."""
    listed = _parsed(metadata.get("ss_datasets", ""))
    first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else {}
    subsets = first.get("subsets")
    subset = subsets[0] if isinstance(subsets, list) and subsets and isinstance(subsets[0], dict) else {}
    return {
        f"ss_{key}": str(table[key])
        for keys, table in ((_DATASET, first), (_SUBSET, subset))
        for key in keys
        if key in table
    }


def _parsed(text: str) -> Any:
    if not text or len(text) > _LARGEST:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


# ---- the optimizer ---------------------------------------------------------------------------------------------------


def optimizer_changes(text: str) -> dict[str, Any]:
    """ "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1,betas=(0.9, 0.99))" as settings of the optimizer.

    Only optimizers that the form lists: a stranger's file is not to choose which code of this machine is run.
    """
    found = re.fullmatch(r"\s*([\w.]{1,300})\s*(?:\((.*)\))?\s*", text[:2000], re.DOTALL)
    if not found or found[1] == "None":
        return {}
    names = {choice.lower(): choice for choice in fields_of()["optimizer.name"].choices if choice != "custom"}
    known = names.get(found[1].rpartition(".")[2].lower())
    return {"optimizer.name": known} | _arguments(found[2] or "", known) if known else {}


def _arguments(text: str, optimizer: str) -> dict[str, Any]:
    """The arguments of the call: those that have a field of their own, and the rest as text."""
    changes: dict[str, Any] = {}
    others: list[str] = []
    for name, value in re.findall(r"(\w+)\s*=\s*(\([^()]*\)|\[[^\[\]]*\]|[^,()\[\]]+)", text):
        path, value = f"optimizer.{name}", re.sub(r"\s+", "", value)
        if path in fields_of() and optimizer in fields_of()[path].variants and name != "args":
            changes[path] = truth(value) if value in ("True", "False") else value
        elif name.isidentifier() and value:
            others.append(f"{name}={value}")
    return changes | ({"optimizer.args": " ".join(others)} if others else {})


# ---- what has no place here ------------------------------------------------------------------------------------------

OFF = ("None", "", "False", "0", "0.0")
"""Values with which an option does nothing."""
NO_PLACE = (
    "ss_color_aug",
    "ss_face_crop_aug_range",
    "ss_caption_tag_dropout_rate",
    "ss_full_fp16",
    "ss_full_bf16",
    "ss_fp8_base",
    "conv_dim",
    "conv_alpha",
    "algo",
    "preset",
    "block_dims",
    "down_lr_weight",
    "mid_lr_weight",
    "up_lr_weight",
    "loraplus_lr_ratio",
    "train_t5xxl",
)
"""Options that change training and that the form does not have."""
BASES = ("sd_v1", "sd_v1_v", "None", "")
"""Base models of LoRAs whose settings fit the form as they are."""


def noted(told: Metadata) -> dict[str, str]:
    """Options that were used and that have no place in the form."""
    left = {key: told[key] for key in NO_PLACE if key in told and told[key].strip() not in OFF}
    if (optimizer := told.get("ss_optimizer", "None")) != "None" and not optimizer_changes(optimizer):
        left["ss_optimizer"] = optimizer
    module = told.get("ss_network_module", "networks.lora")
    if not module.startswith("networks.lora") and module != "None":
        left["ss_network_module"] = module
    base = told.get("ss_base_model_version", "")
    if base not in BASES:
        left["ss_base_model_version"] = base
    return left
