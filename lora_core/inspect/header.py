"""What a file is, from its header alone: at once, without reading weights (but the few bytes of the alphas)."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_core.inspect import bounded, dataset
from lora_core.inspect.header_findings import finding, header_findings
from lora_core.inspect.layers import FileLayer, Layers, block_order, group, naming_of, part_of
from lora_core.inspect.recipe import recipe_of
from lora_core.inspect.report import BaseModel, BlockReport, HeaderReport, Part, PartReport
from lora_core.inspect.thumbnail import thumbnail
from lora_core.io.arrays import ArrayFile, open_arrays
from lora_core.io.headers import identify, read_header
from lora_core.io.kinds import FileKind
from lora_core.io.metadata import SETTINGS_KEY
from lora_core.merge.known import default_targets
from lora_core.merge.recipe import RECIPE_KEY

PARTS: tuple[Part, ...] = ("unet", "te1", "te2", "te3")


def inspect_header(path: Path) -> HeaderReport:
    """What a model file or diffusers folder is; of a LoRA also ranks, recipe and what is wrong with its keys.

    Raises UserError for what can't be read as a model file.
    """
    kind = identify(path)
    if kind.kind != "lora":
        return _other(kind)
    if kind.container != "safetensors":
        report = _lora(kind, group(read_header(path).tensors, kind.family), {})
        return replace(report, findings=(finding("note", "pickled"), *report.findings))
    with open_arrays(path) as file:
        layers = group(file.tensors, kind.family)
        return _lora(kind, layers, read_alphas(file, layers))


def _other(kind: FileKind) -> HeaderReport:
    """Of a checkpoint, VAE or the like only what it is."""
    single = kind.container != "folder"
    return HeaderReport(
        path=kind.path,
        kind=kind.kind,
        family=kind.family,
        size=kind.size,
        precision=kind.dtype,
        tensors=kind.tensors,
        parameters=sum(info.elements for info in read_header(kind.path).tensors.values()) if single else 0,
        container=kind.container,
        prediction_type=kind.prediction_type,
        has_vae=kind.has_vae,
        has_text_encoder=kind.has_text_encoder,
        title=bounded.plain(kind.metadata.get("modelspec.title", "")),
        author=bounded.plain(kind.metadata.get("modelspec.author", "")),
        recipe=recipe_of(kind.metadata),
    )


def _lora(kind: FileKind, layers: Layers, alphas: Mapping[str, float]) -> HeaderReport:
    metadata = kind.metadata
    by_folder = dataset.tags_by_folder(metadata)
    trained = Counter(layer.algorithm for layer in layers.layers)
    return HeaderReport(
        path=kind.path,
        kind=kind.kind,
        family=kind.family,
        size=kind.size,
        precision=kind.dtype,
        tensors=kind.tensors,
        parameters=sum(layer.parameters for layer in layers.layers),
        container=kind.container,
        prediction_type=kind.prediction_type,
        algorithms=dict(trained.most_common()),
        naming=naming_of(layers),
        parts=_parts(layers),
        blocks=_blocks(layers, alphas),
        layers=len({layer.name for layer in layers.layers}),
        targets=sum(part.targets for part in _parts(layers)),
        ranks=_frequent(layer.rank for layer in layers.layers),
        alphas=_frequent(alphas.values()),
        base=_base(metadata),
        title=_first(metadata, "modelspec.title"),
        author=_first(metadata, "modelspec.author"),
        output_name=_first(metadata, "ss_output_name"),
        trigger_words=_first(metadata, "modelspec.trigger_phrase"),
        description=_first(metadata, "modelspec.description"),
        license=_first(metadata, "modelspec.license"),
        comment=_first(metadata, "ss_training_comment"),
        program=_program(metadata),
        thumbnail=thumbnail(kind.path, metadata.get("modelspec.thumbnail", "")),
        has_settings=bool(bounded.mapping(bounded.parse(metadata.get(SETTINGS_KEY, "")))),
        merged_from=_merged_from(metadata),
        merge_recipe=bounded.bounded(bounded.parse(metadata.get(RECIPE_KEY, ""), bounded.LARGEST_SHOWN)),
        recipe=recipe_of(metadata),
        datasets=dataset.folders(metadata),
        tags=dataset.tags(by_folder),
        tags_by_folder=by_folder,
        buckets=dataset.buckets(metadata),
        findings=tuple(header_findings(layers, alphas, metadata)),
    )


def read_alphas(file: ArrayFile, layers: Layers) -> dict[str, float]:
    """Layer as spelled -> alpha, for layers that have one number of that name."""
    keys = {layer.spelled: layer.keys["alpha"] for layer in layers.layers if "alpha" in layer.keys}
    return {spelled: float(file.read(key).reshape(-1)[0]) for spelled, key in keys.items() if _is_number(file, key)}


def _is_number(file: ArrayFile, key: str) -> bool:
    return file.tensors[key].elements == 1


def _frequent(values: Iterable[Any]) -> dict[Any, int]:
    """Values that are there with their counts, most frequent first, then largest."""
    counts = Counter(value for value in values if value is not None)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], -item[0])))


# ---- layers by part and block ----------------------------------------------------------------------------------------


def _parts(layers: Layers) -> tuple[PartReport, ...]:
    targets = default_targets(layers.family) if layers.real_size else frozenset()
    return tuple(
        PartReport(
            part,
            len({layer.name for layer in own}),
            _targets(part, targets),
            sum(x.parameters for x in own),
            layers.family,
        )
        for part in PARTS
        if (own := [layer for layer in layers.layers if layer.part == part])
    )


def _targets(part: Part, targets: frozenset[str]) -> int:
    return sum(part_of(name) == part for name in targets)


def _blocks(layers: Layers, alphas: Mapping[str, float]) -> tuple[BlockReport, ...]:
    by_block: dict[str, list[FileLayer]] = {block: [] for block in block_order(layers.family)}
    for layer in layers.layers:
        by_block.setdefault(layer.block, []).append(layer)
    return tuple(
        BlockReport(
            block=block,
            layers=len({layer.name for layer in own}),
            parameters=sum(layer.parameters for layer in own),
            ranks=tuple(sorted({layer.rank for layer in own if layer.rank is not None})),
            alphas=tuple(sorted({alphas[layer.spelled] for layer in own if layer.spelled in alphas})),
        )
        for block, own in by_block.items()
        if own
    )


# ---- words of the metadata -------------------------------------------------------------------------------------------


def _first(metadata: Mapping[str, str], *keys: str) -> str:
    """The first of these entries that says something."""
    texts = (metadata.get(key, "").strip() for key in keys)
    return bounded.plain(next((text for text in texts if text and text != "None"), ""))


def _base(metadata: Mapping[str, str]) -> BaseModel:
    return BaseModel(
        name=_first(metadata, "ss_sd_model_name"),
        version=_first(metadata, "ss_base_model_version", "modelspec.architecture"),
        short_hash=_hash(metadata, "ss_sd_model_hash"),
        sha256=_hash(metadata, "ss_new_sd_model_hash"),
        vae_name=_first(metadata, "ss_vae_name"),
        vae_sha256=_hash(metadata, "ss_new_vae_hash"),
    )


def _hash(metadata: Mapping[str, str], key: str) -> str:
    """A hash; sd-scripts writes NOFILE and IsADirectory where it could make none."""
    found = _first(metadata, key)
    return found if re.fullmatch(r"[0-9a-fA-F]{8,64}", found) else ""


def _program(metadata: Mapping[str, str]) -> str:
    """What wrote the file, as far as it says."""
    if said := _first(metadata, "modelspec.implementation_version"):
        return said
    if "kumakobo_version" in metadata:
        return f"kumakobo/{_first(metadata, 'kumakobo_version')}"
    return "sd-scripts" if "ss_sd_scripts_commit_hash" in metadata else ""


def _merged_from(metadata: Mapping[str, str]) -> tuple[str, ...]:
    names = _first(metadata, "modelspec.merged_from").split(",")
    return tuple(name.strip() for name in names if name.strip())
