"""Reading caption files, and what becomes of a caption at each showing."""

import random

import pytest

from lora_core.data.captions import caption_for, read_caption, tags_of
from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES
from lora_core.settings import DatasetSettings

TAGS = "usu bear, sitting, red hat, smile, outdoors"


def shown(text: str = TAGS, seed: int = 0, epoch: int = 1, **options) -> str:
    return caption_for(text, DatasetSettings(**options), random.Random(seed), epoch)


@pytest.mark.parametrize(
    ("data", "text", "keys"),
    [
        (b"usu bear, sitting", "usu bear, sitting", []),
        (b"  usu bear \r\n", "usu bear", []),
        (b"\xef\xbb\xbfusu bear", "usu bear", []),
        ("うす熊、座る".encode(), "うす熊、座る", []),
        ("usu bear".encode("utf-16"), "usu bear", []),
        ("うす熊、座る".encode("cp932"), "うす熊、座る", ["data.caption_shift_jis"]),
        (b"", "", []),
        (b" \n\n", "", []),
        (b"\n\nusu bear\n", "usu bear", []),
        (b"usu bear\nin a hat", "usu bear", ["data.caption_many_lines"]),
    ],
)
def test_reading(tmp_path, data, text, keys):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    caption = read_caption(path)
    assert caption.text == text
    assert [problem.key for problem in caption.problems] == keys
    assert all(problem.severity == "warning" for problem in caption.problems)


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00\xff", "data.caption_encoding"),
        (b"bear\x00\x01", "data.caption_encoding"),
        (None, "data.caption_unreadable"),
    ],
)
def test_what_is_no_caption_is_named(tmp_path, data, key):
    path = tmp_path / "a.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_caption(path)
    assert caught.value.key == key
    assert all(str(path) in caught.value.message(language) for language in LANGUAGES)


def test_unchanged_without_options():
    assert shown("  as it is, ,written ,") == "  as it is, ,written ,"


def test_prefix_and_suffix():
    assert shown("bear", caption_prefix="photo of", caption_suffix=", snow") == "photo of bear , snow"
    assert shown("", caption_prefix="usu") == "usu"


def test_shuffle_keeps_the_tags_and_the_first_ones_in_place():
    results = {shown(seed=seed, shuffle_caption=True, keep_tokens=2) for seed in range(40)}
    assert len(results) == 6
    for result in results:
        assert result.split(", ")[:2] == ["usu bear", "sitting"]
        assert sorted(result.split(", ")) == sorted(TAGS.split(", "))


def test_prefix_is_shuffled_unless_kept():
    """Order of operations: the prefix is part of the caption before tags are counted."""
    for seed in range(20):
        assert shown(seed=seed, shuffle_caption=True, keep_tokens=1, caption_prefix="photo,").startswith("photo, ")


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_dropout_takes_its_share(rate):
    dropped = sum(shown(seed=seed, caption_dropout_rate=rate, caption_prefix="p") == "" for seed in range(2000))
    assert dropped / 2000 == pytest.approx(rate, abs=0.04)


def test_dropout_every_n_epochs():
    assert [shown(epoch=epoch, caption_dropout_every_n_epochs=3) == "" for epoch in range(1, 8)] == [
        False, False, True, False, False, True, False,
    ]  # fmt: skip


def test_a_function_of_its_arguments():
    options = {"shuffle_caption": True, "caption_dropout_rate": 0.3, "keep_tokens": 1}
    assert [shown(seed=s, **options) for s in range(30)] == [shown(seed=s, **options) for s in range(30)]


def test_shuffle_does_not_hang_on_the_dropout_rate():
    for seed in range(50):
        with_dropout = shown(seed=seed, shuffle_caption=True, caption_dropout_rate=0.3)
        assert with_dropout in ("", shown(seed=seed, shuffle_caption=True))


def test_tags_are_counted_in_lower_case():
    assert tags_of(" Usu Bear,, sitting , ") == ["usu bear", "sitting"]
