"""Reports as text for a terminal, and the commands ``inspect`` and ``compare``."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from lora_core.errors import UserError
from lora_core.i18n import Language, text
from lora_core.inspect.compare import compare
from lora_core.inspect.recipe import number
from lora_core.inspect.report import (
    GROUPS,
    Comparison,
    Finding,
    HeaderReport,
    LoraReport,
    PartReport,
    Thumbnail,
    WeightReport,
    part_name,
    to_json,
)
from lora_core.inspect.tables import cut, table
from lora_core.inspect.weights import inspect_file
from lora_core.io.kinds import FAMILY_NAMES

NAMES_SHOWN = 5
TAGS_SHOWN = 30
LAYERS_SHOWN = 10
Rows = list[tuple[str, str]]


# ---- commands --------------------------------------------------------------------------------------------------------


def inspect_command(
    paths: Sequence[Path], as_json: bool, weights: bool, language: Language = "en", out: TextIO | None = None
) -> int:
    """Prints what files are. 0; 2 if one could not be read (the others are told all the same)."""
    out = out or sys.stdout
    found: list[Any] = []
    failed = 0
    for path in paths:
        try:
            report = inspect_file(path, weights)
        except UserError as error:
            failed = 2
            found.append({"path": str(path), "error": error.message("en")})
            if not as_json:
                print(error.message(language), file=sys.stderr)
            continue
        found.append(to_json(report))
        if not as_json:
            print("\n".join(report_lines(report, language)), file=out, end="\n\n" if len(paths) > 1 else "\n")
    if as_json:
        _print_json(found[0] if len(paths) == 1 else found, out)
    return failed


def compare_command(a: Path, b: Path, as_json: bool, language: Language = "en", out: TextIO | None = None) -> int:
    """Prints how two LoRAs differ. Raises UserError for files that can't be compared."""
    found = compare(a, b)
    out = out or sys.stdout
    if as_json:
        _print_json(to_json(found), out)
    else:
        print("\n".join(comparison_lines(found, language)), file=out)
    return 0


def _print_json(value: Any, out: TextIO) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False), file=out)


# ---- one file --------------------------------------------------------------------------------------------------------


def report_lines(report: LoraReport, language: Language = "en") -> list[str]:
    """A whole report."""
    header, weights = report.header, report.weights
    if header.kind != "lora":
        return other_lines(header, language)
    return [
        *header_lines(header, language),
        *(weight_lines(weights, language) if weights else _blocks_of_header(header, language)),
        *finding_lines(weights.findings if weights else header.findings, language),
        *recipe_lines(header, language),
        *dataset_lines(header, language),
    ]


def other_lines(header: HeaderReport, language: Language) -> list[str]:
    """A checkpoint, a VAE or the like: short and honest."""
    kind = text(f"inspect.kind.{header.kind}", language)
    parts = [
        name
        for name, has in (("VAE", header.has_vae), (_say("text_encoder", language), header.has_text_encoder))
        if has
    ]
    rows = [
        ("family", header.family_name),
        ("precision", header.precision),
        ("size", size_text(header.size)),
        ("parameters", _count(header.parameters or None).strip("–")),
        ("prediction", header.prediction_type if header.kind in ("checkpoint", "unet") else ""),
        ("contents", ", ".join(parts) if header.kind == "checkpoint" else ""),
        ("title", header.title),
        ("author", header.author),
    ]
    said = text("inspect.text.no_lora", language, kind=kind, family=header.family_name)
    return [str(header.path), said, *_facts(rows, language)]


def header_lines(header: HeaderReport, language: Language) -> list[str]:
    """What the file is."""
    readable = header.container == "safetensors"
    rows = [
        ("family", header.family_name),
        ("algorithm", _several(header.algorithms, language)),
        ("parts", ", ".join(_part(part, language) for part in header.parts)),
        ("rank", _several(header.ranks, language)),
        ("alpha", _several(header.alphas, language) or (_say("no_alpha", language) if readable else "")),
        ("precision", header.precision),
        ("size", size_text(header.size)),
        ("parameters", _count(header.parameters)),
        ("naming", header.naming),
        ("base", " / ".join(filter(None, (header.base.name, header.base.short_hash, header.base.sha256[:10])))),
        ("title", header.title),
        ("author", header.author),
        ("triggers", header.trigger_words),
        ("program", header.program),
        ("thumbnail", _thumbnail(header.thumbnail, language)),
        ("settings", text("inspect.value.yes" if header.has_settings else "inspect.value.no", language)),
        ("merged_from", ", ".join(header.merged_from)),
    ]
    return [str(header.path), *_facts(rows, language)]


