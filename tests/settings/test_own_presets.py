"""Own presets: saved, found, applied, renamed, shared, deleted; nothing is lost without a word."""

import pytest

from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES
from lora_core.settings import RunSettings
from lora_core.settings.fields import unions_of, values_of
from lora_core.settings.overlay import with_values
from lora_core.settings.own_presets import (
    delete_preset,
    own_path,
    rename_preset,
    save_preset,
    sections,
    take_in,
    values_for,
)
from lora_core.settings.presets import (
    FOLDER,
    apply_preset,
    find_preset,
    list_own,
    list_presets,
    own_folder,
    read_preset,
)

MINE = with_values(
    RunSettings(),
    {
        "network.algo": "lokr",
        "network.factor": 8,
        "optimizer.name": "Prodigy",
        "train.learning_rate": 1.0,
        "train.max_grad_norm": None,
        "dataset.train_dir": "/pictures/mine",
        "save.output_name": "mine",
        "sample.prompts": "a\nb",
    },
)


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMAKOBO_HOME", str(tmp_path / "私の home"))


def saved(name: str = "Mine", settings: RunSettings = MINE, chosen=None, *, everything=False, yours=False, **options):
    chosen = sections() if chosen is None else chosen
    values = values_for(settings, chosen, everything=everything, yours=yours)
    return save_preset(name, "for me", values, chosen, **options)


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("name", ["Mine", "くまの設定 2", 'a/b: "c"', "con"])
def test_a_preset_gives_back_the_settings(name, everything):
    preset = saved(name, everything=everything, yours=True)
    assert apply_preset(RunSettings(), preset) == MINE
    assert preset.is_own
    assert {preset.title(language) for language in LANGUAGES} == {name}
    assert find_preset(preset.name) == preset
    assert own_path(preset.name).parent == own_folder()


def test_only_what_differs_is_written_and_what_is_the_persons_own_stays_out():
    preset = saved()
    assert preset.values["train.learning_rate"] == 1.0
    assert preset.values["network.algo"] == "lokr"
    assert "train.epochs" not in preset.values
    assert not {"dataset.train_dir", "save.output_name", "sample.prompts"} & preset.values.keys()
    assert saved("All", everything=True).values["train.epochs"] == RunSettings().train.epochs


@pytest.mark.parametrize("section", unions_of())
def test_a_preset_of_one_section_leaves_the_others(section):
    preset = saved(chosen=[section])
    before = with_values(RunSettings(), {"train.epochs": 3, "network.rank": 4, "optimizer.weight_decay": 0.3})
    after, mine, was = (values_of(settings) for settings in (apply_preset(before, preset), MINE, before))
    assert {p: v for p, v in after.items() if p.startswith(f"{section}.")} == {
        p: v for p, v in mine.items() if p.startswith(f"{section}.")
    }
    assert {p: v for p, v in after.items() if not p.startswith(f"{section}.")} == {
        p: v for p, v in was.items() if not p.startswith(f"{section}.")
    }


def test_an_own_preset_keeps_the_folders_of_the_page():
    page = with_values(RunSettings(), {"dataset.train_dir": "/pictures/other", "save.output_name": "other"})
    applied = apply_preset(page, saved())
    assert (str(applied.dataset.train_dir), applied.save.output_name) == ("/pictures/other", "other")


def test_nothing_is_written_over_without_being_allowed():
    saved()
    with pytest.raises(UserError, match="already"):
        saved(settings=RunSettings())
    assert find_preset("Mine").values["train.learning_rate"] == 1.0
    saved(settings=with_values(RunSettings(), {"train.epochs": 2}), overwrite=True)
    assert find_preset("Mine").values["train.epochs"] == 2


@pytest.mark.parametrize("name", ["", "  ", "...", "x" * 200, *[p.name for p in list_presets()[:1]]])
def test_names_that_can_not_be_used_are_refused(name):
    with pytest.raises(UserError):
        saved(name)
    assert list_own() == ([], [])


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_title_of_a_built_in_preset_is_taken(language):
    with pytest.raises(UserError, match="comes with Kumakobo"):
        saved(list_presets()[0].title(language))


def test_renaming_moves_the_file_and_never_over_another():
    first, second = saved("One"), saved("Two")
    with pytest.raises(UserError, match="already"):
        rename_preset(first, "Two")
    renamed = rename_preset(first, "三つ")
    assert [preset.title() for preset in list_own()[0]] == ["Two", "三つ"]
    assert renamed.values == first.values
    assert rename_preset(second, "two").title() == "two"
    assert len(list_own()[0]) == 2


def test_a_shared_file_comes_in_once(tmp_path):
    preset = saved()
    shared = tmp_path / "from a friend.toml"
    shared.write_bytes(own_path(preset.name).read_bytes())
    delete_preset(preset)
    assert list_own() == ([], [])
    assert take_in(shared).values == preset.values
    with pytest.raises(UserError, match="already"):
        take_in(shared)
    assert take_in(shared, overwrite=True).name == "Mine"


@pytest.mark.parametrize(
    "text", ["", "[train]\nepochs = 1\n", "not toml", '[preset]\nname="a"\nfor=""\n[train]\nx=1\n']
)
def test_what_is_no_preset_does_not_come_in(tmp_path, text):
    path = tmp_path / "a.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError):
        take_in(path)
    assert not list(own_folder().glob("*"))


def test_presets_that_come_along_are_never_taken_for_ones_own(monkeypatch):
    """Without KUMAKOBO_HOME the app's home is the program's own folder, which has a folder presets."""
    monkeypatch.delenv("KUMAKOBO_HOME")
    assert own_folder() != FOLDER
    assert not {preset.name for preset in list_own()[0]} & {preset.name for preset in list_presets()}


def test_a_broken_file_spoils_no_list():
    saved()
    (own_folder() / "broken.toml").write_text("[", encoding="utf-8")
    presets, (error,) = list_own()
    assert [preset.name for preset in presets] == ["Mine"]
    assert "broken.toml" in str(error)


@pytest.mark.parametrize("name", ["../settings", "gone", "/etc/passwd"])
def test_only_own_presets_can_be_meant(name):
    with pytest.raises(UserError):
        own_path(name)


def test_a_preset_with_one_text_for_all_languages_reads(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('[preset]\nname = "私の"\nfor = ""\n[train]\nepochs = 2\n', encoding="utf-8")
    assert read_preset(path).title("en") == read_preset(path).title("ja") == "私の"
