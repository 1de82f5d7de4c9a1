"""Partial settings over whole ones."""

import pytest

from lora_core.errors import Problem, UserError
from lora_core.settings import RunSettings
from lora_core.settings.fields import values_of
from lora_core.settings.overlay import apply_fix, apply_overrides, nest, settings_from, with_values
from lora_core.settings.problems import SettingsError


def test_what_is_left_out_has_its_default():
    settings = settings_from({"train": {"epochs": 3}}, "")
    assert values_of(settings) == values_of(RunSettings()) | {"train.epochs": 3}


def test_a_union_without_a_name_is_its_default_variant():
    assert settings_from({"schedule": {"warmup": 3}}, "").schedule.name == RunSettings().schedule.name


def test_changes_leave_the_old_settings_alone():
    old = RunSettings()
    new = with_values(old, {"network.rank": 4})
    assert (old.network.rank, new.network.rank) == (16, 4)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("train.learning_rate=5e-5", "train.learning_rate", 5e-5),
        ("train.epochs = 3", "train.epochs", 3),
        ("train.seed=", "train.seed", None),
        ("train.seed=none", "train.seed", None),
        ("train.seed=0", "train.seed", 0),
        ("model.max_token_length=225", "model.max_token_length", 225),
        ("dataset.flip_aug=true", "dataset.flip_aug", True),
        ("dataset.enable_bucket=off", "dataset.enable_bucket", False),
        ("dataset.resolution=600x900", "dataset.resolution", "600,900"),
        ("dataset.trigger_words=usu bear, a=b", "dataset.trigger_words", "usu bear, a=b"),
        ("save.comment=none", "save.comment", "none"),
        ("optimizer.name=Prodigy", "optimizer.name", "Prodigy"),
    ],
)
def test_an_override_is_read_as_its_field_is(text, path, value):
    assert values_of(apply_overrides(RunSettings(), [text]))[path] == value


def test_an_override_without_a_value_is_explained():
    with pytest.raises(UserError, match="setting=value"):
        apply_overrides(RunSettings(), ["train.epochs"])


def test_overrides_of_a_variant_work_in_any_order():
    texts = ["optimizer.d_coef=0.5", "optimizer.name=Prodigy"]
    assert apply_overrides(RunSettings(), texts) == apply_overrides(RunSettings(), texts[::-1])


def test_another_variant_takes_its_own_defaults():
    assert with_values(RunSettings(), {"optimizer.name": "Adafactor"}).optimizer.weight_decay == 0.0


def test_another_variant_keeps_what_was_set_by_hand_where_it_has_it():
    prodigy = with_values(
        RunSettings(), {"optimizer.name": "Prodigy", "optimizer.weight_decay": 0.2, "optimizer.d_coef": 2}
    )
    lion = with_values(prodigy, {"optimizer.name": "Lion"})
    assert lion.optimizer.weight_decay == 0.2
    assert not hasattr(lion.optimizer, "d_coef")


def test_the_same_variant_again_changes_nothing():
    settings = with_values(RunSettings(), {"schedule.name": "cosine_with_restarts", "schedule.num_cycles": 3})
    assert with_values(settings, {"schedule.name": "cosine_with_restarts"}) == settings


def test_all_mistakes_are_reported_together():
    with pytest.raises(SettingsError) as caught:
        with_values(RunSettings(), {"train.epochs": 0, "network.rank": "many", "train.seed": -1}, "mine.toml")
    assert {problem.path for problem in caught.value.problems} == {"train.epochs", "network.rank", "train.seed"}
    assert str(caught.value).startswith("mine.toml")


def test_a_fix_is_applied_like_any_change():
    problem = Problem("schedule.name", "checks.fp16_on_cpu", fix={"schedule.name": "constant", "train.seed": None})
    fixed = apply_fix(RunSettings(), problem)
    assert (fixed.schedule.name, fixed.train.seed) == ("constant", None)


def test_paths_nest_into_sections():
    assert nest({"a.b": 1, "a.c": 2, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}