def _thumbnail(found: Thumbnail | None, language: Language) -> str:
    return "" if found is None else str(found.path or _say("thumbnail_inside", language))


def _part(part: PartReport, language: Language) -> str:
    values = {"part": part.name(language), "layers": part.layers}
    if part.targets:
        return text("inspect.text.part", language, **values, targets=part.targets)
    return text("inspect.text.part_plain", language, **values)


def _several(counts: Mapping[Any, int], language: Language) -> str:
    """The one value, or each with how many layers have it."""
    words = {number(value) if isinstance(value, float) else str(value): count for value, count in counts.items()}
    if len(words) <= 1:
        return next(iter(words), "")
    shown = list(words.items())[:8]
    more = ", …" if len(words) > len(shown) else ""
    return ", ".join(text("inspect.text.several", language, value=v, count=c) for v, c in shown) + more


def finding_lines(findings: Sequence[Finding], language: Language) -> list[str]:
    """What should be known, gravest first."""
    lines = _heading("findings", language)
    if not findings:
        return [*lines, "  " + _say("no_findings", language)]
    for finding in findings:
        severity = text(f"inspect.text.severity.{finding.severity}", language)
        lines.append(f"  [{severity}] {finding.message(language)}")
        more = ", …" if finding.count > NAMES_SHOWN else ""
        if finding.layers:
            lines.append("      " + ", ".join(finding.layers[:NAMES_SHOWN]) + more)
    return lines


def recipe_lines(header: HeaderReport, language: Language) -> list[str]:
    """Every entry of the metadata, by group."""
    lines = _heading("recipe", language) if header.recipe else []
    for group in GROUPS:
        rows = [(entry.label(language), entry.shown(language)) for entry in header.recipe if entry.group == group]
        if rows:
            lines += [f"  {text(f'inspect.group.{group}', language)}", *_indented(table(rows, widest=80), 4)]
    return lines


def dataset_lines(header: HeaderReport, language: Language) -> list[str]:
    """Folders and the most frequent tags."""
    lines: list[str] = []
    if header.datasets:
        names = ("folder", "images", "repeats", "regularisation")
        yes, no = (text(f"inspect.value.{word}", language) for word in ("yes", "no"))
        rows = [
            (row.name, _count(row.images), _count(row.repeats), yes if row.regularisation else no)
            for row in header.datasets
        ]
        lines += _table("datasets", names, rows, language)
    if header.tags:
        tags = ", ".join(f"{tag.name} ({tag.count})" for tag in header.tags[:TAGS_SHOWN])
        lines += [*_heading("tags", language), "  " + tags + (", …" if len(header.tags) > TAGS_SHOWN else "")]
    return lines


def _blocks_of_header(header: HeaderReport, language: Language) -> list[str]:
    rows = [
        (row.block, str(row.layers), ", ".join(map(str, row.ranks)), ", ".join(map(number, row.alphas)))
        for row in header.blocks
    ]
    return _table("blocks", ("block", "layers", "rank", "alpha"), rows, language)


def weight_lines(report: WeightReport, language: Language) -> list[str]:
    """What the weights show."""
    names = ("block", "layers", "norm", "share", "strength", "effective_rank")
    rows = [
        (
            row.block,
            str(row.layers),
            f"{row.norm:.4g}",
            _percent(row.share),
            f"{row.strength:.3g}",
            f"{row.effective_rank:.1f}",
        )
        for row in report.blocks
    ]
    lines = _table("blocks", names, rows, language)
    shares = [f"{part_name(part, report.family, language)} {_percent(share)}" for part, share in report.shares.items()]
    lines += ["  " + ", ".join(shares)] if shares else []
    lines += _energy_lines(report, language)
    lines += _strongest(report, language)
    lines += [*_heading("hosts", language), *("  " + host.message(language) for host in report.hosts)]
    return [*lines, *_heading("hash", language), "  " + _hash_text(report, language)]


def _energy_lines(report: WeightReport, language: Language) -> list[str]:
    if not report.energy:
        return []
    points = (
        text("inspect.text.energy_row", language, rank=point.rank, share=_percent(point.share))
        for point in report.energy
    )
    kept = text("inspect.text.keep", language, rank95=report.rank_for_95, rank99=report.rank_for_99)
    return [*_heading("energy", language), "  " + ", ".join(points), "  " + kept]


