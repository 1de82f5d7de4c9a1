"""Whatever a stranger's metadata hold, what is shown is short, harmless text."""

import json
import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_core.inspect import bounded

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
)


@given(st.text(st.characters()), st.integers(1, 50))
def test_text_becomes_one_harmless_line_of_bounded_length(text, longest):
    shown = bounded.plain(text, longest)
    assert len(shown) <= longest + len(bounded.CUT)
    bad = {"Cc", "Zl", "Zp", "Cs"}
    assert not [c for c in shown if unicodedata.category(c) in bad]
    shown.encode()  # no lone surrogates


@pytest.mark.parametrize("mark", "\u202e\u202d\u2066\u200f\ufeff\x00\x1b\r\x85\u2028")
def test_what_acts_on_a_screen_is_taken_out(mark):
    assert mark not in bounded.plain(f"a{mark}b")


@pytest.mark.parametrize("text", ["日本語 タグ", "<script>alert(1)</script>", "👩‍🎨 art", "Ünï"])
def test_text_that_only_looks_dangerous_stays_text(text):
    assert bounded.plain(text) == text


def test_what_is_cut_has_a_mark():
    assert bounded.plain("x" * 10_000_000) == "x" * bounded.LONGEST + bounded.CUT
    assert bounded.plain("x" * bounded.LONGEST) == "x" * bounded.LONGEST


@given(JSON)
def test_any_value_becomes_valid_json_of_bounded_depth(value):
    shown = bounded.bounded(value)
    json.dumps(shown, allow_nan=False).encode()
    assert depth(shown) <= bounded.DEEPEST + 1


def depth(value) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(depth, inner), default=0)


def test_long_lists_and_tables_are_cut_with_a_mark():
    assert len(bounded.bounded(list(range(10_000)))) == bounded.MOST_ITEMS + 1
    assert len(bounded.bounded({str(i): i for i in range(10_000)})) == bounded.MOST_ITEMS + 1


@pytest.mark.parametrize("text", ["", "{", "nothing", "[" * 100_000, "1" * 10_000, '"' + "\\", "\ud800"])
def test_what_is_no_json_is_none(text):
    assert bounded.parse(text) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3), ("12", 12), (2.7, 2), (0, 0)]
    + [(bad, None) for bad in (True, None, -1, "x", math.nan, math.inf, 10**400, [1], {})],
)
def test_a_count_is_a_whole_number_or_nothing(value, expected):
    assert bounded.count(value) == expected
