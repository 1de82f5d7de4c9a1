"""What is wrong with a LoRA's keys, shapes, alphas and metadata: all that can be told without reading weights."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lora_core.inspect import bounded
from lora_core.inspect.hosts import host_reports, nowhere
from lora_core.inspect.layers import FACTORED, FileLayer, Layers, agrees, told_shape
from lora_core.inspect.recipe import meaning, number
from lora_core.inspect.report import Finding, Severity
from lora_core.io.arrays import FLOATS, decode, encode

NAMED = 20
"""Layers a finding names."""
Alphas = Mapping[str, float]
"""Layer as spelled -> alpha."""


def finding(severity: Severity, key: str, layers: Iterable[str] = (), **values: Any) -> Finding:
    """A finding about layers or keys, of which the first are named."""
    names = [bounded.plain(name, 200) for name in layers]
    return Finding(severity, key, values, tuple(names[:NAMED]), len(names))


def header_findings(layers: Layers, alphas: Alphas, metadata: Mapping[str, str]) -> Iterator[Finding]:
    """All findings, in the order of CHECKS."""
    for check in CHECKS:
        yield from check(layers, alphas, metadata)


# ---- keys and shapes -------------------------------------------------------------------------------------------------


def _keys(layers: Layers, alphas: Alphas, metadata: Mapping[str, str]) -> Iterator[Finding]:
    if layers.junk:
        yield finding("warning", "junk", layers.junk)
    if layers.family in ("unknown", "sd3"):
        yield finding("note", "family_unknown")
    elif layers.unknown:
        yield finding("warning", "unknown_layers", (layer.spelled for layer in layers.unknown))
    if layers.twice:
        yield finding("error", "twice", layers.twice)
    if partial := [layer for layer in layers.layers if layer.missing]:
        yield finding("error", "partial", (f"{layer.name} ({', '.join(layer.missing)})" for layer in partial))


def _shapes(layers: Layers, alphas: Alphas, metadata: Mapping[str, str]) -> Iterator[Finding]:
    if differ := [layer for layer in layers.layers if not halves_fit(layer)]:
        yield finding("error", "halves_differ", (layer.name for layer in differ))
    wrong = [layer for layer in layers.layers if layer not in differ and not _right_size(layer, layers)]
    if wrong and not layers.real_size:
        yield finding("note", "other_size")
    elif wrong:
        yield finding("error", "wrong_shape", (layer.name for layer in wrong))


def halves_fit(layer: FileLayer) -> bool:
    """Whether the inner sides of a layer's factors are equal, and none is empty."""
    shapes = layer.shapes
    if any(0 in shape for shape in shapes.values()):
        return False
    down, up, mid = (shapes.get(f"lora_{name}.weight") for name in ("down", "up", "mid"))
    if down and up and (len(up) < 2 or len(down) < 2 or up[1] != (mid or down)[0]):
        return False
    if down and mid and mid[1:2] != down[:1]:
        return False
    pairs = [] if "hada_t1" in shapes else [("hada_w1_a", "hada_w1_b"), ("hada_w2_a", "hada_w2_b")]
    pairs += [("lokr_w1_a", "lokr_w1_b")] if "lokr_t1" not in shapes else []
    pairs += [("lokr_w2_a", "lokr_w2_b")] if "lokr_t2" not in shapes else []
    return all(shapes[a][1:2] == shapes[b][:1] for a, b in pairs if a in shapes and b in shapes)


def _right_size(layer: FileLayer, layers: Layers) -> bool:
    told, known = told_shape(layer.shapes), layers.table.get(layer.name)
    if told is None or known is None:
        return True
    return agrees(told, (layer.rows[1] - layer.rows[0], *known[1:]) if layer.rows else known)


# ---- alpha and rank --------------------------------------------------------------------------------------------------


def _alphas(layers: Layers, alphas: Alphas, metadata: Mapping[str, str]) -> Iterator[Finding]:
    factored = [layer for layer in layers.layers if layer.algorithm in FACTORED and layer.rank and not layer.missing]
    given = [(layer, alphas[layer.spelled]) for layer in factored if layer.spelled in alphas]
    if zero := [layer.name for layer, alpha in given if alpha == 0]:
        yield finding("error", "alpha_zero", zero)
    if negative := [layer.name for layer, alpha in given if alpha < 0]:
        yield finding("warning", "alpha_negative", negative)
    above = [(layer, alpha) for layer, alpha in given if alpha > (layer.rank or 0) * (1 + _rounding(layer))]
    if above:
        layer, alpha = max(above, key=lambda row: row[1] / (row[0].rank or 1))
        values = {"alpha": number(alpha), "rank": layer.rank, "factor": number(round(alpha / (layer.rank or 1), 3))}
        yield finding("warning", "alpha_above_rank", (layer.name for layer, _ in above), **values)
    yield from _missing_alphas(factored, given, metadata)
    yield from _mixed(given, metadata)


def _missing_alphas(
    factored: Sequence[FileLayer], given: Sequence[tuple[FileLayer, float]], metadata: Mapping[str, str]
) -> Iterator[Finding]:
    """Without an alpha programs take the rank; that is right only where nothing says otherwise."""
    told = meaning(metadata.get("ss_network_alpha", "None"))
    without = [layer for layer in factored if "alpha" not in layer.keys]
    differing = [layer for layer in without if isinstance(told, int | float) and told and told != layer.rank]
    if without and given:
        yield finding("warning", "alpha_missing_some", (layer.name for layer in without))
    elif differing:
        values = {"alpha": number(float(told)), "rank": differing[0].rank}
        yield finding("warning", "alpha_missing", (layer.name for layer in differing), **values)


