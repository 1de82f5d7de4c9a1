"""Reading caption files, and what becomes of a caption at each showing."""

import random

import pytest

from lora_core.data.captions import caption_for, read_caption, replace_wildcards, tags_of
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


# ---- Tags in front, behind and between; wildcards; the order of sd-scripts -------------------------------------------

MARKED = "usu bear ||| sitting, red hat, smile ||| photo, best"


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("a, b", {}, "a, b"),
        ("a ||| b, c", {"keep_tokens_separator": "|||"}, "a, b, c"),
        ("a ||| b ||| c", {"keep_tokens_separator": "|||"}, "a, b, c"),
        ("a;;;b, c", {"secondary_separator": ";;;"}, "a,b, c"),
        ("a;;;b. c", {"secondary_separator": ";;;", "caption_separator": "."}, "a.b. c"),
        ("a. b.c", {"caption_separator": ".", "caption_tag_dropout_rate": 1e-12}, "a, b, c"),
        ("a.b", {"caption_separator": "", "caption_tag_dropout_rate": 1e-12}, "a.b"),
        ("a, b, c", {"caption_tag_dropout_rate": 1.0, "keep_tokens": 2}, "a, b"),
        (MARKED, {"caption_tag_dropout_rate": 1.0, "keep_tokens_separator": "|||"}, "usu bear, photo, best"),
        # the mark counts instead of the number
        (
            MARKED,
            {"caption_tag_dropout_rate": 1.0, "keep_tokens_separator": "|||", "keep_tokens": 3},
            "usu bear, photo, best",
        ),
        ("a, b, c", {"caption_tag_dropout_rate": 1.0, "keep_tokens_separator": "|||", "keep_tokens": 1}, "a"),
        # prefix and suffix are there before tags are counted, and wildcards are read in them
        ("b", {"caption_prefix": "a,", "caption_tag_dropout_rate": 1.0, "keep_tokens": 1}, "a"),
        ("b", {"caption_prefix": "{a|a}", "enable_wildcard": True}, "a b"),
        ("{a|b}", {}, "{a|b}"),
        ("{a}", {"enable_wildcard": True}, "a"),
        ("{{a|b}}", {"enable_wildcard": True}, "{a|b}"),
        ("{a;;;b|a;;;b}", {"enable_wildcard": True, "secondary_separator": ";;;"}, "a,b"),
        # dropped: nothing is left of prefix and tags
        (MARKED, {"caption_dropout_rate": 1.0, "keep_tokens_separator": "|||", "caption_prefix": "x"}, ""),
    ],
)  # fmt: skip
def test_the_order_of_operations(text, options, expected):
    assert {shown(text, seed=seed, **options) for seed in range(5)} == {expected}


def test_only_tags_between_the_marks_move():
    results = {shown(MARKED, seed=seed, shuffle_caption=True, keep_tokens_separator="|||") for seed in range(60)}
    assert len(results) == 6
    assert all(r.startswith("usu bear, ") and r.endswith(", photo, best") for r in results)


def test_tags_joined_by_the_second_separator_stay_together():
    options = {"shuffle_caption": True, "secondary_separator": ";;;"}
    results = {shown("a;;;b, c, d", seed=seed, **options) for seed in range(60)}
    assert len(results) == 6
    assert all("a,b" in result for result in results)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_tag_dropout_takes_its_share_of_the_tags_that_move(rate):
    left = [shown(seed=s, caption_tag_dropout_rate=rate, keep_tokens=1).split(", ") for s in range(2000)]
    assert all(tags[0] == "usu bear" for tags in left)
    assert sum(len(tags) - 1 for tags in left) / (2000 * 4) == pytest.approx(1 - rate, abs=0.02)


def test_wildcards_choose_each_with_the_same_chance():
    drawn = [shown("{red|green|blue} hat, {a|b}", seed=s, enable_wildcard=True) for s in range(3000)]
    for colour in ("red", "green", "blue"):
        assert sum(c.startswith(colour) for c in drawn) / 3000 == pytest.approx(1 / 3, abs=0.04)
    assert len(set(drawn)) == 6


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{", "{"), ("a}", "a}"), ("{}", "{}"), ("{{", "{"), ("{{{a}}}", "{a}"), ("{a|}", None), ("{{{{", "{{")],
)
def test_odd_braces_are_no_reason_to_fail(text, expected):
    drawn = {replace_wildcards(text, random.Random(seed)) for seed in range(20)}
    assert drawn == ({expected} if expected else {"a", ""})


def test_one_line_of_several_is_drawn_and_gets_prefix_and_suffix():
    options = {"enable_wildcard": True, "caption_prefix": "p,", "caption_suffix": ", s"}
    assert {shown("a\nb\nc", seed=s, **options) for s in range(40)} == {"p, a , s", "p, b , s", "p, c , s"}


# n tags behind one that is kept; warm-up, step of 100 -> tags shown of the six. sd-scripts' formula, by hand.
@pytest.mark.parametrize(
    ("until", "least", "step", "count"),
    [
        (50, 1, 0, 1), (50, 1, 9, 1), (50, 1, 10, 2), (50, 1, 25, 3), (50, 1, 49, 5), (50, 1, 50, 6), (50, 1, 99, 6),
        (0.5, 1, 25, 3), (0.5, 1, 50, 6), (0.001, 1, 0, 6), (10, 3, 0, 3), (10, 3, 9, 5), (10, 9, 0, 6), (10, 0, 0, 0),
    ],
)  # fmt: skip
def test_tags_are_warmed_up(until, least, step, count):
    options = DatasetSettings(token_warmup_step=until, token_warmup_min=least, keep_tokens=1)
    text = caption_for("usu, 1, 2, 3, 4, 5, 6", options, random.Random(0), 1, step=step, total_steps=100)
    assert text == ", ".join(["usu", *"123456"[:count]])


def test_new_options_leave_the_draws_of_a_run_alone():
    """The captions of these seeds as they were before there were wildcards, tag dropout and warm-up."""
    options = {"shuffle_caption": True, "keep_tokens": 1, "caption_dropout_rate": 0.2}
    assert [shown(seed=seed, **options) for seed in range(4)] == PINNED
    for seed in range(20):
        every = {"caption_tag_dropout_rate": 1e-12, "token_warmup_step": 1, "keep_tokens_separator": "|||"}
        assert caption_for(TAGS, DatasetSettings(**options, **every), random.Random(seed), 1, step=5) == shown(
            seed=seed, **options
        )


PINNED = [
    "usu bear, smile, red hat, sitting, outdoors",
    "",
    "usu bear, red hat, smile, outdoors, sitting",
    "usu bear, sitting, smile, outdoors, red hat",
]
