"""Settings are found by what people type."""

import pytest

from lora_core.settings.fields import fields_of, label
from lora_core.settings.search import MOST, find, plain


@pytest.mark.parametrize("path", fields_of())
def test_a_setting_is_found_by_its_names(path):
    field = fields_of()[path]
    names = [path, label(path, "en"), label(path, "ja"), *([field.kohya] if field.kohya else [])]
    for name in names:
        same = [
            other for other, entry in fields_of().items() if name in (entry.kohya, label(other), label(other, "ja"))
        ]
        assert set(find(name, 500)[: max(len(same), 1)]) >= ({path} if len(same) <= 1 else set(same))


@pytest.mark.parametrize(
    ("typed", "path"),
    [
        ("ｍｉｎ＿ｓｎｒ", "loss.min_snr_gamma"),
        ("MIN SNR", "loss.min_snr_gamma"),
        ("minsnr", "loss.min_snr_gamma"),
        ("snr gamma", "loss.min_snr_gamma"),
        ("おぷてぃまいざー", "optimizer.name"),
        ("ｵﾌﾟﾃｨﾏｲｻﾞ", "optimizer.name"),
        ("Prodigy", "optimizer.name"),
        ("network_dim", "network.rank"),
        ("鏡", ""),
        ("over-fits sooner", "network.rank"),
    ],
)
def test_what_people_type_finds_it(typed, path):
    found = find(typed)
    assert (path in found[:3]) if path else isinstance(found, list)


def test_names_come_before_help():
    found = find("seed")
    assert found[0] == "train.seed"
    assert found.index("sample.seed") < 3


@pytest.mark.parametrize("nothing", ["", "   ", "qqqqzz", "seed qqqqzz", "・"])
def test_nothing_is_found_where_nothing_fits(nothing):
    assert find(nothing) == []


def test_a_list_stays_short():
    assert len(find("e")) == MOST


def test_comparison_ignores_width_case_and_kana():
    assert plain("ＡdamＷ８ｂｉｔ") == "adamw8bit"
    assert plain("フォルダー") == plain("ふぉるだ") == plain("ﾌｫﾙﾀﾞ")
