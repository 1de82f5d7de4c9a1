"""The Model test tab as values: the job it describes, what it keeps, and the grid of a training."""

from pathlib import Path

import pytest

from app.merge.values import FormError
from app.model_test.form import DEFAULTS, checked, load_draft, of_latest_run, of_run, settings_of, visible
from lora_core.runs import create_run
from lora_core.settings import RunSettings
from lora_core.settings.generate import GenerateSettings, GridSettings


def values(**changes):
    return {**DEFAULTS, "prompts": "a bear\n\n a cat \n", **changes}


def training(folder: Path, **sample) -> RunSettings:
    save = {"output_dir": str(folder), "output_name": "usu"}
    return RunSettings.model_validate({"model": {"base": "built-in"}, "save": save, "sample": sample})


def test_lines_are_prompts_and_an_empty_model_is_the_built_in_one():
    made = settings_of(values(width=64, strength=0.5))
    assert isinstance(made, GenerateSettings)
    assert (made.base, made.prompts, made.width, made.height) == ("built-in", ["a bear", "a cat"], 64, None)
    assert made.loras == []


def test_a_file_is_used_everywhere_and_a_folder_is_searched(tmp_path):
    file = tmp_path / "usu.safetensors"
    file.touch()
    made = settings_of(values(lora=str(file), strength=0.5))
    assert [(use.path, use.strength) for use in made.loras] == [(file, 0.5)]
    made = settings_of(values(lora=str(tmp_path)))
    assert (made.loras, made.folders) == ([], [tmp_path])


def test_a_grid_of_a_run_lies_beside_its_files(tmp_path):
    made = settings_of(values(mode="grid", run_folder=str(tmp_path), run_name=" usu "))
    assert isinstance(made, GridSettings)
    assert (made.run, made.run_name, made.output) == (tmp_path, "usu", tmp_path / "grid")
    assert made.columns.values == ["0", "0.5", "0.75", "1"]


def test_values_with_commas_stand_on_lines_of_their_own():
    text = "a bear, snow\na bear, rain"
    made = settings_of(values(mode="grid", rows="replace", rows_values=text, columns="seed", columns_values="1,2\n3"))
    assert made.rows.values == ["a bear, snow", "a bear, rain"]
    assert made.columns.values == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"mode": "grid"}, "model_test.needs.run_folder"),
        ({"steps": None}, "model_test.bad_field"),
        ({"width": 5}, "model_test.bad_field"),
        ({"base": "/etc/model.safetensors"}, "browse.not_allowed"),
        ({"lora": "/etc"}, "browse.not_allowed"),
        ({"mode": "grid", "run_folder": "/etc"}, "browse.not_allowed"),
        ({"mode": "grid", "rows": "lora", "rows_values": "/etc/a.safetensors"}, "browse.not_allowed"),
    ],
)
def test_what_is_missing_or_not_to_be_touched_is_a_sentence(tmp_path, change, key):
    with pytest.raises(FormError) as caught:
        settings_of(values(**change), (tmp_path,))
    assert caught.value.key == key
    assert caught.value.message("en") != caught.value.message("ja")


def test_what_belongs_to_the_choice_is_shown():
    assert not any(visible(DEFAULTS).values())
    assert visible(values(mode="grid")) == {"grid_part": True, "run_folder": True, "rows_values": False}
    assert visible(values(mode="grid", rows="seed")) == {"grid_part": True, "run_folder": False, "rows_values": True}


def test_a_draft_keeps_only_what_fits(tmp_path):
    (tmp_path / "draft.json").write_text('{"mode": "film", "steps": "x", "width": 0, "prompts": "a bear", "old": 1}')
    kept = load_draft(tmp_path / "draft.json")
    assert kept == {**DEFAULTS, "prompts": "a bear"}
    assert checked(kept) == kept
    assert load_draft(tmp_path / "none.json") == DEFAULTS


def test_the_latest_training_with_files_fills_a_grid_in(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path))
    assert of_latest_run() is None
    settings = training(tmp_path / "out", prompts="usu bear --n blur --w 64 --h 64\nusu cat", steps=9)
    create_run(settings)
    assert of_latest_run() is None, "nothing was saved"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "usu-000001.safetensors").touch()
    found = of_latest_run()
    assert found == of_run(settings)
    made = settings_of({**DEFAULTS, **found})
    assert (made.base, made.run, made.run_name) == ("built-in", tmp_path / "out", "usu")
    assert (made.prompts, made.negative, made.width, made.steps) == (["usu bear", "usu cat"], "blur", 64, 9)
