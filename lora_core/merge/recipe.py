"""What a result says of itself: the entries other programs read, and a recipe by which it can be made again.

Sources are named by file name and sha256, never by path. Times are local, as the standard asks.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_core.io.hashes import model_hash
from lora_core.io.kinds import Family
from lora_core.io.metadata import program_version
from lora_core.merge.lowrank import LowRank
from lora_core.settings.tools import LoraSource

RECIPE_KEY = "kumakobo_recipe"
RECIPE_VERSION = 1
DYNAMIC = "Dynamic"
"""What sd-scripts writes for rank and alpha that differ from layer to layer."""

ARCHITECTURES: Mapping[Family, str] = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-512",
    "sdxl": "stable-diffusion-xl-v1-base",
    "flux": "flux-1-dev",
}
BASE_VERSIONS: Mapping[Family, str] = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0", "flux": "flux1"}
_MODULES: Mapping[Family, str] = {"flux": "networks.lora_flux"}
_OF_THE_BASE = (
    "ss_v2",
    "ss_base_model_version",
    "ss_sd_model_name",
    "ss_sd_model_hash",
    "ss_new_sd_model_hash",
    "ss_clip_skip",
    "ss_resolution",
    "modelspec.architecture",
    "modelspec.prediction_type",
    "modelspec.resolution",
)
"""Entries about the base model, kept where the sources agree."""


@dataclass(frozen=True)
class Source:
    """A file that went into a result. ``metadata`` is its own."""

    path: Path
    metadata: Mapping[str, str]
    ratio: float | None = None
    block_weights: str = ""

    @classmethod
    def of(cls, given: LoraSource, metadata: Mapping[str, str]) -> "Source":
        assert given.path is not None
        return cls(given.path, metadata, given.ratio, given.block_weights)

    def entry(self) -> dict[str, Any]:
        """How the recipe names it."""
        entry: dict[str, Any] = {"name": self.path.name}
        if self.path.is_file():
            entry["sha256"] = model_hash(self.path)
        if self.ratio is not None:
            entry["ratio"] = self.ratio
        if self.block_weights.strip():
            entry["block_weights"] = self.block_weights.strip()
        return entry


def lora_metadata(
    *, title: str, family: Family, changes: Mapping[str, LowRank], sources: Sequence[Source], recipe: Mapping[str, Any]
) -> dict[str, str]:
    """Metadata of a LoRA made of other files. ``recipe`` holds the job and its numbers; the sources are added."""
    known = agreeing([source.metadata for source in sources])
    return {
        "ss_v2": str(family == "sd2"),
        "ss_base_model_version": BASE_VERSIONS.get(family, ""),
        **{key: value for key, value in known.items() if key.startswith("ss_")},
        **network_entries(changes, family),
        "ss_output_name": title,
        **tag_frequency(sources),
        "modelspec.architecture": f"{ARCHITECTURES.get(family, family)}/lora",
        **{key: value for key, value in known.items() if key.startswith("modelspec.")},
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "diffusers",
        "modelspec.implementation_version": f"kumakobo/{program_version()}",
        "modelspec.title": title,
        "modelspec.date": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "modelspec.merged_from": ", ".join(source.path.stem for source in sources),
        **trigger_words(sources),
        **recipe_entry(recipe, sources),
    }


def recipe_entry(recipe: Mapping[str, Any], sources: Sequence[Source]) -> dict[str, str]:
    """The recipe as one metadata entry."""
    whole = {"version": RECIPE_VERSION, **recipe, "sources": [source.entry() for source in sources]}
    return {RECIPE_KEY: json.dumps(whole, ensure_ascii=False)}


def read_recipe(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The recipe of a result, or None where there is none that can be read."""
    try:
        recipe = json.loads(metadata[RECIPE_KEY])
    except (KeyError, ValueError, RecursionError):
        return None
    return recipe if isinstance(recipe, dict) and isinstance(recipe.get("sources"), list) else None


def agreeing(metadata: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Entries about the base model that all sources have and that say the same in each."""
    first = metadata[0] if metadata else {}
    return {key: first[key] for key in _OF_THE_BASE if key in first and all(m.get(key) == first[key] for m in metadata)}


def network_entries(changes: Mapping[str, LowRank], family: Family) -> dict[str, str]:
    """Rank and alpha (which are equal here) as sd-scripts writes them; convolutions have their own."""
    linear = {change.rank for change in changes.values() if not is_spatial(change.shape)}
    conv = {change.rank for change in changes.values() if is_spatial(change.shape)}
    dim = _one(linear or conv)
    args = {"conv_dim": _one(conv), "conv_alpha": _one(conv)} if conv else {}
    return {
        "ss_network_module": _MODULES.get(family, "networks.lora"),
        "ss_network_dim": dim,
        "ss_network_alpha": dim,
        "ss_network_args": json.dumps(args),
    }


def _one(ranks: Iterable[int]) -> str:
    found = set(ranks) - {0}
    return str(found.pop()) if len(found) == 1 else DYNAMIC if found else "0"


def is_spatial(shape: Sequence[int]) -> bool:
    """Whether a weight is a convolution larger than 1x1, which has a rank of its own."""
    return len(shape) == 4 and (shape[2] > 1 or shape[3] > 1)


def tag_frequency(sources: Sequence[Source]) -> dict[str, str]:
    """The tags of all sources, folder by folder; a folder name that two share gets the source's name before it."""
    tags: dict[str, Any] = {}
    for source in sources:
        if source.ratio is not None and source.ratio < 0:
            continue
        try:
            own = json.loads(source.metadata.get("ss_tag_frequency", "{}"))
        except (ValueError, RecursionError):
            continue
        for folder, counts in own.items() if isinstance(own, dict) else ():
            tags[folder if folder not in tags else f"{source.path.stem}/{folder}"] = counts
    return {"ss_tag_frequency": json.dumps(tags, ensure_ascii=False)} if tags else {}


def trigger_words(sources: Sequence[Source]) -> dict[str, str]:
    """The trigger phrases of all sources that are added, each once."""
    key = "modelspec.trigger_phrase"
    added = [source for source in sources if source.ratio is None or source.ratio > 0]
    phrases = dict.fromkeys(source.metadata[key].strip() for source in added if source.metadata.get(key, "").strip())
    return {key: ", ".join(phrases)} if phrases else {}


def minimal(metadata: Mapping[str, str]) -> dict[str, str]:
    """Only what other programs need to know the kind of the file."""
    needed = ("ss_v2", "ss_base_model_version", "ss_network_module", "ss_network_dim", "ss_network_alpha")
    kept = (*needed, "ss_network_args", "modelspec.sai_model_spec", "modelspec.architecture", "modelspec.title")
    return {key: metadata[key] for key in kept if key in metadata}
