"""The training recipe is read into words, and no metadata can break it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_core.i18n import LANGUAGES, catalogue
from lora_core.inspect import dataset
from lora_core.inspect.recipe import label_of, meaning, recipe_of, shown_value
from lora_core.inspect.recipe_keys import KEYS
from lora_core.inspect.report import GROUPS

languages = pytest.mark.parametrize("language", LANGUAGES)


def shown(key: str, raw: str, language="en") -> str:
    (entry,) = recipe_of({key: raw})
    return shown_value(entry, language)


@languages
def test_every_known_key_has_a_label(language):
    assert not {key for key in KEYS if f"recipe.{key}" not in catalogue(language)}


def test_every_label_is_of_a_known_key():
    labels = {key.removeprefix("recipe.") for key in catalogue("en") if key.startswith("recipe.")}
    assert labels == set(KEYS)


@pytest.mark.parametrize(
    ("key", "raw", "expected"),
    [
        ("ss_learning_rate", "0.0001", "0.0001"),
        ("ss_unet_lr", "1e-05", "0.00001"),
        ("ss_network_dim", "16", "16"),
        ("ss_network_alpha", "16.0", "16"),
        ("ss_network_alpha", "Dynamic", "Dynamic"),
        ("ss_flip_aug", "True", "yes"),
        ("ss_flip_aug", "False", "no"),
        ("ss_min_snr_gamma", "None", "not set"),
        ("ss_resolution", "(512, 768)", "512 × 768 px"),
        ("ss_resolution", "512", "512 × 512 px"),
        ("ss_resolution", "whatever", "whatever"),
        (
            "ss_optimizer",
            "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1,eps=1e-8)",
            "AdamW8bit (weight_decay=0.1, eps=1e-8)",
        ),
        ("ss_optimizer", "torch.optim.adamw.AdamW", "AdamW"),
        ("ss_base_model_version", "sdxl_base_v1-0", "SDXL 1.0"),
        ("ss_sd_model_hash", "12345678", "12345678"),
        ("ss_session_id", "0012", "0012"),
        ("ss_network_args", '{"conv_dim": "4", "dropout": null}', "conv_dim=4, dropout=not set"),
        ("ss_network_args", "{broken", "{broken"),
        ("ss_dataset_dirs", '{"10_cat": {"n_repeats": 10, "img_count": 20}}', "10_cat: 20 images × 10 repeats"),
        ("ss_tag_frequency", '{"a": {"x": 1, "y": 2}, "b": {"x": 3}}', "2 tags"),
        ("ss_bucket_info", '{"buckets": {"0": {}, "1": {}}}', "2 buckets"),
        ("ss_training_started_at", "1e300", "1e+300"),
        ("somebody_elses", '{"deep": [1, {"er": true}]}', "deep=1, (er=yes)"),
    ],
)
def test_values_are_said_in_words(key, raw, expected):
    assert shown(key, raw) == expected


def test_a_time_is_a_date():
    assert shown("ss_training_started_at", "1700000000.5").startswith("2023-11-1")


@languages
def test_unknown_keys_are_kept_under_other(language):
    (entry,) = recipe_of({"my_key": "my value"})
    assert (entry.group, entry.known, label_of(entry, language), entry.value) == ("other", False, "my_key", "my value")


def test_entries_come_by_group():
    groups = [entry.group for entry in recipe_of(dict.fromkeys([*KEYS, "another"], "1"))]
    assert groups == sorted(groups, key=GROUPS.index)
    assert set(groups) == set(GROUPS)


@pytest.mark.parametrize("value", [1, -3, 0.25, 1e-8, True, None, "text", 123456789012])
def test_meaning_undoes_str(value):
    assert meaning(str(value)) == value


HOSTILE = [
    "<script>alert(1)</script>",
    "x" * 10_000_000,
    '{"a": ' * 5000 + "1" + "}" * 5000,
    "[" * 200_000,
    json.dumps(list(range(300_000))),
    json.dumps({f"tag {i}": "<b>" for i in range(20_000)}),
    '{"a": {"n_repeats": "x", "img_count": [1]}}',
    '{"buckets": {"0": {"resolution": "a", "count": null}, "1": 5}}',
    '{"buckets": [1, 2]}',
    '{"x": {"t": 1e999, "u": -5, "v": true, "w": "3"}}',
    '[{"subsets": [{"image_dir": {"a": 1}, "is_reg": "yes"}], "tag_frequency": 7, "bucket_info": []}]',
    "\u202egnp.exe\x1b[2J\r\n",
    '"\\ud800"',
    "9" * 5000,
    "nan",
    "",
]


@pytest.mark.parametrize("raw", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("language", LANGUAGES)
def test_hostile_values_of_any_key_are_short_text(raw, language):
    for entry in recipe_of(dict.fromkeys([*KEYS, "other\x1b<b>" * 50], raw)):
        said = shown_value(entry, language)
        assert len(said) < 3000
        assert said.isprintable()
        assert len(json.dumps(entry.value, allow_nan=False)) < 1_000_000
    check_data(dict.fromkeys(KEYS, raw))


@given(st.dictionaries(st.sampled_from(sorted(KEYS)), st.text(st.characters()), max_size=8))
def test_any_text_is_read(metadata):
    for entry in recipe_of(metadata):
        shown_value(entry, "ja").encode()
        label_of(entry)
    check_data(metadata)


def check_data(metadata):
    by_folder = dataset.tags_by_folder(metadata)
    assert all(tag.name.isprintable() and tag.count >= 0 for tag in dataset.tags(by_folder))
    assert all(folder.name.isprintable() for folder in dataset.folders(metadata))
    assert all(bucket.width > 0 for bucket in dataset.buckets(metadata))


def test_tags_are_summed_and_sorted():
    metadata = {"ss_tag_frequency": json.dumps({"1_a": {"cat": 3, " dog": 5}, "2_b": {"cat": 4, "sky": 1}})}
    by_folder = dataset.tags_by_folder(metadata)
    assert [(t.name, t.count) for t in dataset.tags(by_folder)] == [("cat", 7), ("dog", 5), ("sky", 1)]
    assert [folder.folder for folder in by_folder] == ["1_a", "2_b"]


def test_data_sets_of_a_configuration_file_are_read_too():
    subset = {"img_count": 7, "num_repeats": 3, "image_dir": r"C:\Users\me\cats", "is_reg": True}
    info = {"buckets": {"0": {"resolution": [512, 640], "count": 7}}}
    part = {"subsets": [subset], "tag_frequency": {"cats": {"cat": 7}}, "bucket_info": info}
    metadata = {"ss_datasets": json.dumps([part, part])}
    (folder, _) = dataset.folders(metadata)
    assert (folder.name, folder.images, folder.repeats, folder.regularisation) == ("cats", 7, 3, True)
    assert dataset.tags(dataset.tags_by_folder(metadata))[0].count == 14
    assert [(b.width, b.height, b.images) for b in dataset.buckets(metadata)] == [(512, 640, 7)] * 2
