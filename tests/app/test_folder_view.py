"""The folder browser shows what may be shown, and never more."""

import os
from pathlib import Path

import pytest

from app.folder_view import (
    Wanted,
    count_images,
    drawn,
    is_allowed,
    look,
    recent_folders,
    remember_folder,
    start_folder,
)
from lora_core.i18n import LANGUAGES

FOLDER = Wanted("folder")
MODEL = Wanted("either", (".safetensors",))


@pytest.fixture
def tree(tmp_path) -> Path:
    for name in ("20_usu bear", "絵 と 写真", ".hidden"):
        (tmp_path / "top" / name).mkdir(parents=True)
    for number in range(3):
        (tmp_path / "top" / "20_usu bear" / f"{number}.PNG").touch()
    (tmp_path / "top" / "model.safetensors").write_bytes(bytes(2**20))
    (tmp_path / "top" / "notes.txt").touch()
    (tmp_path / "other").mkdir()
    return tmp_path / "top"


def test_folders_with_their_images(tree):
    view = look(tree, FOLDER, "en", ())
    assert [folder["name"] for folder in view.folders] == ["20_usu bear", "絵 と 写真"]
    assert [folder["note"] for folder in view.folders] == ["3 images", ""]
    assert view.files == []


def test_files_only_with_the_wanted_endings(tree):
    view = look(tree, MODEL, "en", ())
    assert [(file["name"], file["note"]) for file in view.files] == [("model.safetensors", "1.0 MB")]


def test_images_one_level_down_count(tree):
    assert count_images(tree) == 3
    assert count_images(tree / "gone") == 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_everything_the_browser_draws_is_plain(tree, language):
    value = drawn(look(tree, FOLDER, language, ()), FOLDER, language, (), "title")
    assert value["path"] == str(tree)
    assert value["parent"] == str(tree.parent)
    assert value["crumbs"][-1]["name"] == "top"
    assert value["choosable"]
    assert all(value["words"].values())


def test_roots_are_the_end_of_the_world(tree):
    roots = (tree,)
    assert is_allowed(tree / "20_usu bear", roots)
    assert not is_allowed(tree.parent, roots)
    assert not is_allowed(tree / ".." / "other", roots)
    assert not is_allowed(Path(str(tree) + "2"), roots)
    assert look(tree.parent / "other", FOLDER, "en", roots).error
    value = drawn(look(tree, FOLDER, "en", roots), FOLDER, "en", roots, "")
    assert value["parent"] == ""
    assert [crumb["name"] for crumb in value["crumbs"]] == ["top"]
    assert start_folder(str(tree.parent / "other"), roots) == tree


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_do_not_lead_out(tree):
    (tree / "link").symlink_to(tree.parent / "other")
    assert not is_allowed(tree / "link", (tree,))


def test_it_begins_at_what_was_typed_or_the_nearest_folder_above(tree):
    assert start_folder(f'"{tree}"', ()) == tree
    assert start_folder(str(tree / "gone" / "deeper"), ()) == tree
    assert start_folder("", ()).is_dir()


def test_recent_folders_come_first_once(tree):
    for folder in (tree, tree / "20_usu bear", tree):
        remember_folder(folder)
    assert recent_folders()[:2] == [tree, tree / "20_usu bear"]
    assert start_folder("", ()) == tree


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_folder_that_cannot_be_read_says_so(tree, language):
    view = look(tree / "gone", FOLDER, language, ())
    assert view.error
    assert not drawn(view, FOLDER, language, (), "")["choosable"]
