"""What the page says while it is filled in."""

from dataclasses import replace

import pytest
from PIL import Image

from app import form as forms
from app.live import (
    Look,
    Previews,
    findings,
    folders_html,
    layers_html,
    model_html,
    problem_items,
    scale_html,
    trained_html,
)
from app.summary import summary_html
from lora_core.errors import Problem
from lora_core.i18n import LANGUAGES
from lora_core.settings import RunSettings
from lora_core.settings.fields import fields_of
from lora_core.settings.overlay import with_values


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images" / "20_usu bear"
    folder.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("usu bear", encoding="utf-8")
    return folder.parent


def shown(settings: RunSettings, **changes):
    values = {p: forms.for_component(fields_of()[p], v) for p, v in forms.values_shown(settings).items()}
    return values | {path.replace("__", "."): value for path, value in changes.items()}


def look(**changes) -> Look:
    settings = with_values(RunSettings(), {path.replace("__", "."): value for path, value in changes.items()})
    return Look(settings, Previews().get(settings))


def test_an_empty_form_is_not_scolded_before_somebody_presses_train():
    values = shown(RunSettings())
    assert findings(values, all_required=False).errors == ()
    assert {p.path for p in findings(values).errors} >= {"model.base", "dataset.train_dir", "save.output_dir"}


def test_an_emptied_name_is_a_problem_at_once():
    found = findings(shown(RunSettings(), save__output_name=""), all_required=False)
    assert "save.output_name" in {problem.path for problem in found.errors}


def test_illegal_values_and_missing_folders_are_said_together():
    values = shown(RunSettings(), network__rank=0, dataset__train_dir="/no/such/folder", model__base="built-in")
    paths = {problem.path for problem in findings(values, all_required=False).errors}
    assert paths >= {"network.rank", "dataset.train_dir"}


def test_nothing_is_said_twice():
    found = findings(shown(RunSettings(), dataset__train_dir="/no/such/folder")).problems
    assert len({(p.path, p.message()) for p in found}) == len(found)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_problem_names_tab_field_and_cure(language):
    problem = Problem("train.learning_rate", "settings.at_least", {"limit": 1, "given": 0}, fix={"train.epochs": 3})
    (item,) = problem_items([problem], {"train.learning_rate": "parameters"}, language)
    assert item["tabLabel"]
    assert item["label"]
    assert "3" in item["fixLabel"]
    assert item["text"][0] == item["text"][0].upper()


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("value", [None, "", True, 0.5, "x" * 300])
def test_every_fix_can_be_read(language, value):
    (item,) = problem_items([Problem("a", "preflight.no_model", fix={"model.base": value})], {}, language)
    assert 0 < len(item["fixLabel"]) < 120


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_tree_and_the_steps(images, language):
    seen = look(dataset__train_dir=str(images), train__epochs=2, dataset__resolution="64")
    assert "20_usu bear" in folders_html(seen, language)
    assert "<b>120 " in summary_html(seen, language)
    assert "<b>" not in summary_html(look(), language)


def test_names_of_folders_are_text_not_html(images):
    (images / "20_usu bear").rename(images / "20_<b>bear")
    html = folders_html(look(dataset__train_dir=str(images), dataset__resolution="64"), "en")
    assert "&lt;b&gt;" in html
    assert "<b>bear" not in html


def test_new_images_are_seen_after_a_moment(images, monkeypatch):
    previews = Previews()
    settings = with_values(RunSettings(), {"dataset.train_dir": str(images), "dataset.resolution": "64"})
    assert previews.get(settings).plan.train_images == 3
    Image.new("RGB", (64, 64)).save(images / "20_usu bear" / "new.png")
    assert previews.get(settings).plan.train_images == 3
    monkeypatch.setattr("app.live._FRESH_SECONDS", -1)
    assert previews.get(settings).plan.train_images == 4


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_scale_is_spelled_out(language):
    assert "0.5" in scale_html(look(network__alpha=8.0, network__rank=16), language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_trained_is_said(language):
    both = trained_html(look(train__text_encoder_lr=5e-5), language)
    alone = trained_html(look(train__train_text_encoder=False), language)
    own = trained_html(look(optimizer__name="Adafactor"), language)
    assert "5e-05" in both
    assert len({both, alone, own}) == 3


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_models_card(tmp_path, language):
    broken = tmp_path / "<i>.safetensors"
    broken.write_bytes(b"nothing of use")
    card = model_html(look(model__base=str(broken)), language)
    assert "kb-bad" in card
    assert "<i>" not in card
    assert "kb-hint" in model_html(look(), language)
    assert "kb-ok" in model_html(look(model__base="owner/name", model__allow_download=True), language)


def test_a_folder_that_vanishes_is_no_crash(images):
    seen = look(dataset__train_dir=str(images), dataset__resolution="64")
    gone = replace(seen, found=Previews().get(with_values(seen.settings, {"dataset.train_dir": str(images / "gone")})))
    assert "kb-hint" in folders_html(gone, "en")


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_counts_the_layers_that_are_left(language):
    real = {"model__base": "x.safetensors"}
    assert "264" in layers_html(look(**real), language)
    some = layers_html(look(**real, network__include="attn2, /mlp_fc[12]$/", network__block_ranks="MID=4"), language)
    assert "88" in some  # 64 of the U-Net and 24 of the text encoder
    assert "4" in some.replace("264", "")
    assert "attn9" in layers_html(look(**real, network__exclude="attn9"), language)
    assert layers_html(look(model__base="built-in"), language) == ""
