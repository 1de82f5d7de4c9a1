"""The table of subsets: what is not touched stays, what is changed comes back, and a bad row is not written."""

import json
import tomllib
from pathlib import Path

import pytest

from lora_core.data.dataset_file import entries_of
from lora_core.data.dataset_table import COLUMNS, problems_of, rows_of, text_of, with_rows
from lora_core.settings import DatasetSettings
from tests.data.test_dataset_file import FOUR

TREE = tomllib.loads(FOUR)


def edited(changes: dict[tuple[int, str], object], tree=TREE) -> dict:
    rows = rows_of(tree)
    for (row, column), value in changes.items():
        rows[row][COLUMNS.index(column)] = value
    return with_rows(tree, rows)


def effective(tree) -> list[tuple]:
    return [(e.dataset, e.row, e.options) for e in entries_of(tree, DatasetSettings())]


def test_rows_show_what_the_file_says_at_any_level():
    assert rows_of(TREE) == [
        ["1-1", "bears", "3", "usu bear", False, "64", "2", ""],
        ["1-2", "reg", "", "bear", True, "64", "2", ""],
        ["2-1", "cats", "", "usu cat", False, "96,64", "", ""],
        ["2-2", "bears", "", "usu bear far", False, "96,64", "", "0.5"],
    ]


@pytest.mark.parametrize("ending", [".toml", ".json"])
def test_an_untouched_table_says_the_same(ending):
    again = text_of(with_rows(TREE, rows_of(TREE)), Path(f"d{ending}"))
    read = tomllib.loads(again) if ending == ".toml" else json.loads(again)
    assert read == TREE


@pytest.mark.parametrize(
    ("column", "value", "key", "expected"),
    [
        ("image_dir", "wolves", "image_dir", "wolves"),
        ("num_repeats", "7", "num_repeats", 7),
        ("num_repeats", 7.0, "num_repeats", 7),
        ("class_tokens", "うす熊", "class_tokens", "うす熊"),
        ("is_reg", True, "is_reg", True),
        ("is_reg", "true", "is_reg", True),
        ("loss_weight", "0.25", "custom_attributes", {"loss_weight": 0.25}),
    ],
)
def test_a_changed_cell_changes_its_subset_alone(column, value, key, expected):
    tree = edited({(0, column): value})
    subset = tree["datasets"][0]["subsets"][0]
    assert subset == TREE["datasets"][0]["subsets"][0] | {key: expected}
    assert tree["datasets"][1] == TREE["datasets"][1]
    assert tree["datasets"][0]["subsets"][1] == TREE["datasets"][0]["subsets"][1]


def test_an_emptied_cell_falls_back():
    tree = edited({(0, "num_repeats"): "", (3, "loss_weight"): None, (1, "is_reg"): False})
    assert "num_repeats" not in tree["datasets"][0]["subsets"][0]
    assert "custom_attributes" not in tree["datasets"][1]["subsets"][1]
    assert "is_reg" not in tree["datasets"][0]["subsets"][1]


def test_another_resolution_is_another_dataset_with_the_same_options():
    tree = edited({(1, "resolution"): "128x96"})
    assert [d["resolution"] for d in tree["datasets"]] == [64, [128, 96], [96, 64]]
    assert [len(d["subsets"]) for d in tree["datasets"]] == [1, 1, 2]
    assert tree["datasets"][1]["bucket_reso_steps"] == 16
    assert tree["general"] == TREE["general"]


def test_rows_are_added_and_taken_away():
    rows = [*rows_of(TREE)[1:], ["", "wolves", "2", "wolf", False, "", "", ""], ["", "", "", "", False, "", "", ""]]
    tree = with_rows(TREE, rows)
    assert [[s["image_dir"] for s in d["subsets"]] for d in tree["datasets"]] == [["reg"], ["cats", "bears", "wolves"]]
    assert tree["datasets"][1]["subsets"][2] == {"image_dir": "wolves", "num_repeats": 2, "class_tokens": "wolf"}


def test_a_table_of_new_rows_is_a_file():
    rows = [["", "a", "10", "usu", False, "512", "2", ""], ["", "b", "", "", True, "512", "2", ""]]
    tree = with_rows({}, [*rows, ["", "c", "", "x", False, "768", "", "0.5"]])
    assert [(d["resolution"], d.get("batch_size"), len(d["subsets"])) for d in tree["datasets"]] == [
        (512, 2, 2),
        (768, None, 1),
    ]
    assert tomllib.loads(text_of(tree, Path("d.toml"))) == tree
    assert not problems_of(tree)


@pytest.mark.parametrize(
    ("cell", "value", "place"),
    [
        ((2, "num_repeats"), "many", "Dataset 2, subset 1, num_repeats"),
        ((2, "num_repeats"), "0", "Dataset 2, subset 1, num_repeats"),
        ((0, "resolution"), "large", "resolution"),
        ((3, "loss_weight"), "-1", "Dataset 2, subset 2, loss_weight"),
        ((0, "image_dir"), "", "Dataset 1, subset 1"),
    ],
)
def test_a_bad_cell_is_told_at_its_row(cell, value, place):
    assert any(place in problem.message("en") for problem in problems_of(edited({cell: value})))
