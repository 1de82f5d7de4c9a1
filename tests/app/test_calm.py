"""The calm page: what is hidden, marked, counted, found and put back, as pure functions on the real layout."""

import pytest

from app.calm import COOKIE, NAMES_THE_RUN, Layout, differs, hits, level_in, look, reset
from app.calm_events import Calm
from app.family import followed, preset_differs
from app.form import element_id, values_shown
from app.page import TABS, Context
from app.summary import trained_words
from app.ui import build
from lora_core.estimate import estimate
from lora_core.i18n import LANGUAGES
from lora_core.settings import RunSettings
from lora_core.settings.fields import fields_of, unions_of
from lora_core.settings.levels import LEVELS, is_shown_at
from lora_core.settings.overlay import with_values

FIELDS = fields_of()
DEFAULTS = {path: "" if value is None and FIELDS[path].kind in ("text", "path") else value
            for path, value in values_shown(RunSettings()).items()}  # fmt: skip


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> Layout:
    """Of the real page."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUMAKOBO_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(Calm, "connect", lambda calm, demo: found.append(calm.layout))
        build(Context())
    return found[0]


def hidden(layout: Layout, level="standard", **changes) -> set[str]:
    values = DEFAULTS | {path.replace("__", "."): value for path, value in changes.items()}
    return set(look(values, level, layout, "en")["hidden"])


def test_every_field_has_a_tab_and_a_titled_part(layout):
    assert layout.tabs.keys() == FIELDS.keys()
    assert set(layout.tabs.values()) <= set(TABS)
    assert layout.sections.keys() == FIELDS.keys()
    assert layout.accordions["loss.min_snr_gamma"] == ("parameters_loss",)


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_hides_what_is_above_it(layout, level):
    names = hidden(layout, level)
    assert names >= {element_id(path) for path in FIELDS if not is_shown_at(path, level)}
    assert element_id("train.epochs") not in names


def test_what_does_not_count_is_hidden_at_every_level(layout):
    assert "f-train-text_encoder_lr" not in hidden(layout, "expert")
    assert "f-train-text_encoder_lr" in hidden(layout, "expert", train__train_text_encoder=False)
    assert "f-optimizer-d_coef" in hidden(layout, "expert")
    assert "f-optimizer-d_coef" not in hidden(layout, "expert", optimizer__name="Prodigy")
    assert {"f-model-t5", "f-model-clip_skip"} & hidden(layout, model__family="flux") == {"f-model-clip_skip"}


def test_parts_without_anything_to_show_vanish(layout):
    assert "parameters_memory" in look(DEFAULTS, "beginner", layout, "en")["accordions"]
    assert "parameters_memory" not in look(DEFAULTS, "expert", layout, "en")["accordions"]


def test_a_part_without_settings_can_be_above_beginner(layout):
    assert "parameters_sweep" in look(DEFAULTS, "beginner", layout, "en")["accordions"]
    assert "parameters_sweep" not in look(DEFAULTS, "standard", layout, "en")["accordions"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_hidden_changes_are_counted_and_can_be_shown(layout, language):
    assert look(DEFAULTS, "beginner", layout, language)["note"] is None
    changed = DEFAULTS | {"train.max_grad_norm": 0.5, "train.seed": 7}
    note = look(changed, "beginner", layout, language)["note"]
    assert "2" in note["words"]
    assert note["level"] == "expert"
    assert look(changed, note["level"], layout, language)["note"] is None


def test_a_changed_setting_is_marked_with_the_default_of_its_variant(layout):
    values = DEFAULTS | {"optimizer.name": "Adafactor", "optimizer.weight_decay": 0.01}
    marks = look(values, "expert", layout, "en")["marks"]
    assert marks["f-optimizer-weight_decay"].endswith(": 0")
    assert ": AdamW8bit" in marks["f-optimizer-name"]
    assert marks.keys() == {"f-optimizer-weight_decay", "f-optimizer-name"}
    (part,) = look(values, "expert", layout, "en")["parts"].values()
    assert set(part["fields"]) == marks.keys()


def test_what_names_a_run_is_never_marked():
    assert not [path for path in NAMES_THE_RUN if differs(path, DEFAULTS | dict.fromkeys(NAMES_THE_RUN, "x"))]
    assert differs("dataset.resolution", DEFAULTS | {"dataset.resolution": "768"})


def test_putting_back_brings_the_variant_and_its_defaults():
    values = DEFAULTS | {"optimizer.name": "Adafactor", "optimizer.weight_decay": 0.0, "train.epochs": 3}
    assert reset(values, ["optimizer.name"]) == {"optimizer.name": "AdamW8bit", "optimizer.weight_decay": 0.01}
    assert reset(values, ["train.epochs"]) == {"train.epochs": FIELDS["train.epochs"].default}
    assert reset(DEFAULTS, list(FIELDS)) == {}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_hit_leads_to_the_field_or_to_what_has_to_change_first(layout, language):
    (hit, *_) = hits("min_snr_gamma", DEFAULTS, layout, language)
    assert hit["place"] == {
        "field": "f-loss-min_snr_gamma",
        "tab": "parameters",
        "accordions": ("parameters_loss",),
        "level": "standard",
    }
    assert hit["needs"] == ""
    (hit, *_) = hits("optimizer.d_coef", DEFAULTS, layout, language)
    assert hit["place"]["field"] == "f-optimizer-name"
    assert "Prodigy" in hit["needs"]


@pytest.mark.parametrize(("said", "level"), [("expert", "expert"), ("x", "standard"), (None, "standard")])
def test_the_level_is_remembered_in_a_cookie(said, level):
    assert level_in({COOKIE: said} if said else None) == level


def test_the_model_type_follows_the_file():
    assert followed(DEFAULTS | {"model.base": "built-in"}) == {}
    changed = followed(DEFAULTS | {"model.base": "built-in", "model.family": "sdxl"})
    assert changed == {"model.family": "sd1"}
    assert followed(DEFAULTS | {"model.base": "/no/such/file.safetensors", "model.family": "sdxl"}) == {}
    assert followed(DEFAULTS | {"model.base": ""}) == {}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_preset_for_another_model_says_so(language):
    settings = RunSettings.model_validate({"model": {"family": "sdxl", "base": "built-in"}})
    assert "SDXL" in preset_differs(settings, language)
    assert preset_differs(RunSettings.model_validate({"model": {"base": "built-in"}}), language) == ""


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("sd1", "Stable Diffusion 1.x LoRA rank 16: U-Net 192 + text encoder 72 modules"),
        ("sdxl", "SDXL LoRA rank 16: U-Net 722 + text encoders 264 modules"),
        ("flux", "FLUX.1 LoRA rank 16: transformer 304 + text encoder 72 modules"),
    ],
)
def test_the_summary_says_what_is_trained(family, words):
    settings = RunSettings.model_validate({"model": {"family": family}})
    assert trained_words(settings, estimate(settings), "en") == words


@pytest.mark.parametrize("family", unions_of()["model"])
@pytest.mark.parametrize("algo", unions_of()["network"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_family_and_algorithm_has_a_summary(family, algo, language):
    settings = with_values(RunSettings(), {"model.family": family, "network.algo": algo})
    assert trained_words(settings, estimate(settings), language)
    assert trained_words(settings, None, language)


def test_the_page_sends_names_and_draws_nothing_anew(layout):
    assert len(str(look(DEFAULTS, "beginner", layout, "en"))) < 20_000
