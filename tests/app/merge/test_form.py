"""The Merge tab without a browser: what belongs to a choice, which job it stands for, what its file is called."""

import json
import math

import pytest

from app.merge.form import (
    CHOICES,
    DEFAULTS,
    FEWEST,
    MOST,
    MOST_LORAS,
    ROWS,
    WHATS,
    after_choosing,
    checked,
    load_draft,
    rows_shown,
    visible,
    without_row,
)
from app.merge.output import free_name, output, proposed_name
from app.merge.settings import preview_settings, settings_of
from app.merge.values import FormError, error_words
from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES
from lora_core.merge.methods import METHODS
from lora_core.settings.tools import ApplySettings, ExtractSettings, MergeSettings, ResizeSettings

A, B, MODEL = "/loras/bear.safetensors", "/loras/hat.safetensors", "/models/base.safetensors"


def shown(**values) -> dict:
    """The tab as it begins, but for these values."""
    assert values.keys() <= DEFAULTS.keys()
    return DEFAULTS | values


FILLED = {
    "add": shown(what="add", path1=A, path2=B),
    "subtract": shown(what="subtract", path1=A, path2=B, ratio2=-1.0),
    "bake": shown(what="bake", path1=A, checkpoint=MODEL),
    "extract": shown(what="extract", extract_base=MODEL, extract_tuned="/models/tuned.safetensors"),
    "resize": shown(what="resize", path1=A),
}
KINDS = {
    "add": MergeSettings,
    "subtract": MergeSettings,
    "bake": ApplySettings,
    "extract": ExtractSettings,
    "resize": ResizeSettings,
}


# ---- what is shown ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", WHATS)
def test_only_what_belongs_to_a_choice_is_shown(what):
    on = visible(shown(what=what))
    assert [on[f"row{row}"] for row in ROWS].count(True) == FEWEST[what]
    assert (on["bake_part"], on["extract_part"]) == (what == "bake", what == "extract")
    assert on["method"] == (what in ("add", "subtract"))
    assert on["precision"] != on["checkpoint_precision"]
    assert sum(on[f"size_{key}"] for key in ("add", "extract", "resize")) == (what != "bake")


@pytest.mark.parametrize("method", METHODS)
def test_a_method_shows_its_own_parameters(method):
    on = visible(shown(method=method))
    assert on["density"] == ("density" in METHODS[method].parameters)
    assert on["dare_seed"] == ("seed" in METHODS[method].parameters)
    assert on["rank"] == METHODS[method].truncates


@pytest.mark.parametrize(
    ("way", "fields"),
    [
        ("rank", {"rank"}),
        ("energy", {"energy", "cap", "same_rank"}),
        ("sv_ratio", {"dynamic_param", "cap"}),
        ("sv_fro", {"dynamic_param", "cap"}),
    ],
)
def test_a_way_to_choose_the_rank_shows_its_own_fields(way, fields):
    on = visible(shown(what="resize", size_resize=way))
    assert {key for key in ("rank", "energy", "cap", "same_rank", "dynamic_param") if on[key]} == fields


def test_rows_are_added_and_removed():
    values = shown(path1="a", path2="b", path3="c", ratio3=0.5, weights3="OUTALL", shown=4)
    assert rows_shown(values) == 4
    fewer = values | without_row(values, 2)
    assert [fewer[f"path{row}"] for row in ROWS][:3] == ["a", "c", ""]
    assert (fewer["ratio2"], fewer["weights2"], fewer["ratio3"], rows_shown(fewer)) == (0.5, "OUTALL", 1.0, 3)


def test_a_row_with_a_file_stays_in_sight():
    assert rows_shown(shown(path5="e")) == 5
    assert rows_shown(shown(what="resize", path5="e")) == 1
    assert rows_shown(shown(shown=8)) == MOST["add"] == MOST_LORAS