def _mixed(given: Sequence[tuple[FileLayer, float]], metadata: Mapping[str, str]) -> Iterator[Finding]:
    """Different alphas at one rank, where the training did not ask for them."""
    if "alphas" in metadata.get("ss_network_args", ""):
        return
    groups: dict[tuple[Any, ...], list[tuple[FileLayer, float]]] = {}
    for layer, alpha in given:
        if alpha > 0:
            groups.setdefault((layer.rank, _is_spatial(layer), layer.part == "unet"), []).append((layer, alpha))
    odd, usual = [], 0.0
    for rows in groups.values():
        (usual_here, _), *others = Counter(alpha for _, alpha in rows).most_common()
        if others:
            odd += [layer.name for layer, alpha in rows if alpha != usual_here]
            usual = usual_here
    if odd:
        yield finding("warning", "alpha_mixed", odd, alpha=number(usual))


def _is_spatial(layer: FileLayer) -> bool:
    return any(side > 1 for shape in layer.shapes.values() for side in shape[2:])


_FUSED = {"_attn_qkv": 3, "_linear1": 4}
"""FLUX's fused layers -> how many layers split_qkv trains in their place (q, k, v; and the mlp)."""


def _split_qkv(layers: Layers, alphas: Alphas, metadata: Mapping[str, str]) -> Iterator[Finding]:
    """sd-scripts' split_qkv writes fused layers of 3 or 4 times the rank, but leaves alpha as it was."""
    if layers.family != "flux":
        return
    rows = [(layer, layer.rank, alphas.get(layer.spelled)) for layer in layers.layers]
    plain = Counter((rank, alpha) for layer, rank, alpha in rows if not _parts_fused(layer))
    if not plain:
        return
    rank, alpha = plain.most_common(1)[0][0]
    found = [x for x, r, a in rows if rank and alpha and r == rank * _parts_fused(x) and a == alpha]
    if found and alpha:
        yield finding("error", "alpha_split_qkv", (layer.name for layer in found), rank=rank, alpha=number(alpha))


def _parts_fused(layer: FileLayer) -> int:
    return next((parts for ending, parts in _FUSED.items() if layer.name.endswith(ending)), 0)


# ---- metadata --------------------------------------------------------------------------------------------------------


def _metadata(layers: Layers, alphas: Alphas, metadata: Mapping[str, str]) -> Iterator[Finding]:
    """ss_network_dim and ss_network_alpha against the tensors; other trainers' codes (Dynamic, None) say nothing."""
    plain = [layer for layer in layers.layers if layer.algorithm in ("lora", "locon", "dora", "loha") and layer.rank]
    ranks = Counter(layer.rank for layer in plain)
    told = meaning(metadata.get("ss_network_dim", "None"))
    if ranks and isinstance(told, int | float) and told not in ranks:
        yield finding("warning", "dim_differs", told=number(float(told)), rank=ranks.most_common(1)[0][0])
    yield from _metadata_alpha([layer for layer in plain if layer.spelled in alphas], alphas, metadata)


def _metadata_alpha(plain: Sequence[FileLayer], alphas: Alphas, metadata: Mapping[str, str]) -> Iterator[Finding]:
    told = meaning(metadata.get("ss_network_alpha", "None"))
    if not plain or isinstance(told, bool) or not isinstance(told, int | float):
        return
    found = Counter(alphas[layer.spelled] for layer in plain)
    if told in found:
        return
    rounded = [layer for layer in plain if alphas[layer.spelled] == _stored(told, layer)]
    values = {"told": number(float(told)), "alpha": f"{found.most_common(1)[0][0]:.8g}"}
    if rounded:
        yield finding("note", "alpha_rounded", (layer.name for layer in rounded), **values)
    else:
        yield finding("warning", "alpha_differs", **values)


def _rounding(layer: FileLayer) -> float:
    """How much a number may grow by rounding to the format of the layer's alpha."""
    return {"F16": 1e-3, "BF16": 1e-2, "F8_E4M3": 0.1, "F8_E5M2": 0.2}.get(layer.infos["alpha"].dtype, 1e-6)


def _stored(value: float, layer: FileLayer) -> float:
    """A number as it comes back from the format of the layer's alpha."""
    dtype = layer.infos["alpha"].dtype
    return float(decode(encode(np.array([value], np.float32), dtype), dtype, (1,))[0]) if dtype in FLOATS else value


# ---- programs --------------------------------------------------------------------------------------------------------


def _programs(layers: Layers, alphas: Alphas, metadata: Mapping[str, str]) -> Iterator[Finding]:
    """Layers nobody loads, and programs that load a part: that is no LoRA of another kind, but a broken effect."""
    if lost := [layer.name for layer in nowhere(layers)]:
        yield finding("warning", "loads_nowhere", lost)
    readable = sum(layer.known and not layer.missing for layer in layers.layers) - len(lost)
    for host in host_reports(layers):
        if 0 < host.loaded < readable:
            yield Finding(
                "note",
                "host_partial",
                {"host": host.host, "loaded": host.loaded, "total": host.total},
                host.refused,
                host.total - host.loaded,
            )


Check = Callable[[Layers, Alphas, Mapping[str, str]], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (_keys, _shapes, _alphas, _split_qkv, _metadata, _programs)
