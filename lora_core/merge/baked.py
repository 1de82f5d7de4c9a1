"""What a checkpoint's metadata says of the LoRAs baked into it.

The recipe names each by file name and sha256 with its ratio, so that taking it out again can be checked. Baking and
taking out leave the metadata as it was.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lora_core.merge.bake import Plan
from lora_core.merge.checkpoint import TensorFile
from lora_core.merge.combine import Weighted
from lora_core.merge.recipe import RECIPE_KEY, RECIPE_VERSION, Source, read_recipe

MERGED_FROM = "modelspec.merged_from"
_OF_THE_WEIGHTS = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")
"""Entries that are no longer true once a weight changes."""
_KIND = ("format", "modelspec.sai_model_spec", "modelspec.architecture", "modelspec.prediction_type")
_SAME = ("sha256", "ratio", "block_weights")
"""What makes two entries of a recipe the same thing done."""


def entries(metadata: Mapping[str, str]) -> list[dict[str, Any]]:
    """The LoRAs baked in so far, in order."""
    recipe = read_recipe(metadata)
    if recipe is None or recipe.get("job") != "apply":
        return []
    return [entry for entry in recipe["sources"] if isinstance(entry, dict)]


def noted(metadata: Mapping[str, str], sources: Sequence[Weighted]) -> dict[str, str]:
    """Metadata with LoRAs added to those baked in."""
    stems = [source.file.path.stem for source in sources if source.used]
    merged = [metadata[MERGED_FROM], *stems] if metadata.get(MERGED_FROM) else stems
    whole = entries(metadata) + [_entry(source) for source in sources if source.used]
    return _kept(metadata) | {MERGED_FROM: ", ".join(merged)} | _recipe(whole)


def without(metadata: Mapping[str, str], sources: Sequence[Weighted]) -> dict[str, str]:
    """Metadata with LoRAs struck out that were baked in just so; what was not is left as it is."""
    known, merged = entries(metadata), metadata.get(MERGED_FROM, "").split(", ")
    for source in sources:
        if (place := _place(known, _entry(source))) is not None:
            del known[place]
            if (stem := source.file.path.stem) in merged:
                del merged[len(merged) - 1 - merged[::-1].index(stem)]
    kept = _kept(metadata)
    return kept | ({MERGED_FROM: ", ".join(merged)} if any(merged) else {}) | (_recipe(known) if known else {})


def not_recorded(files: Iterable[TensorFile], sources: Sequence[Weighted], plan: Plan) -> list[Weighted]:
    """LoRAs of which a checkpoint's changed files do not say that they were baked in with this strength."""
    changed = {path for path, _ in plan}
    known = [entries(file.metadata) for file in files if file.path in changed]
    return [source for source in sources if source.used and not _in_any(known, _entry(source))]


def _in_any(known: Sequence[Sequence[dict[str, Any]]], entry: dict[str, Any]) -> bool:
    return any(_place(entries, entry) is not None for entries in known)


def minimal(metadata: Mapping[str, str]) -> dict[str, str]:
    """Only what other programs need to know the kind of the file."""
    return {key: metadata[key] for key in _KIND if key in metadata}


def _entry(source: Weighted) -> dict[str, Any]:
    return Source.of(source.source, source.file.metadata).entry()


def _place(known: Sequence[dict[str, Any]], entry: dict[str, Any]) -> int | None:
    """The last place of an entry that says the same."""
    places = [i for i, old in enumerate(known) if all(old.get(key) == entry.get(key) for key in _SAME)]
    return places[-1] if places else None


def _kept(metadata: Mapping[str, str]) -> dict[str, str]:
    dropped = (*_OF_THE_WEIGHTS, RECIPE_KEY, MERGED_FROM)
    return {key: value for key, value in metadata.items() if key not in dropped}


def _recipe(sources: Sequence[dict[str, Any]]) -> dict[str, str]:
    recipe = {"version": RECIPE_VERSION, "job": "apply", "sources": sources}
    return {RECIPE_KEY: json.dumps(recipe, ensure_ascii=False)}
