"""The job that the Merge tab describes: values of the page as settings of lora_core."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.folder_view import is_allowed
from app.merge.form import FEWEST, Values, is_merge, rows_filled, size_way
from app.merge.output import output
from app.merge.values import FormError, needed, number, optional_whole, path_of, whole
from lora_core.families.source import BUILT_IN
from lora_core.merge.methods import METHODS
from lora_core.settings.tools import (
    ApplySettings,
    ExtractSettings,
    LoraSource,
    MergeSettings,
    PreviewSettings,
    ResizeSettings,
    ToolSettings,
)

PICTURES = 4
LARGEST_RANK = 4096
Roots = Sequence[Path]


def settings_of(values: Values, roots: Roots = (), *, overwrite: bool = False) -> ToolSettings:
    """The job. Raises FormError (UserError for a file name) for the first thing that is missing or can't be used."""
    make = {"bake": _apply, "extract": _extract, "resize": _resize}.get(values["what"], _merge)
    return make(values, roots, {"overwrite": overwrite, "no_metadata": bool(values["no_metadata"])})


def _merge(values: Values, roots: Roots, target: dict[str, Any]) -> MergeSettings:
    loras = sources(values, roots)
    target |= {"output": output(values, roots), "precision": values["precision"]}
    return _made(MergeSettings, loras=loras, **_method(values), **_size(values), **target, **_base(values, roots))


def _apply(values: Values, roots: Roots, target: dict[str, Any]) -> ApplySettings:
    checkpoint, loras = needed(values, "checkpoint", roots), sources(values, roots)
    target |= {"output": output(values, roots), "precision": values["checkpoint_precision"]}
    return _made(ApplySettings, checkpoint=checkpoint, loras=loras, reverse=bool(values["reverse"]), **target)


def _extract(values: Values, roots: Roots, target: dict[str, Any]) -> ExtractSettings:
    files = {"base": needed(values, "extract_base", roots), "tuned": needed(values, "extract_tuned", roots)}
    parts = {"conv": bool(values["conv"]), "text_encoder": bool(values["text_encoder"])}
    parts["min_diff"] = number(values, "min_diff", 0, 1e6)
    target |= {"output": output(values, roots), "precision": values["precision"]}
    return _made(ExtractSettings, **files, **parts, **_size(values), **target)


def _resize(values: Values, roots: Roots, target: dict[str, Any]) -> ResizeSettings:
    lora = needed(values, "path1", roots)
    target |= {"output": output(values, roots), "precision": values["precision"]}
    return _made(ResizeSettings, lora=lora, **_size(values), **target)


def sources(values: Values, roots: Roots = ()) -> list[LoraSource]:
    """The LoRA files with their ratios; empty rows are passed over. FormError when too few are named."""
    what, rows = values["what"], rows_filled(values)
    if len(rows) < (1 if what == "add" and _is_changed(values, rows) else FEWEST[what]):
        raise FormError(f"merge_tab.needs.{what}", missing=True)
    return [
        LoraSource(
            path=path_of(values, f"path{row}", roots),
            ratio=number(values, f"ratio{row}", -100, 100),
            block_weights=str(values[f"weights{row}"]).strip(),
        )
        for row in rows
    ]


def _is_changed(values: Values, rows: Sequence[int]) -> bool:
    """Whether one LoRA alone would become another: in strength, or by layer weights."""
    return any(values[f"ratio{row}"] != 1 or values[f"weights{row}"].strip() for row in rows)


def _method(values: Values) -> dict[str, Any]:
    chosen: dict[str, Any] = {"method": values["method"]}
    parameters = METHODS[values["method"]].parameters
    if "density" in parameters:
        chosen["density"] = number(values, "density", 0.001, 1)
    if "seed" in parameters:
        chosen["seed"] = whole(values, "dare_seed", 0, 2**32 - 1)
    return chosen


def _size(values: Values) -> dict[str, Any]:
    """Rank, share to keep or dynamic choice, as the tab has it."""
    way = size_way(values)
    if not way:
        return {}
    conv = {"conv_rank": optional_whole(values, "conv_rank", 1, LARGEST_RANK)}
    if way == "rank":
        return {**conv, "rank": whole(values, "rank", 1, LARGEST_RANK)}
    capped = {**conv, "rank": optional_whole(values, "cap", 1, LARGEST_RANK)}
    if way == "energy":
        return {**capped, "energy": number(values, "energy", 1, 100) / 100, "same_rank": bool(values["same_rank"])}
    low, high = (1.0, 1e6) if way == "sv_ratio" else (0.01, 1.0)
    return {**capped, "dynamic_method": way, "dynamic_param": number(values, "dynamic_param", low, high)}


def _base(values: Values, roots: Roots) -> dict[str, Path]:
    base = path_of(values, "base", roots)
    return {"base": base} if base else {}


def preview_settings(values: Values, roots: Roots = (), test: Path | None = None) -> PreviewSettings:
    """Up to four pictures with what the tab describes, or with a file made before (``test``)."""
    base = path_of(values, "preview_base", roots)
    if test and not is_allowed(test, roots):
        raise FormError("browse.not_allowed")
    prompts = [line.strip() for line in str(values["preview_prompts"]).splitlines() if line.strip()]
    if not prompts:
        raise FormError("merge_tab.needs.prompts", missing=True)
    sides = {side: optional_whole(values, f"preview_{side}", 16, 4096) for side in ("width", "height")}
    return _made(
        PreviewSettings,
        merge=MergeSettings(loras=[LoraSource(path=test)]) if test else previewed(values, roots),
        base=str(base) if base else BUILT_IN,
        prompts=prompts[:PICTURES],
        steps=whole(values, "preview_steps", 1, 150),
        guidance=number(values, "preview_guidance", 0, 50),
        seed=whole(values, "preview_seed", 0, 2**32 - 1),
        **{side: length for side, length in sides.items() if length},
    )


def previewed(values: Values, roots: Roots = ()) -> MergeSettings:
    """A merge with the effect of the job: the LoRAs to bake in side by side, the LoRA to resize in its new rank."""
    if is_merge(values):
        return _merge(values, roots, {})
    if values["what"] == "bake":
        sign = -1 if values["reverse"] else 1
        loras = [lora.model_copy(update={"ratio": sign * lora.ratio}) for lora in sources(values, roots)]
        return MergeSettings(loras=loras, method="concat")
    size = {key: value for key, value in _size(values).items() if not key.startswith("dynamic")}
    return _made(MergeSettings, loras=[LoraSource(path=needed(values, "path1", roots))], **size)


def _made(model: type, **fields: Any) -> Any:
    """The settings object. Its own limits are wider than those of the fields, so a refusal names its field plainly."""
    try:
        return model(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FormError("merge_tab.bad_field", field=where, reason=first["msg"]) from error