def _strongest(report: WeightReport, language: Language) -> list[str]:
    measured = sorted((m for m in report.modules if m.norm), key=lambda m: -(m.relative or 0))[:LAYERS_SHOWN]
    rows = [(m.name, f"{m.norm:.4g}", f"{m.relative or 0:.2f} ×", f"{m.effective_rank or 0:.1f}") for m in measured]
    return _table("strongest", ("layer", "norm", "relative", "effective_rank"), rows, language, widest=90)


def _hash_text(report: WeightReport, language: Language) -> str:
    if not report.stored_hash:
        said = _say("hash_none", language)
    elif any(finding.key == "hash_differs" for finding in report.findings):
        said = text("inspect.text.hash_differs", language, stored=report.stored_hash)
    else:
        said = _say("hash_same", language)
    return f"{report.computed_hash} – {said}"


# ---- two files -------------------------------------------------------------------------------------------------------


def comparison_lines(found: Comparison, language: Language = "en") -> list[str]:
    """Two LoRAs side by side."""
    lines = [f"A  {found.a.path}", f"B  {found.b.path}"]
    if found.same_hash:
        lines.append(_say("same_weights", language))
    rows = [
        ("family", FAMILY_NAMES[found.a.family]),
        ("cosine", _cosine(found.cosine)),
        ("norm", f"A {found.norm_a:.4g}, B {found.norm_b:.4g}"),
        ("distance", f"{found.distance:.4g}"),
        ("common", str(found.common)),
    ]
    lines += _facts(rows, language)
    if not found.common:
        lines.append("  " + _say("none_in_common", language))
    by_block = [
        (row.block, str(row.layers), _cosine(row.cosine), f"{row.norm_a:.4g}", f"{row.norm_b:.4g}")
        for row in found.blocks
    ]
    head = (*(_say(name, language) for name in ("block", "layers", "cosine")), "A", "B")
    lines += [*_heading("blocks", language), *_indented(table([head, *by_block], right=(1, 2, 3, 4)))]
    for name, layers in (("A", found.only_a), ("B", found.only_b)):
        if layers:
            heading = text("inspect.text.only", language, name=name)
            lines += ["", f"{heading} ({len(layers)})", *_named(layers)]
    if found.unmeasured:
        lines += [*_heading("unmeasured", language), *_named(found.unmeasured)]
    return [*lines, *_difference_lines(found, language)]


def _difference_lines(found: Comparison, language: Language) -> list[str]:
    lines = _heading("differences", language)
    if not found.differences:
        return [*lines, "  " + _say("no_differences", language)]
    rows = [
        (d.label(language), *(entry.shown(language) if entry else "–" for entry in (d.a, d.b)))
        for d in found.differences
    ]
    return [*lines, *_indented(table([(_say("setting", language), "A", "B"), *rows], widest=50))]


# ---- pieces ----------------------------------------------------------------------------------------------------------


def _say(key: str, language: Language) -> str:
    return text(f"inspect.text.{key}", language)


def _heading(key: str, language: Language) -> list[str]:
    return ["", _say(key, language)]


def _indented(lines: Iterable[str], columns: int = 2) -> Iterator[str]:
    return (" " * columns + line for line in lines)


def _facts(rows: Rows | Sequence[tuple[str, str]], language: Language) -> list[str]:
    """Labels and values, without those that have none."""
    return [*_indented(table([(_say(key, language), value) for key, value in rows if value], widest=100))]


def _table(
    title: str, names: Sequence[str], rows: Sequence[Sequence[str]], language: Language, widest: int = 60
) -> list[str]:
    """A table with a title and a head; numbers, which are all but the first column, to the right."""
    head = tuple(_say(name, language) for name in names)
    lines = table([head, *rows], right=range(1, len(names)), widest=widest)
    return [*_heading(title, language), *_indented(lines)] if rows else []


def _named(layers: Sequence[str]) -> list[str]:
    more = ["  …"] if len(layers) > LAYERS_SHOWN else []
    return [*("  " + cut(name, 110) for name in layers[:LAYERS_SHOWN]), *more]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _cosine(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def size_text(size: int) -> str:
    """Bytes as 37.9 MB (1 MB = 1,000,000 bytes)."""
    for unit, unit_size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= unit_size:
            return f"{size / unit_size:.1f} {unit}"
    return f"{size} bytes"
