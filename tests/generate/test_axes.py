"""What the cells of a grid are drawn with, and which files the epochs of a run are."""

from pathlib import Path

import pytest

from lora_core.errors import UserError
from lora_core.generate.axes import pages
from lora_core.generate.epochs import labels, saved_files
from lora_core.picture_commands import axis_of
from lora_core.settings.generate import GridSettings


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("usu-000010", "usu-000002", "usu-000002-ema", "usu-step00000050", "usu", "other"):
        (tmp_path / f"{name}.safetensors").touch()
    return tmp_path


def table(**values) -> list[list]:
    return [list(row) for row in pages(GridSettings.model_validate({"prompts": ["a bear"], **values}))[0].shots]


def test_epochs_stand_in_order_with_the_finished_file_behind(folder):
    files = saved_files(folder)
    assert [path.stem for path in files] == ["usu-000002", "usu-000010", "usu-step00000050", "usu"]
    assert labels(files) == ["epoch 2", "epoch 10", "step 50", "final"]
    assert labels([Path("a.safetensors"), Path("b-000001.safetensors")]) == ["a", "b-000001"]


def test_which_run_is_meant_has_to_be_clear(folder):
    (folder / "hat-000001.safetensors").touch()
    with pytest.raises(UserError, match="hat, usu") as caught:
        saved_files(folder)
    assert caught.value.key == "grid.several_runs"
    assert [path.stem for path in saved_files(folder, "hat")] == ["hat-000001"]


@pytest.mark.parametrize(
    ("place", "run", "key"),
    [("gone", "", "grid.no_folder"), ("empty", "", "grid.no_epochs"), (".", "other", "grid.no_epochs_of")],
)
def test_a_run_without_epochs_is_a_sentence(folder, place, run, key):
    (folder / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        saved_files(folder / place, run)
    assert caught.value.key == key


def test_rows_are_epochs_and_columns_strengths(folder):
    page = pages(GridSettings(prompts=["a bear"], run=folder, count=2))
    assert [(p.prompt, p.seed) for p in page] == [("a bear", 1), ("a bear", 2)]
    assert page[0].columns.labels == ("0", "0.5", "0.75", "1")
    assert page[0].shots[0][1].prompt == "a bear <lora:usu-000002:0.5>"
    assert page[0].shots[3][3].loras[0].path == folder / "usu.safetensors"
    assert {row[0] for row in page[0].shots} == {page[0].shots[0][0]}, "the base model is the same in every row"
    assert page[0].shots[0][0].loras == ()


def test_any_axis_stands_against_any(folder):
    lora = str(folder / "usu.safetensors")
    by_word = table(
        prompts=["a bear, snow"],
        rows={"kind": "replace", "values": ["snow", "rain", ""]},
        columns={"kind": "guidance", "values": ["5", "7.5"]},
    )
    assert [row[0].prompt for row in by_word] == ["a bear, snow", "a bear, rain", "a bear,"]
    assert [shot.guidance for shot in by_word[0]] == [5, 7.5]
    by_sampler = table(
        rows={"kind": "sampler", "values": ["ddim", "unipc"]}, columns={"kind": "seed", "values": ["7", "8"]}
    )
    assert [[(shot.sampler, shot.seed) for shot in row] for row in by_sampler] == [
        [("ddim", 7), ("ddim", 8)],
        [("unipc", 7), ("unipc", 8)],
    ]
    by_block = table(
        rows={"kind": "layers", "values": ["", "OUTALL"]},
        columns={"kind": "steps", "values": ["4", "8"]},
        loras=[{"path": lora, "strength": 0.8}],
    )
    assert [row[0].prompt for row in by_block] == ["a bear <lora:usu:0.8>", "a bear <lora:usu:0.8:lbw=OUTALL>"]
    assert [shot.steps for shot in by_block[0]] == [4, 8]


def test_without_a_lora_axis_all_loras_take_the_strength(folder):
    lora = str(folder / "usu.safetensors")
    rows = {"kind": "strength", "values": ["0", "0.5"]}
    found = table(rows=rows, columns={"kind": "seed", "values": ["1"]}, loras=[{"path": lora}])
    assert [row[0].prompt for row in found] == ["a bear", "a bear <lora:usu:0.5>"]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({}, "grid.no_rows"),
        ({"rows": {"kind": "strength", "values": ["1"]}}, "grid.same_axis"),
        ({"rows": {"kind": "seed", "values": [" "]}}, "grid.no_values"),
        ({"rows": {"kind": "seed", "values": ["x"]}}, "grid.bad_value"),
        ({"rows": {"kind": "guidance", "values": ["nan"]}}, "grid.bad_value"),
        ({"rows": {"kind": "sampler", "values": ["heun"]}}, "grid.bad_value"),
        ({"rows": {"kind": "replace", "values": ["cat", "dog"]}}, "grid.word_missing"),
        ({"rows": {"kind": "seed", "values": ["1"]}}, "grid.no_lora"),
        ({"rows": {"kind": "seed", "values": [str(n) for n in range(2501)]}}, "grid.too_many"),
    ],
)
def test_what_makes_no_grid_is_a_sentence(change, key):
    with pytest.raises(UserError) as caught:
        table(**change)
    assert caught.value.key == key


def test_an_axis_is_read_from_a_command_line():
    assert axis_of("cfg=5,7") == {"kind": "guidance", "values": ["5", "7"]}
    assert axis_of("prompt=snow, deep|rain") == {"kind": "replace", "values": ["snow, deep", "rain"]}
    assert axis_of("lbw=1,0,0") == {"kind": "layers", "values": ["1,0,0"]}
    assert axis_of(None) is None
    with pytest.raises(UserError):
        axis_of("heat=1,2")
