"""First LoRA: the rule, the words, the dataset file, and pictures that stay as they are."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lora_core.checks import combination_problems
from lora_core.data.folders import scan
from lora_core.errors import UserError
from lora_core.guides.first_lora import (
    FEWEST_EPOCHS,
    MOST_EPOCHS,
    Wish,
    epochs_for,
    lay_out,
    plan_of,
    preflight,
    propose,
    repeats_for,
)
from lora_core.plan import preview
from lora_core.preflight import check
from lora_core.runs import PROJECT
from lora_core.settings import RunSettings
from lora_core.settings.overlay import with_values

WITH_MODEL = with_values(RunSettings(), {"model.base": "built-in"})


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def pictures(tmp_path):
    """Makes a folder of pictures: ``pictures(12, "usu", caption="a bear")``."""

    def make(count: int, name: str = "絵 folder", caption: str = "", ending: str = ".txt") -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / f"{number}.png")
            if caption:
                (folder / f"{number}{ending}").write_text(caption, encoding="utf-8")
        return folder

    return make


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("aim", [360, 1000, 2000])
@pytest.mark.parametrize("batch", [1, 2, 8])
@pytest.mark.parametrize("count", [2, 7, 20, 40, 100])
def test_repeats_come_as_near_to_the_aim_as_whole_numbers_can(count, batch, aim):
    epochs = 10
    chosen = repeats_for(count, epochs, batch, aim)

    def off(repeats: int) -> float:
        return abs(count * repeats * epochs / batch - aim)

    assert off(chosen) == min(off(repeats) for repeats in range(1, 1001))


@pytest.mark.parametrize("shown", [1, 30, 500, 100_000])
def test_epochs_come_as_near_to_the_aim_as_makes_sense(shown):
    chosen = epochs_for(shown, 2, 1000)
    steps = {epochs: abs(shown * epochs / 2 - 1000) for epochs in range(FEWEST_EPOCHS, MOST_EPOCHS + 1)}
    assert steps[chosen] == min(steps.values())


def test_a_plain_folder_trains_by_a_dataset_file_and_stays_as_it_is(pictures, home):
    folder = pictures(12)
    before = contents(folder)
    proposal = propose(Wish(folder, " usu ", "bear"), WITH_MODEL, None)
    settings = lay_out(proposal, WITH_MODEL)
    assert contents(folder) == before
    assert settings.dataset.train_dir is None
    assert settings.dataset.config.is_relative_to(home / "guides")
    (subset,) = scan(settings.dataset).subsets
    assert (subset.folder, subset.class_tokens) == (folder, "usu bear")
    assert (len(subset.images), subset.repeats) == (12, proposal.repeats)
    assert preview(settings).plan.total_steps == plan_of(proposal).total_steps == proposal.steps == 360
    assert settings.save.output_name == "usu_bear"
    assert [problem.message() for problem in check(settings)] == []


def test_pictures_added_later_are_found(pictures):
    folder = pictures(4)
    settings = lay_out(propose(Wish(folder, "usu"), WITH_MODEL, None), WITH_MODEL)
    Image.new("RGB", (64, 64)).save(folder / "new.png")
    assert sum(len(subset.images) for subset in scan(settings.dataset).subsets) == 5


def test_a_dreambooth_folder_is_used_as_its_names_say(pictures, tmp_path):
    root = pictures(12, "img/10_usu bear").parent
    proposal = propose(Wish(root), WITH_MODEL, None)
    assert (proposal.trigger, proposal.class_word, proposal.repeats) == ("usu", "bear", 10)
    settings = lay_out(proposal, WITH_MODEL)
    assert (settings.dataset.train_dir, settings.dataset.config) == (root, None)
    assert preview(settings).plan.total_steps == plan_of(proposal).total_steps == 360
    assert propose(Wish(tmp_path / "img"), WITH_MODEL, None).epochs == 12


@pytest.mark.parametrize("change", [{"repeats": 3}, {"trigger": "kuma", "class_word": "bear"}])
def test_what_is_answered_wins_over_the_name_of_the_folder(pictures, change):
    root = pictures(12, "img/10_usu bear").parent
    proposal = propose(Wish(root, **change), WITH_MODEL, None)
    (subset,) = scan(lay_out(proposal, WITH_MODEL).dataset).subsets
    assert (subset.repeats, subset.class_tokens) == (proposal.repeats, proposal.words)
    assert (proposal.repeats == 3) == ("repeats" in change)


def test_the_numbered_folder_itself_is_no_mistake_here(pictures):
    folder = pictures(6, "10_usu bear")
    proposal = propose(Wish(folder), WITH_MODEL, None)
    assert [problem.key for problem in preflight(proposal)] == []
    assert scan(lay_out(proposal, WITH_MODEL).dataset).subsets[0].repeats == 10


def test_pictures_one_folder_further_down_are_found(pictures, tmp_path):
    pictures(6, "set/img/10_usu bear")
    (tmp_path / "set" / "log").mkdir()
    assert propose(Wish(tmp_path / "set"), WITH_MODEL, None).pictures.folder == tmp_path / "set" / "img"


def test_several_folders_keep_their_repeats(pictures, tmp_path):
    pictures(4, "img/10_usu bear")
    pictures(8, "img/2_usu cub")
    proposal = propose(Wish(tmp_path / "img"), WITH_MODEL, None)
    assert (proposal.repeats, proposal.shown) == (None, 56)
    assert proposal.epochs == epochs_for(56, 4, 360)
    settings = lay_out(proposal, WITH_MODEL)
    assert {subset.repeats for subset in scan(settings.dataset).subsets} == {10, 2}
    assert [problem.message() for problem in check(settings)] == []


@pytest.mark.parametrize(
    ("caption", "prefix"), [("a bear, sitting", "usu bear,"), ("Usu, sitting", ""), ("usu bear", "")]
)
def test_captions_without_the_trigger_word_get_it_while_training(pictures, caption, prefix):
    folder = pictures(6, caption=caption)
    proposal = propose(Wish(folder, "usu", "bear"), WITH_MODEL, None)
    assert proposal.prefix == prefix
    assert ("guides.prefix" in {note.key for note in proposal.notes}) == bool(prefix)
    settings = lay_out(proposal, WITH_MODEL)
    assert scan(settings.dataset).subsets[0].options.caption_prefix == prefix
    assert settings.dataset.caption_prefix == ""
    assert (folder / "0.txt").read_text(encoding="utf-8") == caption


def test_the_ending_of_the_captions_is_found(pictures):
    folder = pictures(3, caption="usu", ending=".caption")
    settings = lay_out(propose(Wish(folder, "usu"), WITH_MODEL, None), WITH_MODEL)
    assert settings.dataset.caption_extension == ".caption"
    assert scan(settings.dataset).subsets[0].captions == 3


def test_regularisation_comes_along_the_second_time_too(pictures, tmp_path):
    folder = pictures(6)
    pictures(3, "reg/1_bear")
    before = with_values(WITH_MODEL, {"dataset.reg_dir": tmp_path / "reg"})
    for _ in range(2):
        settings = lay_out(propose(Wish(folder, "usu", "bear"), before, None), before)
        assert settings.dataset.reg_dir is None
        (reg,) = scan(settings.dataset).reg
        assert (reg.folder, reg.is_reg, len(reg.images)) == (tmp_path / "reg" / "1_bear", True, 3)
        before = settings


def test_a_dataset_file_that_was_edited_stays(pictures):
    wish = Wish(pictures(6), "usu", "bear")
    first = lay_out(propose(wish, WITH_MODEL, None), WITH_MODEL).dataset.config
    assert lay_out(propose(wish, WITH_MODEL, None), WITH_MODEL).dataset.config == first
    first.write_text("# mine\n" + first.read_text(encoding="utf-8").replace("60", "7"), encoding="utf-8")
    edited = first.read_bytes()
    second = lay_out(propose(wish, WITH_MODEL, None), WITH_MODEL).dataset.config
    assert second != first
    assert first.read_bytes() == edited


def test_prompts_that_somebody_wrote_stay_and_ours_follow_the_words(pictures):
    folder = pictures(6)
    mine = with_values(WITH_MODEL, {"sample.prompts": "a park --d 3"})
    assert propose(Wish(folder, "usu"), mine, None).settings.sample.prompts == "a park --d 3"
    first = propose(Wish(folder, "usu", "bear"), WITH_MODEL, None).settings
    assert first.sample.prompts.splitlines() == ["usu bear", "usu bear, on a beach", "bear"]
    again = propose(Wish(folder, "kuma", "bear"), first, None).settings
    assert again.sample.prompts.splitlines()[0] == "kuma bear"


def test_a_file_that_is_there_is_not_in_the_way(pictures, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "usu.safetensors").write_bytes(b"")
    before = with_values(WITH_MODEL, {"save.output_dir": out})
    proposal = propose(Wish(pictures(6), "usu"), before, None)
    assert proposal.settings.save.output_name != "usu"
    assert [problem.key for problem in preflight(proposal)] == []


def test_what_was_trained_before_is_not_trained_too(pictures, tmp_path):
    before = with_values(
        WITH_MODEL, {"dataset.config": tmp_path / "other.toml", "dataset.pair_before": tmp_path / "a.png"}
    )
    settings = lay_out(propose(Wish(pictures(6), "usu"), before, None), before)
    assert settings.dataset.pair_before is None
    assert settings.dataset.config != tmp_path / "other.toml"


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "flux"])
@pytest.mark.parametrize("kind", ["character", "style", "object"])
def test_every_family_and_purpose_has_settings_that_fit_together(pictures, family, kind):
    before = with_values(RunSettings(), {"model.family": family})
    proposal = propose(Wish(pictures(20), "usu", "bear", kind=kind), before, 24.0)
    assert proposal.settings.model.family == family
    assert combination_problems(proposal.settings) == []
    assert abs(proposal.steps - proposal.aim) <= proposal.aim / 4
    saves = proposal.settings.train.epochs / proposal.settings.save.save_every_n_epochs
    assert 4 <= saves <= 20


def test_many_pictures_are_shown_once_in_fewer_epochs(pictures):
    before = with_values(RunSettings(), {"model.family": "sd1"})
    proposal = propose(Wish(pictures(400), "usu", "style", kind="style"), before, 24.0)
    assert proposal.repeats == 1
    assert FEWEST_EPOCHS <= proposal.epochs < 20


BAD = {
    "no folder": (Wish(None, "usu"), {}, "data.no_folder"),
    "no pictures": (Wish(Path("empty"), "usu"), {}, "data.no_images"),
    "no such folder": (Wish(Path("gone"), "usu"), {}, "data.folder_missing"),
    "one picture": (Wish(Path("one"), "usu"), {}, "guides.one_picture"),
    "no trigger": (Wish(Path("some"), " ", "bear"), {}, "guides.no_trigger"),
    "trigger is class": (Wish(Path("some"), "Bear", "bear"), {}, "guides.trigger_is_class"),
    "preset of another family": (Wish(Path("some"), "usu", preset="sdxl_8gb"), {}, "guides.other_family"),
    "no repeats": (Wish(Path("some"), "usu", repeats=0), {}, "guides.number"),
    "a LoRA as model": (Wish(Path("some"), "usu"), {"model.base": "lora"}, "guides.no_model_file"),
}


@pytest.mark.parametrize(("wish", "changes", "key"), BAD.values(), ids=BAD)
def test_what_cannot_be_used_is_answered_in_words(pictures, tmp_path, monkeypatch, wish, changes, key):
    pictures(1, "one"), pictures(3, "some"), (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    if changes:
        changes = {"model.base": str(_lora(tmp_path))}
    with pytest.raises(UserError) as refused:
        propose(wish, with_values(WITH_MODEL, changes), None)
    assert refused.value.key == key
    assert refused.value.message("en") != refused.value.message("ja")


def _lora(folder: Path) -> Path:
    import numpy
    from safetensors.numpy import save_file

    path = folder / "lora.safetensors"
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    sides = {"lora_down.weight": (4, 320), "lora_up.weight": (320, 4)}
    save_file({f"{name}.{end}": numpy.zeros(shape, numpy.float16) for end, shape in sides.items()}, path)
    return path


def test_guides_and_the_check_of_a_model_load_no_torch(pictures):
    folder = pictures(3)
    code = (
        "import sys; from pathlib import Path; from lora_core.guides.first_lora import *; "
        "s = with_values(RunSettings(), {'model.base': 'built-in'}); "
        f"p = propose(Wish(Path({str(folder)!r}), 'usu'), s, None); preflight(p); plan_of(p); lay_out(p, s); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
