"""What counts when: the table's conditions, the sentences made of them, and what the checks say."""

import pytest

from lora_core.checks import combination_problems
from lora_core.i18n import LANGUAGES
from lora_core.settings import RunSettings
from lora_core.settings.applies import APPLIES, applies, belongs, condition, governor
from lora_core.settings.fields import chooser_of, default_of, fields_of, unions_of, values_of
from lora_core.settings.overlay import with_values

FIELDS = fields_of()
DEFAULTS = {path: field.default for path, field in FIELDS.items()}


@pytest.mark.parametrize("path", APPLIES)
def test_a_row_names_settings_and_values_that_there_are(path):
    assert path in FIELDS
    for need in [need for needs in APPLIES[path] for need in needs]:
        field = FIELDS[need.path]
        if field.kind in ("integer", "number"):
            assert not need.one_of
        else:
            assert set(need.one_of + need.none_of) <= set(field.choices or (True, False))
        assert need.one_of or need.none_of or field.optional or field.kind == "text"


@pytest.mark.parametrize("path", APPLIES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_condition_is_a_sentence(path, language):
    sentence = condition(path, language)
    assert sentence.endswith("." if language == "en" else "。")
    assert "None" not in sentence
    assert "True" not in sentence


@pytest.mark.parametrize(
    ("path", "values", "counts"),
    [
        ("train.text_encoder_lr", {"train.train_text_encoder": False}, False),
        ("train.text_encoder_lr", {"train.train_text_encoder": True}, True),
        ("train.unet_lr", {"optimizer.name": "Adafactor", "optimizer.relative_step": True}, False),
        ("train.unet_lr", {"optimizer.name": "Adafactor", "optimizer.relative_step": False}, True),
        ("train.unet_lr", {"optimizer.name": "AdamW", "optimizer.relative_step": True}, True),
        ("dataset.cache_dir", {"dataset.cache_latents": "memory"}, False),
        ("dataset.min_bucket_reso", {"dataset.bucket_no_upscale": False}, True),
        ("dataset.min_bucket_reso", {"dataset.bucket_no_upscale": False, "dataset.enable_bucket": False}, False),
        ("network.rank", {"network.algo": "lokr", "network.full_matrix": True}, False),
        ("network.rank", {"network.algo": "lora", "network.full_matrix": True}, True),
        ("loss.prior_loss_weight", {"dataset.reg_dir": ""}, False),
        ("loss.prior_loss_weight", {"dataset.reg_dir": "/pictures"}, True),
        ("loss.min_snr_gamma", {"model.family": "flux"}, False),
        ("optimizer.d_coef", {"optimizer.name": "AdamW"}, False),
        ("optimizer.d_coef", {"optimizer.name": "Prodigy"}, True),
        ("train.epochs", {}, True),
    ],
)
def test_whether_a_setting_counts(path, values, counts):
    assert applies(path, DEFAULTS | values) is counts


@pytest.mark.parametrize("path", FIELDS)
def test_the_way_to_a_setting_leads_to_one_that_counts(path):
    found = governor(path, DEFAULTS)
    assert applies(found, DEFAULTS)
    assert (found == path) == applies(path, DEFAULTS)


@pytest.mark.parametrize("section", unions_of())
def test_what_chooses_a_variant_always_counts(section):
    assert all(belongs(chooser_of(section), DEFAULTS | {chooser_of(section): name}) for name in unions_of()[section])


def test_a_default_is_that_of_the_chosen_variant():
    assert default_of("optimizer.weight_decay", {"optimizer.name": "AdamW"}) == 0.01
    assert default_of("optimizer.weight_decay", {"optimizer.name": "Adafactor"}) == 0.0
    assert default_of("train.epochs", {}) == RunSettings().train.epochs


def test_what_was_turned_on_without_effect_is_named_with_what_it_needs():
    settings = with_values(RunSettings(), {"dataset.cache_dir": "/cache"})
    (problem,) = combination_problems(settings)
    assert (problem.path, problem.severity, problem.fix) == (
        "dataset.cache_dir",
        "warning",
        {"dataset.cache_dir": None},
    )
    assert "Cache latents: On disk" in problem.message("en")
    assert "「ディスク" in problem.message("ja")


def test_a_number_of_what_is_off_is_no_problem():
    assert combination_problems(with_values(RunSettings(), {"loss.prior_loss_weight": 0.5})) == []


def test_nothing_is_said_of_defaults_nor_twice_of_one_setting():
    assert combination_problems(RunSettings()) == []
    settings = with_values(RunSettings(), {"train.train_text_encoder": False, "train.text_encoder_lr": 1e-5})
    assert [problem.path for problem in combination_problems(settings)] == ["train.text_encoder_lr"]
    assert values_of(settings)["train.text_encoder_lr"] == 1e-5
