"""Which folders and images are found, and what is said about the rest."""

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from lora_core.data.folders import Scan, scan
from lora_core.data.layout import FolderName, numbered
from lora_core.data.wording import enumerated
from lora_core.i18n import LANGUAGES
from lora_core.settings import DatasetSettings


def look(train_dir: Path | None, **settings) -> Scan:
    return scan(DatasetSettings(train_dir=train_dir, **settings))


def keys(found: Scan) -> list[str]:
    for problem in found.problems:
        for language in LANGUAGES:
            assert problem.message(language)
    return [problem.key for problem in found.problems]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("20_usu bear", FolderName(20, "usu bear")),
        ("1_bear", FolderName(1, "bear")),
        ("5_my_own_bear", FolderName(5, "my_own_bear")),
        ("3_うさぎ", FolderName(3, "うさぎ")),
        ("30", FolderName(30, "")),
        ("7_", FolderName(7, "")),
        ("0_bear", None),
        ("-2_bear", None),
        ("1.5_bear", None),
        ("bear_20", None),
        ("20 bear", None),
        ("", None),
    ],
)
def test_folder_names(name, expected):
    assert numbered(name) == expected


def test_numbered_folders_in_order_of_name(make_folder, tmp_path):
    make_folder("train/5_usu cat", 1)
    make_folder("train/20_usu bear", 3, captions=["usu bear, sitting", "usu bear"])
    make_folder("reg/1_bear", 2)
    found = look(tmp_path / "train", reg_dir=tmp_path / "reg")
    assert [(s.name, s.repeats, s.class_tokens, s.is_reg, len(s.images), s.captions) for s in found.subsets] == [
        ("20_usu bear", 20, "usu bear", False, 3, 2),
        ("5_usu cat", 5, "usu cat", False, 1, 0),
        ("1_bear", 1, "bear", True, 2, 0),
    ]
    assert found.ok
    assert not found.problems
    assert found.subsets[0].line("en") == "20_usu bear: 20 × 3 images, 2 captions"
    assert "正則化" in found.reg[0].line("ja")


def test_endings_in_any_case_sorted_hidden_left_out(make_folder, tmp_path):
    folder = make_folder("train/2_bear", 0)
    for name in ["b.PNG", "a.JpG", "c.jpeg", "d.WebP", "e.bmp", "f.AVIF", ".hidden.png", "._a.jpg"]:
        (folder / name).write_bytes(b"scan looks at names only")
    make_folder("train/2_bear/.kumakobo", 1)
    make_folder("train/.3_hidden", 1)
    (folder / "a.TXT").write_text("caption")
    found = look(tmp_path / "train")
    assert [image.path.name for image in found.subsets[0].images] == [
        "a.JpG",
        "b.PNG",
        "c.jpeg",
        "d.WebP",
        "e.bmp",
        "f.AVIF",
    ]
    assert found.subsets[0].images[0].caption_path == folder / "a.TXT"
    assert len(found.subsets) == 1
    assert not found.problems


def test_captions_with_the_chosen_ending(make_folder, tmp_path):
    make_folder("train/2_bear", 2, captions=["a", "b"], caption_ending=".caption")
    assert look(tmp_path / "train", caption_extension=".caption").subsets[0].captions == 2
    found = look(tmp_path / "train")
    assert found.subsets[0].captions == 0
    assert keys(found) == ["data.caption_ending"]
    assert found.problems[0].fix == {"dataset.caption_extension": ".caption"}


def test_caption_of_a_face_crop(make_folder, tmp_path):
    folder = make_folder("train/2_bear", 0)
    Image.new("RGB", (8, 8)).save(folder / "photo_10_20_30_40.png")
    (folder / "photo.txt").write_text("a bear")
    found = look(tmp_path / "train")
    assert found.subsets[0].images[0].caption_path == folder / "photo.txt"
    assert not found.problems


def test_captions_without_an_image(make_folder, tmp_path):
    folder = make_folder("train/2_bear", 1, captions=["a bear", "a bear that is not there"])
    found = look(tmp_path / "train")
    assert keys(found) == ["data.captions_without_image"]
    assert str(folder) in found.problems[0].message("en")


def test_a_note_is_no_caption(make_folder, tmp_path):
    folder = make_folder("train/2_bear", 2)
    (folder / "readme.txt").write_text("drawn by me")
    assert not look(tmp_path / "train").problems


