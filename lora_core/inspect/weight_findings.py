"""What is wrong with a LoRA's numbers."""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from lora_core.inspect.header_findings import finding
from lora_core.inspect.measure import Measured
from lora_core.inspect.recipe import number as words_of_number
from lora_core.inspect.report import Finding

FAR = 6.0
"""Robust standard deviations (of the logarithm) beyond which a layer's strength is an outlier."""
LEAST_SPREAD = 0.2
"""Standard deviation of log strength that layers have at least: equal layers are no reason to call one odd."""
LEAST_FACTOR = 8.0
"""Times the median below which nothing is called too strong: layers of good LoRAs differ by 3 to 5."""
DEAD = 0.01
"""Share of the median block's strength below which a trained block counts as dead."""
STRONG_TEXT = 5.0
"""Times the U-Net's strength from which the text encoder's is worth a warning."""
OVERSIZED = 4
"""Rank over needed rank from which it is worth a word."""


def weight_findings(
    measured: Sequence[Measured],
    rank: int | None,
    needed: int | None,
    *,
    stored_hash: str = "",
    computed_hash: str = "",
) -> Iterator[Finding]:
    """All findings. ``rank`` is the file's, ``needed`` the one that keeps 99%."""
    for state, severity in (("not_finite", "error"), ("broken", "error")):
        if rows := [row.name for row in measured if row.state == state]:
            yield finding(severity, state, rows)  # type: ignore[arg-type]
    yield from _unmeasured(measured)
    yield from _zero(measured)
    yield from _over_norm(measured)
    yield from _dead_blocks(measured)
    yield from _text_encoder(measured)
    if rank and needed and rank >= 8 and needed * OVERSIZED <= rank:
        yield finding("note", "rank_oversized", rank=rank, keep=needed, percent=round(100 * needed / rank))
    if stored_hash and stored_hash.lower() not in (computed_hash, f"0x{computed_hash}"):
        yield finding("warning", "hash_differs")


def _unmeasured(measured: Sequence[Measured]) -> Iterator[Finding]:
    if rows := [row for row in measured if row.state == "needs_base"]:
        algorithms = ", ".join(sorted({row.layer.algorithm for row in rows}))
        yield finding("note", "needs_base", (row.name for row in rows), algorithms=algorithms)
    if dora := [row.name for row in measured if row.state == "measured" and row.layer.algorithm == "dora"]:
        yield finding("note", "dora", dora)


def _zero(measured: Sequence[Measured]) -> Iterator[Finding]:
    rows = [row for row in measured if row.state == "measured"]
    zero = [row for row in rows if row.norm == 0]
    if zero and len(zero) == len(rows):
        yield finding("error", "nothing_trained", (row.name for row in zero))
        return
    unused = _unused_text_layers(rows)
    if normal := [row.name for row in zero if id(row) in unused]:
        yield finding("note", "unused_text_layers", normal)
    if odd := [row.name for row in zero if id(row) not in unused]:
        yield finding("warning", "zero_layers", odd)


def _unused_text_layers(rows: Sequence[Measured]) -> set[int]:
    """Zero layers at the very end of a text encoder, by id.

    With clip skip, and in SDXL always, nothing uses the last layers' output, so they get no gradient: no defect.
    """
    found: set[int] = set()
    for part in ("te1", "te2", "te3"):
        by_number: dict[int, list[Measured]] = {}
        for row in rows:
            if row.layer.part == part and (number := _number(row.name)) is not None:
                by_number.setdefault(number, []).append(row)
        for number in sorted(by_number, reverse=True):
            if any(row.norm for row in by_number[number]):
                break
            found |= {id(row) for row in by_number[number]}
    return found


def _number(name: str) -> int | None:
    layer = re.search(r"_(?:layers|block)_(\d+)_", name)
    return int(layer[1]) if layer else None


def _over_norm(measured: Sequence[Measured]) -> Iterator[Finding]:
    """Outliers of log strength by median and median absolute deviation, within a part and kind of layer."""
    groups: dict[tuple[str, bool], list[Measured]] = {}
    for row in measured:
        if row.norm and row.layer.algorithm != "norm":
            groups.setdefault((row.layer.part, row.spatial), []).append(row)
    odd = [pair for rows in groups.values() if len(rows) >= 6 for pair in _outliers(rows)]
    if odd:
        yield finding(
            "warning", "over_norm", (row.name for row, _ in odd), factor=words_of_number(round(max(f for _, f in odd)))
        )


def _outliers(rows: Sequence[Measured]) -> Iterator[tuple[Measured, float]]:
    logs = np.log([row.norm / np.sqrt(row.elements) for row in rows])
    middle = np.median(logs)
    spread = max(1.4826 * float(np.median(np.abs(logs - middle))), LEAST_SPREAD)
    for row, value in zip(rows, logs, strict=True):
        if value - middle > max(FAR * spread, np.log(LEAST_FACTOR)):
            yield row, float(np.exp(value - middle))


def _dead_blocks(measured: Sequence[Measured]) -> Iterator[Finding]:
    """Blocks of the denoiser that are hardly changed; those of nothing but zeros are told as zero layers."""
    squares: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for row in measured:
        if row.state == "measured" and row.layer.part == "unet":
            squares[row.layer.block] = squares.get(row.layer.block, 0.0) + row.norm**2
            sizes[row.layer.block] = sizes.get(row.layer.block, 0) + row.elements
    strengths = {block: np.sqrt(square / sizes[block]) for block, square in squares.items() if square and sizes[block]}
    if len(strengths) >= 4:
        limit = DEAD * float(np.median(list(strengths.values())))
        if dead := [block for block, value in strengths.items() if value < limit]:
            yield finding("warning", "dead_blocks", dead)


def _text_encoder(measured: Sequence[Measured]) -> Iterator[Finding]:
    text, denoiser = (
        _strength([r for r in measured if (r.layer.part != "unet") == is_text]) for is_text in (True, False)
    )
    if denoiser and text > STRONG_TEXT * denoiser:
        yield finding("warning", "text_encoder_strong", factor=words_of_number(round(text / denoiser, 1)))


def _strength(rows: Sequence[Measured]) -> float:
    """Root mean square change of a weight of these layers."""
    elements = sum(row.elements for row in rows if row.state == "measured")
    return float(np.sqrt(sum(row.norm**2 for row in rows) / elements)) if elements else 0.0
