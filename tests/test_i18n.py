"""Every word on the screen exists in every language, with the same placeholders, and is filled where it is used."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from string import Formatter

import pytest

from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES, catalogue, text
from lora_core.runs import PROJECT
from lora_core.settings.fields import fields_of

FOLDERS = [folder for folder in (PROJECT / "lora_core/locales", PROJECT / "app/locales") if folder.is_dir()]
SOURCES = sorted([*(PROJECT / "lora_core").rglob("*.py"), *(PROJECT / "app").rglob("*.py")])
per_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)


def placeholders(sentence: str) -> set[str]:
    """Names in braces. Those without a name would depend on the order of words and are not used."""
    names = {name for _, name, _, _ in Formatter().parse(sentence) if name is not None}
    assert all(re.match(r"[a-z_]+", name) for name in names), sentence
    return {re.split(r"[.\[]", name)[0] for name in names}


def written(folder: Path, language: str) -> dict[str, str]:
    """The texts of a language without labels and help of settings, whose English stands in the code."""
    return {key: words for key, words in catalogue(language, folder).items() if not _of_a_setting(key)}


def _of_a_setting(key: str) -> bool:
    path, _, kind = key.rpartition(".")
    return kind in ("label", "help") and path in fields_of() and not fields_of()[path].is_discriminator


def _of_a_union(key: str) -> bool:
    path, _, kind = key.rpartition(".")
    return kind == "label" and path in fields_of() and fields_of()[path].is_discriminator


@per_folder
def test_both_languages_have_the_same_texts(folder):
    english, japanese = (written(folder, language) for language in LANGUAGES)
    assert english.keys() == {key for key in japanese if not _of_a_union(key)}


@per_folder
def test_a_text_stands_in_files_of_the_same_name(folder):
    parts = [
        {p.name: set(tomllib.loads(p.read_text(encoding="utf-8"))) for p in (folder / x).glob("*.toml")}
        for x in LANGUAGES
    ]
    english, japanese = parts
    assert english.keys() == japanese.keys()
    for name, keys in english.items():
        assert keys <= japanese[name], name


@per_folder
def test_both_languages_have_the_same_placeholders(folder):
    english, japanese = (written(folder, language) for language in LANGUAGES)
    differing = {key for key in english if placeholders(english[key]) != placeholders(japanese[key])}
    assert not differing


@per_folder
@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_are_not_empty_and_keep_no_space_at_the_ends(folder, language):
    assert not {
        key for key, words in catalogue(language, folder).items() if not words.strip() or words != words.strip()
    }


@per_folder
def test_japanese_sentences_are_japanese(folder):
    english, japanese = (written(folder, language) for language in LANGUAGES)
    same = {key: re.sub(r"\{[^}]*\}", "", words) for key, words in english.items() if words == japanese[key]}
    examples = (".placeholder", ".example")  # what one could type is the same in every language
    assert not {
        key for key, words in same.items() if len(re.findall(r"[A-Za-z]{2,}", words)) > 3 and not key.endswith(examples)
    }


@per_folder
def test_japanese_uses_full_width_punctuation(folder):
    half_width = re.compile(r"[ぁ-ヿ一-龠] ?[(?!]|[ぁ-ヿ一-龠]: ")
    assert not {key: words for key, words in catalogue("ja", folder).items() if half_width.search(words)}


OTHER_NAMES = {
    "folder": r"フォルダー",
    "optimizer": r"オプティマイザ(?!ー)",
    "scheduler": r"スケジューラ(?!ー)",
    "encoder": r"エンコーダ(?!ー)",
    "source model": r"元モデル|ベースモデル",
    "bucket": r"バケット|バケツ",
}
"""Spellings that are not ours: フォルダ, オプティマイザー, スケジューラー, エンコーダー, ソースモデル, bucket are."""


@per_folder
@pytest.mark.parametrize("other", OTHER_NAMES.values(), ids=OTHER_NAMES)
def test_a_thing_has_one_japanese_name(folder, other):
    assert not {key for key, words in catalogue("ja", folder).items() if re.search(other, words)}


def test_the_two_catalogues_share_no_key():
    english = [set(catalogue("en", folder)) for folder in FOLDERS]
    assert not set.intersection(*english) or len(FOLDERS) == 1


@cache
def all_texts() -> dict[str, str]:
    return {key: words for folder in FOLDERS for key, words in catalogue("en", folder).items()}


def uses() -> Iterator[tuple[Path, int, str, set[str] | None]]:
    """Calls that name a text: file, line, key, and the names of the values given (None if that can't be seen)."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (found := _use(node)):
                yield path.relative_to(PROJECT), node.lineno, *found


_KEY_AT = {"UserError": 0, "text": 0, "say": 0, "Problem": 1, "warned": 1, "_error": 1, "_warning": 1}


def _use(call: ast.Call) -> tuple[str, set[str] | None] | None:
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    at = _KEY_AT.get(name)
    if at is None or len(call.args) <= at or not _is_key(call.args[at]):
        return None
    key = call.args[at].value
    if name in ("Problem", "warned"):
        return key, _names_in(_values_argument(call, at + 1))
    names = {keyword.arg for keyword in call.keywords}
    return key, None if None in names else names


def _values_argument(call: ast.Call, at: int) -> ast.expr | None:
    by_name = [keyword.value for keyword in call.keywords if keyword.arg == "values"]
    return call.args[at] if len(call.args) > at else by_name[0] if by_name else None


def _names_in(values: ast.expr | None) -> set[str] | None:
    """Keys of a dictionary written out; nothing given has none; anything else can't be seen."""
    if values is None:
        return set()
    written_out = isinstance(values, ast.Dict) and all(isinstance(key, ast.Constant) for key in values.keys)
    return {key.value for key in values.keys} if written_out else None


def _is_key(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and bool(re.fullmatch(r"\w+(\.\w+)+", node.value))
    )


USES = list(uses())


def test_every_text_that_is_used_exists():
    assert not [f"{path}:{line} {key}" for path, line, key, _ in USES if key not in all_texts()]


def test_every_placeholder_is_filled_where_a_text_is_used():
    missing = [
        (f"{path}:{line}", key, placeholders(all_texts()[key]) - given)
        for path, line, key, given in USES
        if key in all_texts() and given is not None and placeholders(all_texts()[key]) - given
    ]
    assert not missing


def test_every_text_is_used():
    """Its key stands in the code, or begins as a key that the code puts together does."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    beginnings = tuple(begin for begin in re.findall(r"f[\"']([\w.]+)\{", code) if "." in begin)
    endings = tuple(re.findall(r"f[\"']\{[^{}\"']+\}([\w.]+)[\"']", code))
    composed = {key for key in all_texts() if key.startswith(beginnings) or key.endswith(endings)}
    named = set(re.findall(r"[\"']([\w.]+)[\"']", code))
    assert not {key for key in all_texts().keys() - composed - named if ".choice." not in key}


def test_an_unknown_text_is_a_bug_that_shows():
    with pytest.raises(KeyError):
        text("no.such.text")


def test_an_error_speaks_both_languages_and_english_by_default():
    error = UserError("settings.file_missing", path="x.toml")
    assert str(error) == error.message("en") != error.message("ja")
    assert "x.toml" in error.message("ja")


def test_a_key_in_two_files_is_a_bug_that_shows(tmp_path):
    (tmp_path / "en").mkdir()
    for name in ("a.toml", "b.toml"):
        (tmp_path / "en" / name).write_text('"a.b" = "x"')
    with pytest.raises(ValueError, match=r"a\.b"):
        catalogue("en", tmp_path)