class TestPlainFolder:
    def test_asks_for_trigger_words(self, make_folder):
        found = look(make_folder("my bears", 3))
        assert [(s.repeats, s.class_tokens, len(s.images)) for s in found.subsets] == [(1, "", 3)]
        assert keys(found) == ["data.trigger_words_missing"]
        assert found.problems[0].path == "dataset.trigger_words"
        assert not found.ok

    def test_with_trigger_words(self, make_folder):
        found = look(make_folder("my bears", 3), trigger_words=" usu bear ")
        assert found.subsets[0].class_tokens == "usu bear"
        assert not found.problems

    def test_captions_do_without(self, make_folder):
        assert not look(make_folder("my bears", 2, captions=["usu bear", "usu bear"])).problems

    def test_some_captions_missing_is_a_warning(self, make_folder):
        found = look(make_folder("my bears", 2, captions=["usu bear"]))
        assert keys(found) == ["data.trigger_words_missing"]
        assert found.ok

    def test_a_year_is_not_repeats(self, make_folder):
        found = look(make_folder("2023", 2), trigger_words="usu bear")
        assert [(s.repeats, s.class_tokens) for s in found.subsets] == [(1, "usu bear")]


class TestChildChosen:
    def test_used_as_it_is_and_the_parent_offered(self, make_folder, tmp_path):
        found = look(make_folder("train/20_usu bear", 2))
        assert [(s.repeats, s.class_tokens) for s in found.subsets] == [(20, "usu bear")]
        assert keys(found) == ["data.child_chosen"]
        assert found.problems[0].fix == {"dataset.train_dir": str(tmp_path / "train")}
        assert found.ok

    def test_siblings_are_named_not_trained(self, make_folder):
        child = make_folder("train/20_usu bear", 2)
        make_folder("train/10_usu cat", 2)
        make_folder("train/other", 2)
        found = look(child)
        assert [s.name for s in found.subsets] == ["20_usu bear"]
        assert keys(found) == ["data.child_chosen_siblings"]
        assert "10_usu cat" in found.problems[0].message("en")
        assert "other" not in found.problems[0].values["siblings"]

    def test_the_fix_gives_the_same_subset(self, make_folder):
        child = look(make_folder("train/20_usu bear", 2))
        assert look(Path(child.problems[0].fix["dataset.train_dir"])).subsets == child.subsets

    def test_of_regularisation(self, make_folder, tmp_path):
        make_folder("train/20_usu bear", 2)
        found = look(tmp_path / "train", reg_dir=make_folder("reg/1_bear", 2))
        assert found.problems[0].fix == {"dataset.reg_dir": str(tmp_path / "reg")}
        assert found.reg[0].class_tokens == "bear"

    def test_two_neighbours_are_meant_as_they_are(self, make_folder):
        found = look(make_folder("all/20_usu bear", 2), reg_dir=make_folder("all/1_bear", 2))
        assert [(s.name, s.is_reg) for s in found.subsets] == [("20_usu bear", False), ("1_bear", True)]
        assert not found.problems


