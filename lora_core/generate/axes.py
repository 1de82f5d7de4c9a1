"""The tables of a grid: what each cell is drawn with, and what stands beside rows and columns. Torch-free."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from lora_core.errors import UserError
from lora_core.generate.epochs import labels, saved_files
from lora_core.generate.request import Shot, prompts, seeds, shot
from lora_core.generate.tags import TAG, tag, tagged, worn
from lora_core.settings.base import clean_path
from lora_core.settings.generate import Axis, AxisKind, GridSettings, LoraUse, SamplerName

TITLES: Mapping[AxisKind, str] = {
    "lora": "LoRA",
    "strength": "Strength",
    "layers": "Layer weights",
    "replace": "Prompt",
    "guidance": "CFG scale",
    "sampler": "Sampler",
    "seed": "Seed",
    "steps": "Steps",
}
"""What stands in the picture, which is in English for everyone."""
NUMBERS: Mapping[str, tuple[type, float, float]] = {
    "strength": (float, -100, 100),
    "guidance": (float, 0, 100),
    "seed": (int, 0, 2**32 - 1),
    "steps": (int, 1, 1000),
}
"""Axis -> kind of number and its limits."""
MOST_CELLS = 10_000


@dataclass(frozen=True)
class Side:
    """An axis with its values understood."""

    kind: AxisKind
    values: tuple[Any, ...]
    labels: tuple[str, ...]

    @property
    def title(self) -> str:
        return TITLES[self.kind]


@dataclass(frozen=True)
class Page:
    """One table: a prompt and a seed."""

    prompt: str
    seed: int
    rows: Side
    columns: Side
    shots: tuple[tuple[Shot, ...], ...]
    """Row by row."""


def pages(settings: GridSettings) -> list[Page]:
    """The tables of a job. Raises UserError for what can't be drawn: no epochs, a value that is none, no LoRA."""
    rows, columns = side(rows_of(settings), settings), side(settings.columns, settings)
    if rows.kind == columns.kind:
        raise UserError("grid.same_axis", axis=rows.title)
    kinds = {rows.kind, columns.kind}
    wanted = seeds(settings)[:1] if "seed" in kinds else seeds(settings)
    texts = prompts(settings)
    if len(texts) * len(wanted) * len(rows.values) * len(columns.values) > MOST_CELLS:
        raise UserError("grid.too_many", most=MOST_CELLS)
    return [_page(prompt, seed, rows, columns, settings) for prompt in texts for seed in wanted]


def rows_of(settings: GridSettings) -> Axis:
    """The rows asked for; else the saved epochs of the run."""
    if settings.rows is not None:
        return settings.rows
    if settings.run is None:
        raise UserError("grid.no_rows")
    return Axis(kind="lora", values=[str(path) for path in saved_files(settings.run, settings.run_name.strip())])


def _page(prompt: str, seed: int, rows: Side, columns: Side, settings: GridSettings) -> Page:
    table = tuple(
        tuple(_cell(prompt, seed, {rows.kind: row, columns.kind: column}, settings) for column in columns.values)
        for row in rows.values
    )
    return Page(prompt, seed, rows, columns, table)


# ---- one cell --------------------------------------------------------------------------------------------------------


def _cell(prompt: str, seed: int, values: Mapping[str, Any], settings: GridSettings) -> Shot:
    """The picture of a cell, which is the very one that ``generate`` draws for its prompt."""
    if "replace" in values:
        before, after = values["replace"]
        prompt = prompt.replace(before, after)
    changed = {key: values[key] for key in ("guidance", "steps", "sampler") if key in values}
    text = tagged(prompt, settings.loras)
    if "lora" in values:
        path = values["lora"]
        text = f"{text} {tag(path.stem, values.get('strength', 1.0), values.get('layers', ''))}"
        changed["loras"] = [*settings.loras, LoraUse(path=path)]
    elif values.keys() & {"strength", "layers"}:
        text = _retagged(text, values, settings)
    own = settings.model_copy(update=changed)
    return shot(_without_idle_tags(text, own), values.get("seed", seed), own)


def _retagged(text: str, values: Mapping[str, Any], settings: GridSettings) -> str:
    """Every LoRA of the prompt at the strength, or with the layer weights, of the cell."""
    loras = worn(text, settings)
    if not loras:
        raise UserError("grid.no_lora")
    names = [words.partition(":")[0].strip() for words in TAG.findall(text)]
    strengths = [values.get("strength", lora.strength) for lora in loras]
    layers = [values.get("layers", lora.layers) for lora in loras]
    tags = iter([tag(*one) for one in zip(names, strengths, layers, strict=True)])
    return TAG.sub(lambda match: next(tags), text)


def _without_idle_tags(text: str, settings: GridSettings) -> str:
    """A LoRA of strength 0 is left out, so that the base model's picture is one and the same for all of them."""
    idle = iter([lora.does_nothing for lora in worn(text, settings)])
    return " ".join(TAG.sub(lambda match: "" if next(idle) else match[0], text).split(" ")).strip()


# ---- what people write -----------------------------------------------------------------------------------------------


def side(axis: Axis, settings: GridSettings) -> Side:
    """An axis understood. Raises UserError naming the first value that is none."""
    words = [word for value in axis.values if (word := value.strip()) or axis.kind in ("replace", "layers")]
    if not words:
        raise UserError("grid.no_values", axis=TITLES[axis.kind])
    if axis.kind == "lora":
        paths = [Path(clean_path(word)) for word in words]
        return Side("lora", tuple(paths), tuple(labels(paths)))
    if axis.kind == "replace":
        _check_replaced(words[0], settings)
        return Side("replace", tuple((words[0], word) for word in words), tuple(word or "-" for word in words))
    if axis.kind == "layers":
        return Side("layers", tuple(words), tuple(word or "ALL" for word in words))
    if axis.kind == "sampler":
        return Side("sampler", tuple(_sampler(word) for word in words), tuple(words))
    values = tuple(_number(word, axis.kind) for word in words)
    return Side(axis.kind, values, tuple(f"{value:g}" if axis.kind != "seed" else str(value) for value in values))


def _check_replaced(word: str, settings: GridSettings) -> None:
    if not word or not any(word in prompt for prompt in settings.prompts):
        raise UserError("grid.word_missing", word=word[:80])


def _sampler(word: str) -> str:
    known: Sequence[str] = get_args(SamplerName)
    if word not in known:
        raise UserError("grid.bad_value", axis=TITLES["sampler"], value=word[:80], wanted=", ".join(known))
    return word


def _number(word: str, kind: str) -> float:
    number, low, high = NUMBERS[kind]
    try:
        value = number(word)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise UserError("grid.bad_value", axis=TITLES[kind], value=word[:80], wanted=f"{low:.10g} – {high:.10g}")
    return value
