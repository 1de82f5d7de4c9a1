"""Reading and writing the dataset file from the page: only when asked, and never over what was there before."""

import tomllib
from types import SimpleNamespace

import pytest

from app.dataset_table import read_rows, save_rows
from app.tabs import folders
from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES

ROW = ["", "bears", "10", "usu bear", False, "512", "", ""]


def test_a_new_table_becomes_a_file_and_is_read_again(tmp_path):
    path = tmp_path / "熊 データ" / "dataset.toml"
    saved = save_rows(f'"{path}"', [ROW], (), "en")
    assert (saved.path, saved.before) == (path, None)
    assert read_rows(str(path), ()) == [["1-1", *ROW[1:]]]
    assert read_rows(str(tmp_path / "none.toml"), ()) is None
    assert read_rows("", ()) is None


def test_the_file_as_it_was_is_kept(tmp_path):
    path = tmp_path / "d.toml"
    old = '# mine\n[general]\nkeep_tokens = 1\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"\n'
    path.write_text(old, encoding="utf-8")
    rows = read_rows(str(path), ())
    rows[0][2] = "5"
    saved = save_rows(str(path), rows, (), "en")
    assert saved.before.read_text(encoding="utf-8") == old
    now = tomllib.loads(path.read_text(encoding="utf-8"))
    assert now == {"general": {"keep_tokens": 1}, "datasets": [{"subsets": [{"image_dir": "a", "num_repeats": 5}]}]}
    assert save_rows(str(path), rows, (), "en").before is None  # nothing changed


@pytest.mark.parametrize(
    ("name", "rows", "key"),
    [
        ("", [ROW], "settings.table_no_file"),
        ("d.txt", [ROW], "settings.save_kind"),
        ("d.toml", [["", "", "", "", False, "", "", ""]], "settings.table_empty"),
        ("d.toml", [["", "bears", "many", "", False, "", "", ""]], "settings.table_problems"),
    ],
)
def test_what_can_not_be_saved_is_said_and_nothing_written(tmp_path, name, rows, key):
    with pytest.raises(UserError) as caught:
        save_rows(str(tmp_path / name) if name else "", rows, (), "ja")
    assert caught.value.key == key
    assert all(caught.value.message(language) for language in LANGUAGES)
    assert list(tmp_path.iterdir()) == []


def test_a_page_of_others_stays_inside_its_folders(tmp_path):
    (tmp_path / "in").mkdir()
    for call in (
        lambda: read_rows(str(tmp_path / "d.toml"), (tmp_path / "in",)),
        lambda: save_rows(str(tmp_path / "d.toml"), [ROW], (tmp_path / "in",), "en"),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert caught.value.key == "settings.table_not_allowed"


def test_the_table_follows_the_named_file_and_says_what_is_wrong(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(folders, "warn", said.append)
    monkeypatch.setattr(folders, "info", said.append)
    table = folders.Table(SimpleNamespace(context=SimpleNamespace(roots=())))
    japanese = SimpleNamespace(cookies={}, headers={"accept-language": "ja"})
    path = tmp_path / "d.toml"
    assert "value" not in table.follow(str(path), japanese)  # not there yet: what is being filled in stays
    shown = table.save(str(path), [ROW], japanese)
    assert (shown["value"], shown["headers"][1]) == ([["1-1", *ROW[1:]]], "フォルダ")
    assert table.follow(str(path), None)["value"] == shown["value"]
    path.write_text("[[datasets", encoding="utf-8")
    assert "value" not in table.follow(str(path), japanese)
    table.read(str(path), japanese)
    table.save(str(path), [ROW], japanese)
    assert len(said) == 3
    assert path.read_text(encoding="utf-8") == "[[datasets"
