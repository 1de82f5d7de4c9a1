"""What pydantic refuses is said in words, in both languages, at the right setting."""

import pickle

import pytest

from lora_core.i18n import LANGUAGES, catalogue
from lora_core.settings import RunSettings
from lora_core.settings.fields import fields_of, label
from lora_core.settings.overlay import settings_from
from lora_core.settings.problems import _SENTENCES, SettingsError, nearest, unknown


def problems(tree):
    with pytest.raises(SettingsError) as caught:
        settings_from(tree, "file.toml")
    return caught.value.problems


WRONG = [
    ({"train": {"learning_rate": 0}}, "train.learning_rate", "settings.greater_than"),
    ({"train": {"learning_rate": "fast"}}, "train.learning_rate", "settings.not_a_number"),
    ({"train": {"learning_rate": [1]}}, "train.learning_rate", "settings.not_a_number"),
    ({"train": {"max_grad_norm": float("inf")}}, "train.max_grad_norm", "settings.not_a_number"),
    ({"train": {"learning_rate": float("nan")}}, "train.learning_rate", "settings.not_a_number"),
    ({"train": {"epochs": 0}}, "train.epochs", "settings.at_least"),
    ({"train": {"epochs": 1.5}}, "train.epochs", "settings.not_whole"),
    ({"train": {"epochs": "ten"}}, "train.epochs", "settings.not_whole"),
    ({"train": {"epochs": "9" * 5000}}, "train.epochs", "settings.not_whole"),
    ({"network": {"rank": 9999}}, "network.rank", "settings.at_most"),
    ({"network": {"rank_dropout": 1}}, "network.rank_dropout", "settings.less_than"),
    ({"dataset": {"flip_aug": "sometimes"}}, "dataset.flip_aug", "settings.not_yes_no"),
    ({"dataset": {"flip_aug": []}}, "dataset.flip_aug", "settings.not_yes_no"),
    ({"dataset": {"trigger_words": 7}}, "dataset.trigger_words", "settings.not_text"),
    ({"dataset": {"train_dir": 7}}, "dataset.train_dir", "settings.not_text"),
    ({"dataset": {"trigger_words": "x" * 999}}, "dataset.trigger_words", "settings.too_long"),
    ({"save": {"output_name": ""}}, "save.output_name", "settings.too_short"),
    ({"save": {"output_name": "a/b"}}, "save.output_name", "settings.file_name"),
    ({"dataset": {"cache_latents": "ram"}}, "dataset.cache_latents", "settings.choice"),
    ({"model": {"max_token_length": 100}}, "model.max_token_length", "settings.choice"),
    ({"optimizer": {"name": "Adam"}}, "optimizer.name", "settings.choice"),
    ({"optimizer": {"name": "Prodigy", "d_coef": 0}}, "optimizer.d_coef", "settings.greater_than"),
    ({"optimizer": {"name": "Lion", "d_coef": 1}}, "optimizer.d_coef", "settings.other_variant"),
    ({"optimizer": {"name": "Lion", "wieght_decay": 1}}, "optimizer.wieght_decay", "settings.unknown_near"),
    ({"train": {"zzzz": 1}}, "train.zzzz", "settings.unknown"),
    ({"trian": {"epochs": 1}}, "trian", "settings.unknown_near"),
    ({"train": 5}, "train", "settings.not_a_section"),
    ({"optimizer": 5}, "optimizer.name", "settings.not_a_section"),
]


@pytest.mark.parametrize(("tree", "path", "key"), WRONG)
def test_a_wrong_value_is_one_problem_at_its_setting(tree, path, key):
    (problem,) = problems(tree)
    assert (problem.path, problem.key) == (path, key)
    assert all(problem.message(language) for language in LANGUAGES)


def test_every_kind_of_sentence_is_tried_here():
    used = {key for _, _, key in WRONG}
    assert {key for key, _ in _SENTENCES.values()} <= used


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("train.learning_rat", "train.learning_rate"),
        ("learning_rate", "train.learning_rate"),
        ("network.dim", "network.rank"),
        ("network.network_dim", "network.rank"),
        ("network_alpha", "network.alpha"),
        ("train.output_dir", "save.output_dir"),
        ("train_data_dir", "dataset.train_dir"),
        ("optimizer.wieght_decay", "optimizer.weight_decay"),
        ("save.every_n_epochs", "sample.every_n_epochs"),
        ("zzzz.qqqq", None),
    ],
)
def test_the_nearest_setting_is_found(wrong, meant):
    assert nearest(wrong) == meant


@pytest.mark.parametrize(("wrong", "meant"), [("optimizer", "optimizer.name"), ("datasets", "[dataset]")])
def test_a_section_in_place_of_a_setting_is_understood(wrong, meant):
    assert unknown(wrong).values["near"] == meant


@pytest.mark.parametrize("path", fields_of())
def test_one_slip_of_the_finger_still_finds_the_setting(path):
    section, _, name = path.rpartition(".")
    slip = f"{section}.{name[:-1]}{name[-1]}{name[-1]}x"
    near = nearest(slip)
    assert near == path or len(name) <= 4 or (near is not None and fields_of()[near].name.startswith(name[:4]))


def test_a_misspelt_choice_comes_with_a_fix():
    (problem,) = problems({"optimizer": {"name": "prodgy"}})
    assert problem.fix == {"optimizer.name": "Prodigy"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_whole_error_names_file_label_and_path(language):
    error = SettingsError("my.toml", problems({"train": {"epochs": 0}}))
    message = error.message(language)
    assert "my.toml" in message
    assert label("train.epochs", language) in message
    assert "train.epochs" in message


def test_the_error_survives_a_trip_between_processes():
    error = SettingsError("my.toml", problems({"train": {"epochs": 0}}))
    again = pickle.loads(pickle.dumps(error))
    assert (again.message("ja"), again.problems) == (error.message("ja"), error.problems)


def test_japanese_messages_are_japanese():
    own = ("settings.", "checks.", "preset.")
    keys = [key for key in catalogue("ja") if key.startswith(own) and key != "settings.place"]
    assert all(any("ぁ" <= letter <= "ヿ" for letter in catalogue("ja")[key]) for key in keys)


def test_long_values_are_cut_in_messages():
    (problem,) = problems({"train": {"epochs": "x" * 500}})
    assert len(problem.message()) < 200


def test_sound_settings_have_no_problem():
    assert settings_from({}, "") == RunSettings()
