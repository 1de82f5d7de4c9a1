"""``kumakobo grid``: saved epochs by strength, or any one thing by any other, each cell drawn once and kept."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from PIL import Image

from lora_core.events import EventBase, FileSaved, StageChanged
from lora_core.generate.axes import Page, pages
from lora_core.generate.cells import Cells
from lora_core.generate.job import folder_of
from lora_core.generate.picture import save_png
from lora_core.generate.request import check_loras, model_of
from lora_core.generate.sheet import sheet
from lora_core.generate.shelf import Shelf
from lora_core.generate.studio import Studio, arithmetic, lora_hashes
from lora_core.runs import RunFolder
from lora_core.settings import AnyModel
from lora_core.settings.generate import GridSettings


def grid(settings: GridSettings, run: RunFolder | None = None, shelf: Shelf | None = None) -> Iterator[EventBase]:
    """Draws what is not there yet, then writes one labelled picture for each prompt and seed.

    What was drawn stays when the job is stopped, and the next one goes on from there. Raises UserError for what can't
    be drawn, before the model is loaded.
    """
    yield StageChanged(stage="checking")
    wanted, model = pages(settings), model_of(settings)
    folder = pages_folder(settings, run)
    check_loras((lora for page in wanted for row in page.shots for shot in row for lora in shot.loras), model)
    cells = Cells(settings.cache or folder / "cells", model, arithmetic(model))
    yield from _drawn(wanted, model, cells, shelf or Shelf())
    yield StageChanged(stage="writing")
    for number, page in enumerate(wanted):
        yield _written(page, number, settings, cells, folder)


def pages_folder(settings: GridSettings, run: RunFolder | None) -> Path:
    """The folder asked for, that of the job, or one beside the LoRAs of the run."""
    if settings.output is None and run is None and settings.run is not None:
        return settings.run / "grid"
    return folder_of(settings, run)


def _drawn(wanted: list[Page], model: AnyModel, cells: Cells, shelf: Shelf) -> Iterator[EventBase]:
    """Every cell in turn; the model is loaded for the first that is missing."""
    places = [(n, r, c) for n, page in enumerate(wanted) for r, row in enumerate(page.shots) for c, _ in enumerate(row)]
    studio: Studio | None = None
    with ExitStack() as borrowed:
        for done, (number, row, column) in enumerate(places):
            shot = wanted[number].shots[row][column]
            kept = cells.has(shot)
            if not kept and studio is None:
                yield StageChanged(stage="loading_model")
                studio = borrowed.enter_context(shelf.studio(model))
            yield StageChanged(stage="drawing", done=done, total=len(places))
            if not kept:
                assert studio
                cells.keep(shot, studio.draw(shot))
            facts: dict[str, Any] = {"page": number, "row": row, "column": column, "kept": kept, "seed": shot.seed}
            facts |= {"lora": str(lora)} if (lora := lora_of(wanted[number], row, column)) else {}
            facts |= {"strength": at} if (at := strength_of(wanted[number], row, column)) is not None else {}
            yield FileSaved(path=cells.path(shot), kind="picture", facts=facts | {"prompt": shot.prompt, "index": done})
        yield StageChanged(stage="drawing", done=len(places), total=len(places))


def lora_of(page: Page, row: int, column: int) -> Path | None:
    """The file that a cell shows, where rows or columns are files."""
    return _value_of("lora", page, row, column)


def strength_of(page: Page, row: int, column: int) -> float | None:
    """The strength that a cell was drawn with, where rows or columns are strengths."""
    return _value_of("strength", page, row, column)


def _value_of(kind: str, page: Page, row: int, column: int) -> Any:
    sides = ((page.rows, row), (page.columns, column))
    return next((side.values[place] for side, place in sides if side.kind == kind), None)


def _written(page: Page, number: int, settings: GridSettings, cells: Cells, folder: Path) -> FileSaved:
    pictures = [[_opened(cells.path(shot)) for shot in row] for row in page.shots]
    loras = {lora.path: lora for row in page.shots for shot in row for lora in shot.loras}
    hashes = lora_hashes(list(loras.values())).get("Lora hashes", "")
    path = save_png(sheet(page, pictures, settings, hashes), folder / f"grid-{number:02d}-{page.seed}.png")
    return FileSaved(path=path, kind="picture", facts={"grid": True, "prompt": page.prompt, "seed": page.seed})


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