def test_minus_presets_the_ratios_and_gives_them_back():
    values = shown(what="subtract")
    values |= after_choosing(values, "subtract")
    assert (values["ratio1"], values["ratio2"]) == (1.0, -1.0)
    assert after_choosing(values | {"what": "add"}, "add")["ratio2"] == 1.0
    assert "ratio2" not in after_choosing(shown(ratio2=0.3), "bake")


# ---- the job ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", WHATS)
def test_each_choice_is_a_job_of_its_own(what):
    settings = settings_of(FILLED[what])
    assert type(settings) is KINDS[what]
    assert settings.output.suffix == ".safetensors"
    assert settings.overwrite is False
    assert settings_of(FILLED[what], overwrite=True).overwrite is True


def test_ratios_and_weights_reach_the_job():
    settings = settings_of(FILLED["subtract"] | {"weights2": " OUTALL "})
    assert [(str(s.path), s.ratio, s.block_weights) for s in settings.loras] == [(A, 1.0, ""), (B, -1.0, "OUTALL")]


def test_one_lora_alone_can_be_changed():
    for change in ({"ratio1": 0.5}, {"weights1": "NOTEXT"}):
        assert len(settings_of(shown(path1=A) | change).loras) == 1


def test_an_empty_row_is_passed_over():
    assert len(settings_of(FILLED["add"] | {"path4": A, "shown": 5}).loras) == 3


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ({}, (16, None, None)),
        ({"conv_rank": 4}, (16, 4, None)),
        ({"size_add": "energy"}, (None, None, 0.99)),
        ({"size_add": "energy", "cap": 64}, (64, None, 0.99)),
        ({"method": "concat"}, (None, None, None)),
    ],
)
def test_the_size_reaches_the_job(values, size):
    settings = settings_of(FILLED["add"] | values)
    assert (settings.rank, settings.conv_rank, settings.energy) == size


def test_a_dynamic_resize():
    settings = settings_of(FILLED["resize"] | {"size_resize": "sv_ratio", "dynamic_param": 20.0, "cap": 32})
    assert (settings.dynamic_method, settings.dynamic_param, settings.rank) == ("sv_ratio", 20.0, 32)


def test_paths_as_people_paste_them():
    assert str(settings_of(FILLED["add"] | {"path1": f' "{A}" '}).loras[0].path) == A


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        (shown(), True),
        (shown(path1=A), True),
        (shown(what="subtract", path1=A), True),
        (shown(what="bake", path1=A), True),
        (shown(what="bake", checkpoint=MODEL), True),
        (shown(what="extract", extract_base=MODEL), True),
        (shown(what="resize"), True),
        (FILLED["add"] | {"ratio1": None}, False),
        (FILLED["add"] | {"ratio2": 1e9}, False),
        (FILLED["add"] | {"rank": 0}, False),
        (FILLED["add"] | {"rank": 2.5}, False),
        (FILLED["add"] | {"size_add": "energy", "energy": 101}, False),
        (FILLED["add"] | {"method": "ties", "density": 0}, False),
        (FILLED["resize"] | {"size_resize": "sv_fro"}, False),
        (FILLED["resize"] | {"size_resize": "sv_fro", "dynamic_param": 2}, False),
        (FILLED["add"] | {"path1": "a\0b"}, False),
    ],
)
def test_what_can_not_be_used_is_said_in_both_languages(values, missing):
    with pytest.raises(FormError) as caught:
        settings_of(values)
    sentences = {error_words(caught.value, language) for language in LANGUAGES}
    assert len(sentences) == 2
    assert all("{" not in sentence for sentence in sentences)
    assert caught.value.missing == missing


def test_outside_the_roots_nothing_is_read_or_written(tmp_path):
    inside = str(tmp_path / "a.safetensors")
    values = shown(what="resize", path1=inside)
    assert settings_of(values, [tmp_path])
    for wrong in ({"path1": A}, {"folder": "/elsewhere"}, {"folder": str(tmp_path / "..")}):
        with pytest.raises(FormError):
            settings_of(values | wrong, [tmp_path])