class TestNothingFound:
    def test_no_folder_chosen(self):
        assert keys(look(None)) == ["data.no_folder"]

    def test_missing_folder_tells_where_the_way_ends(self, tmp_path):
        found = look(tmp_path / "no" / "such")
        assert keys(found) == ["data.folder_missing"]
        assert found.problems[0].values["exists"] == tmp_path

    def test_a_file(self, make_folder):
        folder = make_folder("bears", 1)
        found = look(folder / "00.png")
        assert keys(found) == ["data.folder_is_file"]
        assert found.problems[0].fix == {"dataset.train_dir": str(folder)}

    def test_empty(self, tmp_path):
        assert keys(look(tmp_path)) == ["data.no_images"]

    def test_only_an_empty_numbered_folder(self, make_folder, tmp_path):
        make_folder("train/20_usu bear", 0)
        assert keys(look(tmp_path / "train")) == ["data.no_images"]

    def test_unreadable(self, tmp_path, monkeypatch):
        def refuse(_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("os.scandir", refuse)
        assert keys(look(tmp_path)) == ["data.folder_unreadable"]

    def test_the_folder_above_kohyas_img(self, make_folder, tmp_path):
        make_folder("project/img/20_usu bear", 1)
        make_folder("project/reg/1_bear", 1)
        make_folder("project/log", 0)
        found = look(tmp_path / "project", reg_dir=tmp_path / "project")
        assert keys(found) == ["data.images_below"] * 2
        assert found.problems[0].fix == {"dataset.train_dir": str(tmp_path / "project" / "img")}
        assert found.problems[1].fix == {"dataset.reg_dir": str(tmp_path / "project" / "reg")}

    def test_several_unnumbered_folders(self, make_folder, tmp_path):
        make_folder("train/bears", 1)
        make_folder("train/cats", 1)
        found = look(tmp_path / "train")
        assert keys(found) == ["data.images_in_folders"]
        assert "bears, cats" in found.problems[0].message("ja")

    def test_only_formats_that_are_not_read(self, tmp_path):
        (tmp_path / "IMG_1.HEIC").touch()
        assert keys(look(tmp_path)) == ["data.only_unread_pictures"]


class TestOddities:
    """Found beside good images: said, and no reason not to start."""

    @pytest.fixture
    def root(self, make_folder, tmp_path) -> Path:
        make_folder("train/20_usu bear", 2)
        return tmp_path / "train"

    @pytest.mark.parametrize(
        ("name", "count", "key"),
        [
            ("train/10_empty", 0, "data.folder_empty"),
            ("train/cats", 1, "data.folders_not_numbered"),
            ("train/0_cats", 1, "data.folders_not_numbered"),
            ("train", 1, "data.loose_images"),
            ("train/20_usu bear/more", 1, "data.nested_images"),
            ("train/2023_summer", 1, "data.many_repeats"),
        ],
    )
    def test_folders(self, root, make_folder, name, count, key):
        make_folder(name, count)
        found = look(root)
        assert keys(found) == [key]
        assert found.ok
        assert "20_usu bear" in [subset.name for subset in found.subsets]

    def test_pictures_that_are_not_read(self, root):
        (root / "20_usu bear" / "x.gif").touch()
        (root / "20_usu bear" / "notes.json").touch()
        found = look(root)
        assert keys(found) == ["data.unread_pictures"]
        assert "x.gif" in found.problems[0].message("ja")

    def test_trigger_words_beside_a_folder_that_has_its_own(self, root):
        assert keys(look(root, trigger_words="my bear")) == ["data.trigger_words_not_used"]
        assert not look(root, trigger_words="usu bear").problems


def test_a_bare_number_takes_the_trigger_words(make_folder, tmp_path):
    make_folder("train/30", 1)
    found = look(tmp_path / "train", trigger_words="usu bear")
    assert [(s.repeats, s.class_tokens) for s in found.subsets] == [(30, "usu bear")]
    assert not found.problems


def test_regularisation_without_words(make_folder, tmp_path):
    make_folder("train/20_usu bear", 1)
    found = look(tmp_path / "train", reg_dir=make_folder("class pictures", 1))
    assert keys(found) == ["data.reg_words_missing"]
    assert not found.ok


def test_regularisation_inside_the_training_folder(make_folder, tmp_path):
    make_folder("train/20_usu bear", 1)
    reg = make_folder("train/1_bear", 1)
    assert "data.reg_is_train" in keys(look(tmp_path / "train", reg_dir=tmp_path / "train"))
    assert "data.reg_is_train" in keys(look(tmp_path / "train", reg_dir=reg))


def test_words_are_the_same_however_a_system_writes_them(make_folder, tmp_path):
    make_folder("train/20_" + unicodedata.normalize("NFD", "ガ"), 1)
    assert look(tmp_path / "train").subsets[0].class_tokens == unicodedata.normalize("NFC", "ガ")


def test_order_does_not_hang_on_the_file_system(make_folder, tmp_path, monkeypatch):
    for name in ["3_c", "1_a", "2_b"]:
        make_folder(f"train/{name}", 3)
    expected = look(tmp_path / "train")
    real = __import__("os").scandir

    class Backwards:
        def __init__(self, path):
            with real(path) as entries:
                self.entries = list(entries)[::-1]

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr("os.scandir", Backwards)
    assert look(tmp_path / "train") == expected
    assert [s.name for s in expected.subsets] == ["1_a", "2_b", "3_c"]


def test_enumerated_names_a_few_and_counts_the_rest():
    assert enumerated("ab") == "a, b"
    assert enumerated("abcdef") == "a, b, c, … (+3)"
