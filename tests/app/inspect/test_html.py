"""The small pieces: numbers for people, and text that stays text."""

from html.parser import HTMLParser

import pytest

from app.inspect.html import clipped, counted, facts, fold, number, percent, table, tag, words
from tests.app.inspect.samples import EVIL


class Elements(HTMLParser):
    """The elements and the text that a browser would see."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= dict(attrs)

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0, "0"),
        (0.5, "0.5"),
        (0.0123456, "0.0123"),
        (12.345, "12.3"),
        (1234.5, "1,234"),
        (9.999, "10"),
        (-0.25, "-0.25"),
        (1e-7, "1.00e-7"),
        (float("nan"), "NaN"),
        (float("-inf"), "-∞"),
    ],
)
def test_numbers_have_three_digits_that_count(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0%"), (1, "100%"), (0.5, "50%"), (0.0004, "<0.1%"), (0.005, "0.5%"), (0.9996, ">99.9%"), (0.995, "99.5%")],
)
def test_a_share_is_never_all_or_nothing_unless_it_is(share, shown):
    assert percent(share) == shown
    assert percent(float("nan")) == percent(None) == "–"


@pytest.mark.parametrize(
    "html",
    [
        words(EVIL),
        tag("b", "", title=EVIL, data_x=EVIL),
        facts([(EVIL, EVIL)]),
        table([EVIL], [[EVIL, EVIL]], caption=EVIL),
        fold(EVIL, "x", name=EVIL, note=EVIL),
    ],
    ids=["words", "attribute", "facts", "table", "fold"],
)
def test_text_of_a_file_makes_no_element(html):
    seen = Elements(html)
    assert not {"script", "img"} & set(seen.tags)
    assert not [name for name in seen.attributes if name.startswith("on")]
    assert EVIL in seen.text or EVIL in seen.attributes.values()


def test_text_that_no_answer_can_carry_is_replaced():
    assert words("a\ud800b").encode("utf-8") == b"<span>a?b</span>"


def test_long_text_is_cut():
    assert clipped("x" * 50, 10) == "x" * 10 + "…"
    assert clipped("x" * 10, 10) == "x" * 10


def test_one_value_stands_alone_and_several_with_their_counts():
    assert counted({16: 264}) == "16"
    assert counted({16: 200, 8.0: 64}) == "16 ×200, 8 ×64"
    assert counted(dict.fromkeys(range(9), 1), limit=2) == "0 ×1, 1 ×1, …"
