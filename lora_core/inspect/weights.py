"""What the weights of a LoRA show: how strong each layer and block is, what rank is needed, what is broken."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lora_core.errors import UserError
from lora_core.inspect import bounded
from lora_core.inspect.header import inspect_header, read_alphas
from lora_core.inspect.hosts import host_reports
from lora_core.inspect.layers import Layers, block_order, group
from lora_core.inspect.measure import Measured, measure
from lora_core.inspect.report import BlockWeights, EnergyPoint, LoraReport, ModuleReport, Part, WeightReport
from lora_core.inspect.weight_findings import weight_findings
from lora_core.io.arrays import ArrayFile, hashes_of, open_arrays
from lora_core.merge.lowrank import effective_rank

VALUES_SHOWN = 64
"""Singular values of one layer that a report holds."""
SEVERITIES = ("error", "warning", "note")


def inspect_file(path: Path, weights: bool = True) -> LoraReport:
    """The header report of any model file, and with ``weights`` of a LoRA in safetensors the weight report too."""
    header = inspect_header(path)
    readable = header.kind == "lora" and header.container == "safetensors"
    return LoraReport(header, inspect_weights(path) if weights and readable else None)


def inspect_weights(path: Path) -> WeightReport:
    """Reads every weight of a LoRA: about a second for each 100 MB.

    NaN and broken layers are findings. Raises UserError for a file that can't be read, or is no LoRA.
    """
    header = inspect_header(path)
    if header.kind != "lora":
        raise UserError("inspect.not_lora", path=path)
    with open_arrays(path) as file:
        layers = group(file.tensors, header.family)
        alphas = read_alphas(file, layers)
        measured = list(measure(file, layers))
        stored, computed = hashes(file)
    energy = energy_curve(measured)
    rank_95, rank_99 = rank_for(measured, 0.95), rank_for(measured, 0.99)
    found = weight_findings(measured, header.rank, rank_99, stored_hash=stored, computed_hash=computed)
    findings = sorted([*header.findings, *found], key=lambda finding: SEVERITIES.index(finding.severity))
    total = sum(row.norm**2 for row in measured)
    return WeightReport(
        path=path,
        family=header.family,
        modules=modules(measured, alphas),
        blocks=blocks(measured, layers),
        shares=shares(measured, total),
        norm=float(np.sqrt(total)),
        energy=energy,
        rank_for_95=rank_95,
        rank_for_99=rank_99,
        hosts=host_reports(layers),
        stored_hash=stored,
        computed_hash=computed,
        findings=tuple(findings),
    )


def hashes(file: ArrayFile) -> tuple[str, str]:
    """sshs_model_hash as the metadata have it ("" for none), and that of the tensors as they are."""
    encoded = {name: (info.dtype, info.shape, file.raw(name)) for name, info in file.tensors.items()}
    computed = hashes_of(encoded, file.metadata)["sshs_model_hash"]
    return bounded.plain(file.metadata.get("sshs_model_hash", ""), 64), computed


# ---- by layer --------------------------------------------------------------------------------------------------------


def strength(row: Measured) -> float:
    """Root mean square change of a weight."""
    return row.norm / np.sqrt(row.elements) if row.elements else 0.0


def medians(measured: Sequence[Measured]) -> dict[tuple[Part, bool], float]:
    """The median strength of layers of a part, convolutions apart, zeros left out."""
    groups: dict[tuple[Part, bool], list[float]] = {}
    for row in measured:
        if row.norm:
            groups.setdefault((row.layer.part, row.spatial), []).append(strength(row))
    return {key: float(np.median(values)) for key, values in groups.items()}


def modules(measured: Sequence[Measured], alphas: Mapping[str, float]) -> tuple[ModuleReport, ...]:
    """Every layer in the file's order."""
    ordinary = medians(measured)
    return tuple(_module(row, alphas, ordinary.get((row.layer.part, row.spatial), 0.0)) for row in measured)


def _module(row: Measured, alphas: Mapping[str, float], ordinary: float) -> ModuleReport:
    layer = row.layer
    report = ModuleReport(
        name=row.name,
        part=layer.part,
        block=layer.block,
        algorithm=layer.algorithm,
        shape=row.shape,
        rank=layer.rank,
        alpha=alphas.get(layer.spelled),
    )
    if row.state != "measured":
        return report
    values = row.values if row.values is not None else np.empty(0)
    return replace(
        report,
        norm=row.norm,
        strength=strength(row),
        relative=strength(row) / ordinary if ordinary else None,
        effective_rank=effective_rank(values) if values.size else None,
        singular_values=tuple(float(value) for value in values[:VALUES_SHOWN]),
        energy=energy_curve([row]),
    )


# ---- by block and part -----------------------------------------------------------------------------------------------


def blocks(measured: Sequence[Measured], layers: Layers) -> tuple[BlockWeights, ...]:
    """Blocks that have a measured layer, in the order of the model."""
    by_block: dict[str, list[Measured]] = {block: [] for block in block_order(layers.family)}
    for row in measured:
        if row.state == "measured":
            by_block.setdefault(row.layer.block, []).append(row)
    total = sum(row.norm**2 for row in measured)
    return tuple(_block(block, rows, total) for block, rows in by_block.items() if rows)


def _block(block: str, rows: Sequence[Measured], total: float) -> BlockWeights:
    square = sum(row.norm**2 for row in rows)
    ranks = [effective_rank(row.values) for row in rows if row.values is not None]
    return BlockWeights(
        block=block,
        layers=len({row.layer.name for row in rows}),
        norm=float(np.sqrt(square)),
        share=square / total if total else 0.0,
        strength=float(np.sqrt(square / elements)) if (elements := sum(row.elements for row in rows)) else 0.0,
        effective_rank=float(np.mean(ranks)) if ranks else 0.0,
        energy=energy_curve(rows),
    )


def shares(measured: Sequence[Measured], total: float) -> dict[Part, float]:
    """Part -> share of |D|^2."""
    found: dict[Part, float] = {}
    for row in measured:
        if row.state == "measured":
            found[row.layer.part] = found.get(row.layer.part, 0.0) + (row.norm**2 / total if total else 0.0)
    return found


# ---- energy ----------------------------------------------------------------------------------------------------------


def kept(measured: Sequence[Measured]) -> np.ndarray:
    """Share of |D|^2 kept when every layer is cut to rank 1, 2, 3 ..., of layers with singular values; maybe empty."""
    spectra = [np.square(row.values) for row in measured if row.values is not None]
    longest = max((len(squares) for squares in spectra), default=0)
    summed = np.zeros(longest)
    for squares in spectra:
        summed[: len(squares)] += squares
    total = summed.sum()
    return np.cumsum(summed) / total if total else np.empty(0)


def energy_curve(measured: Sequence[Measured]) -> tuple[EnergyPoint, ...]:
    """What ranks 1, 2, 4, 8 ... and the largest keep."""
    share = kept(measured)
    ranks = sorted({2**power for power in range(16) if 2**power < len(share)} | {len(share)}) if len(share) else []
    return tuple(EnergyPoint(rank, min(float(share[rank - 1]), 1.0)) for rank in ranks)


def rank_for(measured: Sequence[Measured], wanted: float) -> int | None:
    """The smallest one rank for all layers that keeps a share of |D|^2; None where nothing can be said."""
    share = kept(measured)
    return int(np.searchsorted(share, wanted * (1 - 1e-12))) + 1 if len(share) else None
