"""What a job would do, before it does it: for ``--dry-run``, for the page, and as the head of its log."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES, Language, text
from lora_core.io.headers import identify
from lora_core.io.kinds import FAMILY_NAMES
from lora_core.merge.blocks import parse
from lora_core.merge.methods import METHODS
from lora_core.merge.outputs import check_output
from lora_core.rate_range import check_range
from lora_core.settings.generate import GenerateSettings, GridSettings, PictureSettings, ProofSettings
from lora_core.settings.tools import (
    ApplySettings,
    CleanSettings,
    ConvertSettings,
    ExtractSettings,
    LoraSource,
    MergeSettings,
    PreviewSettings,
    RateRangeSettings,
    RegularisationSettings,
    ResizeSettings,
    Size,
    Target,
    ToolSettings,
)

BYTES = {"fp16": 2, "bf16": 2, "float": 4}


@dataclass(frozen=True)
class Said:
    """One sentence: a key of the texts and what fills it."""

    key: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def text(self, language: Language) -> str:
        values = {name: v(language) if callable(v) else v for name, v in self.values.items()}
        return text(self.key, language, **values)


@dataclass(frozen=True)
class Summary:
    """What will happen, and what stands in the way. ``facts`` are numbers: layers, rank_max, size (bytes), kept."""

    said: tuple[Said, ...]
    problems: tuple[UserError, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def lines(self) -> dict[Language, list[str]]:
        return {language: [one.text(language) for one in self.said] for language in LANGUAGES}


def describe(settings: ToolSettings, *, computed: bool = True) -> Summary:
    """The summary of a job. Never raises for what a person can put right.

    ``computed``: with rank, size and share kept of a merge, which takes as long as the merge; else from headers alone.
    """
    said: list[Said] = []
    problems: list[UserError] = []
    facts: dict[str, Any] = {}
    for step in (step for step in _STEPS[type(settings)] if computed or step is not _merge_size):
        try:
            for one in step(settings, facts):
                said.append(one)
        except UserError as error:
            if str(error) not in {str(other) for other in problems}:
                problems.append(error)
    return Summary(tuple(said), tuple(problems), facts)


# ---- the sentences ---------------------------------------------------------------------------------------------------


def _loras(settings: MergeSettings | ApplySettings, facts: dict[str, Any]) -> list[Said]:
    return [_lora(source) for source in settings.loras] or _raise("merge.no_lora")


def _lora(source: LoraSource) -> Said:
    if source.path is None:
        raise UserError("merge.no_lora")
    kind = identify(source.path)
    if kind.kind != "lora":
        raise UserError("lora.not_a_lora", path=source.path)
    values = {"name": source.path.name, "family": FAMILY_NAMES[kind.family], "ratio": f"{source.ratio:g}"}
    if source.block_weights.strip() and not parse(source.block_weights, kind.family).plain:
        return Said("describe.lora_blocks", values)
    return Said("describe.lora", values)


def _one_lora(settings: ResizeSettings | ConvertSettings | CleanSettings, facts: dict[str, Any]) -> list[Said]:
    if settings.lora is None:
        raise UserError("merge.no_lora")
    kind = identify(settings.lora)
    if kind.kind != "lora":
        raise UserError("lora.not_a_lora", path=settings.lora)
    return [Said("describe.one_lora", {"name": settings.lora.name, "family": FAMILY_NAMES[kind.family]})]


def _method(settings: MergeSettings, facts: dict[str, Any]) -> list[Said]:
    method = METHODS[settings.method]
    return [Said("describe.method", {"title": lambda language: text(f"{method.key}.title", language)})]


def _merge_size(settings: MergeSettings, facts: dict[str, Any]) -> list[Said]:
    """Rank, share kept and size of a merge, from the singular values of the real thing where they are quick to have."""
    from lora_core.merge.combine import check_size, is_quick, load_sources, spectrum

    check_size(settings)
    if not is_quick(settings, load_sources(settings.loras)):
        return _wanted_rank(settings, facts)
    found = spectrum(settings)
    kept = found.kept(settings)
    facts |= {"layers": len([rank for rank in kept.ranks.values() if rank]), "kept": kept.share}
    facts |= {"rank_max": max(kept.ranks.values(), default=0), "size": lora_size(kept.ranks, found.shapes, settings)}
    if not facts["rank_max"]:
        raise UserError("merge.nothing_left")
    return [
        Said("describe.rank", {"rank": facts["rank_max"], "layers": facts["layers"], "kept": f"{kept.share:.2%}"}),
        _size(facts["size"]),
    ]


def lora_size(ranks: Mapping[str, int], shapes: Mapping[str, Sequence[int]], settings: Target) -> int:
    """Bytes of a LoRA of these ranks, but for its header."""
    numbers = 0
    for layer, rank in ranks.items():
        out, *inner = shapes[layer]
        columns = 1
        for side in inner:
            columns *= side
        numbers += rank * (out + columns) + 1
    return numbers * BYTES.get(settings.precision, 2)


def _size(count: int) -> Said:
    return Said("describe.size", {"size": f"{count / 1e6:.1f} MB"})


def _wanted_rank(settings: Size, facts: dict[str, Any]) -> list[Said]:
    said = []
    if settings.rank is not None:
        said.append(Said("describe.rank_limit", {"rank": settings.rank}))
    if settings.energy is not None:
        said.append(Said("describe.energy", {"share": f"{settings.energy:.4g}"}))
    return said


def _dynamic(settings: ResizeSettings, facts: dict[str, Any]) -> list[Said]:
    from lora_core.merge.resize import check_parameters

    check_parameters(settings)
    if settings.dynamic_method is None:
        return []
    return [Said("describe.dynamic", {"method": settings.dynamic_method, "value": f"{settings.dynamic_param:g}"})]


def _checkpoint(settings: ApplySettings, facts: dict[str, Any]) -> list[Said]:
    if settings.checkpoint is None:
        raise UserError("apply.no_checkpoint")
    kind = identify(settings.checkpoint)
    facts["size"] = kind.size
    key = "describe.taken_out" if settings.reverse else "describe.baked"
    return [Said(key, {"name": settings.checkpoint.name, "family": FAMILY_NAMES[kind.family]}), _size(kind.size)]


def _two_checkpoints(settings: ExtractSettings, facts: dict[str, Any]) -> list[Said]:
    from lora_core.merge.extract import Pair

    Pair.of(settings)
    assert settings.base
    assert settings.tuned
    return [Said("describe.difference", {"tuned": settings.tuned.name, "base": settings.base.name})]


def _conversion(settings: ConvertSettings, facts: dict[str, Any]) -> list[Said]:
    said = []
    if settings.names != "same":
        said.append(Said("describe.names", {"names": settings.names}))
    if settings.precision != "same":
        said.append(Said("describe.precision", {"precision": settings.precision}))
    if settings.strip_metadata:
        said.append(Said("describe.stripped"))
    if settings.metadata:
        said.append(Said("describe.entries", {"keys": ", ".join(settings.metadata)[:200]}))
    return said


def _cleaning(settings: CleanSettings, facts: dict[str, Any]) -> list[Said]:
    said = [Said("describe.junk")]
    if settings.zero_layers:
        said.append(Said("describe.zero_layers"))
    if settings.remove_blocks.strip():
        said.append(Said("describe.remove_blocks", {"blocks": settings.remove_blocks.strip()[:200]}))
    return said


def _output(settings: Target, facts: dict[str, Any]) -> list[Said]:
    folder = isinstance(settings, ApplySettings) and settings.checkpoint is not None and settings.checkpoint.is_dir()
    path = check_output(settings, sources_of(settings), facts.get("size", 0), folder=folder)
    said = [Said("describe.output", {"path": path})]
    if not isinstance(settings, ApplySettings):
        said.append(Said("describe.prompt", {"prompt": f"<lora:{path.stem}:1>"}))
    return said


def sources_of(settings: Target) -> list[Path]:
    """Every file a job reads."""
    loras = [source.path for source in getattr(settings, "loras", [])]
    single = [getattr(settings, name, None) for name in ("lora", "checkpoint", "base", "tuned")]
    return [path for path in (*loras, *single) if path is not None]


def _pictures(settings: PreviewSettings, facts: dict[str, Any]) -> list[Said]:
    return [Said("describe.pictures", {"count": len(settings.prompts), "base": settings.base})]


def _regularisation(settings: RegularisationSettings, facts: dict[str, Any]) -> list[Said]:
    from lora_core.data.regularisation import class_folder, number_of_pictures, still_to_draw, training_sizes

    folder, sizes = class_folder(settings), training_sizes(settings)
    count = number_of_pictures(settings, sizes)
    left = sum(1 for _ in still_to_draw(settings, sizes, count))
    facts |= {"count": count, "left": left}
    said = [Said("describe.regularisation", {"count": count, "prompt": settings.prompt, "path": folder})]
    if left < count:
        said.append(Said("describe.regularisation_left", {"there": count - left, "left": left}))
    if sizes:
        shown = ", ".join(f"{width} × {height}" for width, height in sorted(set(sizes))[:8])
        said.append(Said("describe.regularisation_sizes", {"pictures": len(sizes), "sizes": shown}))
    return said


def _generated(settings: GenerateSettings, facts: dict[str, Any]) -> list[Said]:
    from lora_core.generate.request import check_loras, model_of, shots

    wanted = shots(settings)
    loras = [lora for shot in wanted for lora in shot.loras]
    check_loras(loras, model_of(settings))
    said = [Said("describe.pictures_each", {"count": len(wanted), "base": base_name(settings)})]
    names = ", ".join(dict.fromkeys(lora.path.stem for lora in loras))
    return [*said, *([Said("describe.picture_loras", {"names": names[:200]})] if names else [])]


def _grid(settings: GridSettings, facts: dict[str, Any]) -> list[Said]:
    from lora_core.generate.axes import pages
    from lora_core.generate.request import check_loras, model_of

    wanted = pages(settings)
    check_loras(
        (lora for page in wanted for row in page.shots for one in row for lora in one.loras), model_of(settings)
    )
    first = wanted[0]
    values = {"rows": len(first.rows.values), "columns": len(first.columns.values), "pages": len(wanted)}
    return [Said("describe.grid", values | {"base": base_name(settings)})]


def _rate_range(settings: RateRangeSettings, facts: dict[str, Any]) -> list[Said]:
    check_range(settings)
    values = {"lowest": f"{settings.lowest:g}", "highest": f"{settings.highest:g}", "steps": settings.steps}
    name, optimizer = settings.training.save.output_name, settings.training.optimizer.name
    return [Said("describe.rate_range", values | {"name": name, "optimizer": optimizer})]


def _proof(settings: ProofSettings, facts: dict[str, Any]) -> list[Said]:
    from lora_core.generate.request import model_of, require_lora

    if settings.lora is None:
        raise UserError("merge.no_lora")
    require_lora(settings.lora, model_of(settings))
    count = max(1, sum(bool(prompt.strip()) for prompt in settings.prompts)) * settings.count
    return [Said("describe.proof", {"name": settings.lora.name, "base": base_name(settings), "count": count})]


def base_name(settings: PictureSettings) -> str:
    return Path(settings.base).name


def _raise(key: str) -> list[Said]:
    raise UserError(key)


Step = Callable[[Any, dict[str, Any]], list[Said]]
_STEPS: Mapping[type, tuple[Step, ...]] = {
    MergeSettings: (_loras, _method, _merge_size, _output),
    ApplySettings: (_checkpoint, _loras, _output),
    ExtractSettings: (_two_checkpoints, _wanted_rank, _output),
    ResizeSettings: (_one_lora, _dynamic, _wanted_rank, _output),
    ConvertSettings: (_one_lora, _conversion, _output),
    CleanSettings: (_one_lora, _cleaning, _output),
    PreviewSettings: (_pictures,),
    RegularisationSettings: (_regularisation,),
    GenerateSettings: (_generated,),
    GridSettings: (_grid,),
    RateRangeSettings: (_rate_range,),
    ProofSettings: (_proof,),
}