# ---- the preview -----------------------------------------------------------------------------------------------------


def test_the_preview_draws_what_the_tab_describes(tmp_path):
    prompts = {"preview_prompts": "one\n\n two \nthree\nfour\nfive"}
    settings = preview_settings(FILLED["subtract"] | prompts)
    assert settings.prompts == ["one", "two", "three", "four"]
    assert [lora.ratio for lora in settings.merge.loras] == [1.0, -1.0]
    assert settings.base == "built-in"
    assert preview_settings(FILLED["resize"] | prompts | {"rank": 4}).merge.rank == 4
    taken_out = preview_settings(FILLED["bake"] | prompts | {"reverse": True}).merge
    assert (taken_out.method, taken_out.loras[0].ratio) == ("concat", -1.0)
    made = preview_settings(FILLED["extract"] | prompts, test=tmp_path / "made.safetensors").merge
    assert [lora.path.name for lora in made.loras] == ["made.safetensors"]


def test_a_preview_without_prompts_asks_for_one():
    with pytest.raises(FormError):
        preview_settings(FILLED["add"])


# ---- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("add", "bear_hat"),
        ("subtract", "bear_minus_hat"),
        ("bake", "base_bear"),
        ("extract", "tuned_lora"),
        ("resize", "bear_rank16"),
    ],
)
def test_a_name_says_what_the_file_was_made_from(what, name, tmp_path):
    assert proposed_name(FILLED[what], tmp_path) == name
    (tmp_path / f"{name}.safetensors").touch()
    assert proposed_name(FILLED[what], tmp_path) == f"{name}-2"
    assert output(FILLED[what] | {"folder": str(tmp_path)}).name == f"{name}-2.safetensors"


def test_a_typed_name_is_kept_even_when_it_is_taken(tmp_path):
    (tmp_path / "mine.safetensors").touch()
    for typed in ("mine", "mine.safetensors"):
        assert output(FILLED["add"] | {"folder": str(tmp_path), "name": typed}) == tmp_path / "mine.safetensors"
    assert free_name(tmp_path, "mine") == "mine-2"


def test_a_diffusers_folder_becomes_a_folder(tmp_path):
    (tmp_path / "model").mkdir()
    values = FILLED["bake"] | {"checkpoint": str(tmp_path / "model")}
    assert output(values) == tmp_path / "model_bear"


@pytest.mark.parametrize("name", ["a/b", "..", "CON", 'a"b', "x?"])
def test_a_name_no_system_can_hold_is_refused(name):
    with pytest.raises((FormError, UserError)) as caught:
        output(FILLED["add"] | {"name": name})
    assert caught.value.message("ja") != caught.value.message("en")


# ---- the draft -------------------------------------------------------------------------------------------------------


def test_a_draft_comes_back(tmp_path):
    values = FILLED["subtract"] | {"rank": None, "preview_prompts": "くま", "shown": 3}
    (tmp_path / "merge.json").write_text(json.dumps(values), encoding="utf-8")
    assert load_draft(tmp_path / "merge.json") == values


@pytest.mark.parametrize("text", ["", "[]", "{", '{"what": "eat", "shown": 99, "rank": "x", "path1": 3, "reverse": 1}'])
def test_a_draft_that_can_not_be_used_is_as_if_there_was_none(text, tmp_path):
    (tmp_path / "merge.json").write_text(text, encoding="utf-8")
    assert load_draft(tmp_path / "merge.json") == DEFAULTS
    assert load_draft(tmp_path / "nowhere.json") == DEFAULTS


def test_values_that_no_field_can_hold_are_dropped():
    assert checked({"conv_rank": 0, "cap": 0}) == DEFAULTS
    assert checked({"ratio1": math.nan, "path1": None, "method": "eval", "unknown": 1}) == DEFAULTS
    assert all(DEFAULTS[key] in choices for key, choices in CHOICES.items())
