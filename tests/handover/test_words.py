"""Trigger words and the prompt, from what a file tells."""

import json

import pytest

from lora_core.generate.tags import TAG
from lora_core.handover.words import LONGEST, prompt, trigger_words
from lora_core.inspect.header import inspect_header


def words(make_lora, tmp_path, **metadata):
    return trigger_words(inspect_header(make_lora(tmp_path / "a.safetensors", **metadata)))


def folders(**images: int) -> str:
    return json.dumps({name: {"n_repeats": 1, "img_count": count} for name, count in images.items()})


def test_the_folders_words_without_those_of_regularisation(make_lora, tmp_path):
    assert words(make_lora, tmp_path) == "usu bear"


def test_what_the_file_says_itself_comes_first(make_lora, tmp_path):
    assert words(make_lora, tmp_path, **{"modelspec.trigger_phrase": "usu  bear,\n hat"}) == "usu bear, hat"


def test_several_folders_give_each_its_words_once(make_lora, tmp_path):
    dirs = folders(**{"20_usu bear": 3, "5_usu bear": 2, "10_kuro cat": 4})
    assert words(make_lora, tmp_path, ss_dataset_dirs=dirs, ss_tag_frequency="{}") == "usu bear, kuro cat"


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"a photo of usu bear": 2, "hat": 4}, "usu bear"),
        ({"ohwx": 4, "hat": 2}, "ohwx"),
        ({"miku (vocaloid)": 4, "hat": 3}, r"miku \(vocaloid\)"),
        ({"hat": 2, "snow": 1}, ""),
    ],
)
def test_captions_without_the_folders_words_count_by_what_they_share(make_lora, tmp_path, tags, expected):
    given = {"ss_dataset_dirs": folders(**{"20_usu bear": 4}), "ss_tag_frequency": json.dumps({"20_usu bear": tags})}
    assert words(make_lora, tmp_path, **given) == expected


def test_a_merged_file_has_only_tags_under_the_names_of_its_sources(make_lora, tmp_path):
    tags = json.dumps({"10_usu bear": {"usu bear": 2}, "b/3_kuro cat": {"kuro cat": 5}})
    none = {"ss_dataset_dirs": "", "ss_reg_dataset_dirs": ""}
    assert words(make_lora, tmp_path, **none, ss_tag_frequency=tags) == "usu bear, kuro cat"


def test_a_file_that_tells_nothing_has_none(make_lora, tmp_path):
    assert words(make_lora, tmp_path, ss_dataset_dirs="None", ss_tag_frequency="[1]", ss_reg_dataset_dirs="{") == ""


def test_endless_words_are_cut(make_lora, tmp_path):
    long = {"modelspec.trigger_phrase": "bear " * 100_000}
    assert 0 < len(words(make_lora, tmp_path, **long)) <= LONGEST


@pytest.mark.parametrize(("strength", "shown"), [(1.0, "1"), (0.8, "0.8"), (-1.0, "-1")])
def test_the_prompt_is_one_that_our_own_reader_takes(strength, shown):
    made = prompt("うす", strength, "usu bear")
    assert made == f"<lora:うす:{shown}> usu bear"
    assert TAG.findall(made) == [f"うす:{shown}"]
    assert prompt("a", 1.0, "") == "<lora:a:1>"
