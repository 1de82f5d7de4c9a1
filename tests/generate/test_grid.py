"""A grid is made of the pictures that are drawn one by one, and draws none of them twice."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora_core.events import FileSaved, StageChanged
from lora_core.generate.axes import pages
from lora_core.generate.cells import content_hash, identity
from lora_core.generate.grid import grid
from lora_core.generate.job import generate
from lora_core.generate.request import model_of
from lora_core.generate.sheet import cell_box
from lora_core.generate.studio import Studio
from lora_core.settings import Sd1Model
from lora_core.settings.generate import GenerateSettings, GridSettings
from tests.generate.test_generate import make_lora
from tests.models import tiny_sd_folder

COMMON = {"prompts": ["a (bear:1.2) in 雪"], "width": 64, "height": 64, "steps": 2, "negative": "blur"}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A model and three files of a run."""
    home = tmp_path_factory.mktemp("run of くま")
    folder = tiny_sd_folder(home / "model")
    studio = Studio(model_of(GenerateSettings(base=str(folder))), torch.device("cpu"))
    for seed, name in enumerate(("usu-000001", "usu-000002", "usu")):
        make_lora(studio.components, studio.family, home / f"{name}.safetensors", seed)
    return home


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))


def settings(run: Path, output: Path, **changes) -> GridSettings:
    columns = {"kind": "strength", "values": ["0", "0.7"]}
    values = {"base": str(run / "model"), "run": run, "columns": columns, "output": output, **COMMON}
    return GridSettings.model_validate(values | changes)


def events(job: GridSettings) -> tuple[list[FileSaved], list[FileSaved]]:
    """Cells and pages."""
    saved = [event for event in grid(job) if isinstance(event, FileSaved)]
    return [event for event in saved if "row" in event.facts], [event for event in saved if "grid" in event.facts]


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def test_every_cell_is_the_picture_drawn_by_itself(run, tmp_path):
    job = settings(run, tmp_path / "grid", count=2)
    cells, made = events(job)
    assert [(c.facts["page"], c.facts["row"], c.facts["column"]) for c in cells] == [
        (p, r, c) for p in range(2) for r in range(3) for c in range(2)
    ]
    assert [c.facts["strength"] for c in cells] == [0.0, 0.7] * 6
    assert [path.path.name for path in made] == ["grid-00-1.png", "grid-01-2.png"]
    for page, sheet in zip(pages(job), made, strict=True):
        whole = Image.open(sheet.path)
        blank = [[Image.new("RGB", (64, 64))] * 2] * 3
        for r, row in enumerate(page.shots):
            for c, shot in enumerate(row):
                single = GenerateSettings.model_validate(
                    {**COMMON, "base": job.base, "prompts": [shot.prompt], "seed": page.seed, "folders": [run]}
                )
                alone = single.model_copy(update={"output": tmp_path / "single" / f"{page.seed} {r} {c}"})
                (drawn,) = [event for event in generate(alone) if isinstance(event, FileSaved)]
                there = whole.crop(cell_box(page, blank, job, r, c))
                assert np.array_equal(pixels(there), pixels(Image.open(drawn.path))), (r, c)


def test_only_new_cells_are_drawn(run, tmp_path):
    last = run / "usu.safetensors"
    hidden = last.rename(run / "later.bin")
    try:
        cells, _ = events(settings(run, tmp_path))
    finally:
        hidden.rename(last)
    assert [cell.facts["kept"] for cell in cells] == [False, False, True, False], "the base is drawn once"
    cells, _ = events(settings(run, tmp_path))
    assert [cell.facts["kept"] for cell in cells] == [True] * 5 + [False]
    again = list(grid(settings(run, tmp_path)))
    assert "loading_model" not in {event.stage for event in again if isinstance(event, StageChanged)}
    cells, _ = events(settings(run, tmp_path, steps=1))
    assert not cells[0].facts["kept"]


def test_a_stopped_job_goes_on_from_there(run, tmp_path):
    steps = grid(settings(run, tmp_path))
    for event in steps:
        if isinstance(event, FileSaved) and event.facts["row"] == 1:
            break
    steps.close()
    assert not list(tmp_path.glob("grid-*.png"))
    (tmp_path / "cells" / "half.png.tmp").touch()
    cells, made = events(settings(run, tmp_path))
    assert [cell.facts["kept"] for cell in cells] == [True, True, True, False, True, False]
    assert len(made) == 1


def test_a_damaged_cell_is_drawn_again(run, tmp_path):
    cells, _ = events(settings(run, tmp_path))
    broken = cells[1].path
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    cells, _ = events(settings(run, tmp_path))
    assert [cell.facts["kept"] for cell in cells].count(False) == 1
    assert broken.read_bytes() == whole


def test_the_picture_says_what_it_shows(run, tmp_path):
    _, (made,) = events(settings(run, tmp_path))
    text = Image.open(made.path).text["parameters"]
    assert text.startswith("a (bear:1.2) in 雪\nNegative prompt: blur\nSteps: 2, Sampler: Euler a, CFG scale: 7")
    assert 'X Type: Strength, X Values: "0, 0.7", Y Type: LoRA, Y Values: "epoch 1, epoch 2, final"' in text
    assert text.count("usu") == 3


def test_a_model_is_known_by_its_content(run, tmp_path):
    one = identity(Sd1Model(base=str(run / "model")))
    assert one["base"] == content_hash(run / "model")
    assert one == identity(Sd1Model(base=str((run / "model").rename(tmp_path / "moved"))))
    (tmp_path / "moved").rename(run / "model")
    assert one != identity(Sd1Model(base=str(run / "model"), clip_skip=2))
