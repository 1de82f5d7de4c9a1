"""What the Inspect tab shows for real files: sound, broken, hostile, of other kinds, and two side by side."""

import base64
import json
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.inspect.page import compared, look, weigh
from app.inspect.reports import Reports
from app.inspect.view import algorithm_word, head_html, overview_html, prompt_of
from app.inspect.weights import blocks_html, curve_svg, group_of, proposed_rank
from app.merge.values import FormError
from lora_core.i18n import LANGUAGES
from lora_core.inspect.report import BlockWeights, EnergyPoint, Finding
from lora_core.io.arrays import save_arrays
from tests.app.inspect.samples import EVIL, broken, good, hostile, metadata, state
from tests.app.inspect.test_html import Elements

in_both = pytest.mark.parametrize("language", LANGUAGES)


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("うす クマ")
    good(folder / "usu.safetensors")
    good(folder / "other.safetensors", seed=1, ss_seed="7")
    broken(folder / "broken.safetensors")
    hostile(folder / "hostile.safetensors")
    (folder / "page.safetensors").write_text("<!DOCTYPE html><p>log in</p>")
    save_arrays({"emb_params": np.ones((4, 768))}, {}, folder / "word.safetensors", "fp16")
    vae = {"decoder.conv_in.weight": np.ones((8, 4, 3, 3)), "encoder.conv_in.weight": np.ones((8, 3, 3, 3))}
    save_arrays(vae, {}, folder / "vae.safetensors", "fp16")
    return folder


def text_of(*html: str) -> str:
    return Elements("".join(html)).text


@in_both
def test_the_header_says_what_it_is_at_once(reports, files, language):
    shown = look(reports, str(files / "usu.safetensors"), language)
    text = text_of(shown.head)
    for part in ("Usu the bear", "Stable Diffusion 1.x", "LoRA", "rank 8", "alpha 4", "fp16", "4 / 8 = 0.5"):
        assert part in text
    assert "anime.safetensors · e6415c48" in text
    assert "<lora:usu:1> usu bear" in text
    assert Elements(shown.head).attributes["src"].startswith("data:image/png;base64,")
    assert shown.reads
    assert shown.is_lora
    assert shown.has_settings


@in_both
def test_recipe_tags_and_folders_are_shown(reports, files, language):
    text = text_of(look(reports, str(files / "usu.safetensors"), language).details)
    for part in ("0.0003", "cosine_with_restarts", "512 × 768 px", "bear ears", "10_usu bear", "ss_tag_frequency"):
        assert part in text
    assert text.index("1girl") < text.index("bear ears") < text.index("night")


@in_both
def test_weights_show_blocks_shares_and_programs(reports, files, language):
    found = weigh(reports, str(files / "usu.safetensors"), language)
    text = text_of(found.overview, found.weights)
    for part in ("BASE", "IN", "MID", "OUT", "ComfyUI", "8/8", "U-Net"):
        assert part in text
    assert "in-chart" in found.weights
    assert "<svg" in found.weights


@in_both
def test_what_is_wrong_comes_first_and_has_its_cure(reports, files, language):
    found = weigh(reports, str(files / "broken.safetensors"), language)
    seen = found.overview
    assert "NaN" in text_of(seen)
    assert seen.index("in-is-error") < seen.index("in-is-warning")
    assert 'data-tool="clean"' in seen
    assert "first_stage_model.foo" in text_of(seen)


@in_both
def test_hostile_metadata_stay_text(reports, files, language):
    typed = str(files / "hostile.safetensors")
    shown, found = look(reports, typed, language), weigh(reports, typed, language)
    html = shown.head + shown.overview + shown.details + found.overview + found.weights
    seen = Elements(html)
    assert "script" not in seen.tags
    assert not [name for name in seen.attributes if name.startswith("on")]
    assert "img" not in seen.tags, "a picture that is no picture is not shown"
    assert EVIL in seen.text
    assert len(html) < 500_000


@pytest.mark.parametrize("name", ["word", "vae"])
@in_both
def test_what_is_no_lora_gets_a_short_card(reports, files, language, name):
    shown = look(reports, str(files / f"{name}.safetensors"), language)
    assert "in-other" in shown.head
    assert not shown.is_lora
    assert not shown.reads
    assert shown.weights == shown.overview == ""


@pytest.mark.parametrize("typed", ["/no/such.safetensors", "\0", "x" * 5000, "page.safetensors"])
@in_both
def test_what_cannot_be_read_is_said_in_words(reports, files, language, typed):
    typed = str(files / typed) if typed == "page.safetensors" else typed
    shown = look(reports, typed, language)
    assert 'role="alert"' in shown.head
    assert not shown.reads
    assert compared(reports, typed, str(files / "usu.safetensors"), language).count('role="alert"') == 1


@pytest.mark.parametrize("typed", ["", "  ", '""', None, 5])
def test_an_empty_box_shows_a_hint(reports, typed):
    shown = look(reports, typed, "en")
    assert "kb-hint" in shown.head
    assert not shown.is_lora


def test_folders_that_the_page_may_not_show_stay_closed(files, tmp_path):
    with pytest.raises(FormError):
        Reports((tmp_path,)).file(str(files / "usu.safetensors"))


@in_both
def test_two_files_side_by_side(reports, files, language):
    a, b = str(files / "usu.safetensors"), str(files / "other.safetensors")
    text = text_of(compared(reports, a, b, language))
    assert "1234" in text
    assert "usu.safetensors" in text
    same = text_of(compared(reports, a, a, language))
    assert len(same) < len(text)
    assert compared(reports, a, "", language) == ""
    assert 'role="alert"' in compared(reports, a, str(files / "vae.safetensors"), language)


def bomb() -> str:
    """A PNG of a few bytes that says to be 30,000 pixels wide and high."""
    kind = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + kind + struct.pack(">I", zlib.crc32(kind))
    return "data:image/png;base64," + base64.b64encode(png).decode()


def test_a_picture_that_would_fill_the_memory_is_not_shown(reports, tmp_path):
    path = good(tmp_path / "a.safetensors", **{"modelspec.thumbnail": bomb()})
    assert "<img" not in look(reports, str(path), "en").head


def test_a_picture_beside_is_shown_only_where_the_page_may_look(tmp_path):
    outside = tmp_path / "outside.png"
    Image.new("RGB", (8, 8)).save(outside)
    path = good(tmp_path / "in" / "a.safetensors", **{"modelspec.thumbnail": ""})
    try:
        path.with_suffix(".png").symlink_to(outside)
    except OSError:
        pytest.skip("links need a permission here")
    assert "<img" in look(Reports(), str(path), "en").head
    assert "<img" not in look(Reports((tmp_path / "in",)), str(path), "en").head


def test_a_file_written_anew_is_read_anew(reports, tmp_path):
    path = good(tmp_path / "a.safetensors")
    assert "Usu the bear" in look(reports, str(path), "en").head
    save_arrays(state(), metadata() | {"modelspec.title": "Another bear!"}, path, "fp16")
    os.utime(path, (1, 1))
    assert "Another bear!" in look(reports, str(path), "en").head


def test_a_large_file_is_read_when_asked_for(reports, files, monkeypatch):
    monkeypatch.setattr("app.inspect.page.READ_AT_ONCE", 10)
    shown = look(reports, str(files / "usu.safetensors"), "en")
    assert not shown.reads
    assert 'data-tool="weights"' in shown.weights


def test_reports_are_made_once(reports, files, monkeypatch):
    typed = str(files / "usu.safetensors")
    weigh(reports, typed, "en")
    monkeypatch.setattr("app.inspect.reports.inspect_weights", lambda path: pytest.fail("read twice"))
    assert weigh(reports, typed, "ja")


# ---- pieces ----------------------------------------------------------------------------------------------------------


def block(name: str, norm: float = 1.0, strength: float = 0.1) -> BlockWeights:
    return BlockWeights(name, 10, norm, 0.1, strength, 2.0)


def test_bars_are_as_high_as_their_numbers():
    html = blocks_html([block("BASE", 2), block("IN01", 1), block("MID", math.nan)], [], "en")
    heights = [part.split("%")[0] for part in html.split("--norm:")[1:]]
    assert [float(height) for height in heights] == [100, 50, 0]


@pytest.mark.parametrize(
    ("name", "group"), [("IN04", "IN"), ("BASE", "BASE"), ("S37", "S"), ("T5", "T5"), ("MID", "MID")]
)
def test_blocks_stand_in_the_group_of_their_side(name, group):
    assert group_of(name) == group


def test_no_blocks_make_no_chart():
    assert blocks_html([], [], "en") == ""


@pytest.mark.parametrize("last", [1, 4, 128, 1024])
def test_the_curve_stays_inside_its_picture(last):
    points = [EnergyPoint(2**power, 1 - 0.5 ** (power + 1)) for power in range(int(math.log2(last)) + 1)]
    svg = curve_svg([*points, EnergyPoint(last, 1.0)], last, "en")
    xs = [float(part.split('"')[0]) for part in svg.split('cx="')[1:]]
    assert all(0 <= x <= 320 for x in xs)


def test_a_smaller_rank_is_proposed_only_when_it_is_smaller(reports, files):
    path = files / "usu.safetensors"
    header, weights = reports.header(path), reports.weights(path)
    proposed = proposed_rank(header, weights)
    assert proposed is None or proposed < 8


@in_both
def test_findings_without_weights_and_without_any(language):
    many = Finding("warning", "junk", {}, ("a", "b"), 5)
    html = overview_html([many], None, language)
    assert "5" in text_of(html)
    assert "3" in text_of(html), "three more than are named"
    assert "in-ok" in overview_html([], [], language)


@in_both
def test_how_a_merged_file_was_made(reports, tmp_path, language):
    recipe = {"version": 1, "job": "merge", "rank": 16, "sources": [{"name": EVIL, "ratio": -0.5, "sha256": "abc"}, 5]}
    path = good(tmp_path / "a.safetensors", kumakobo_recipe=json.dumps(recipe))
    details = look(reports, str(path), language).details
    made = text_of(details[details.index("in_made_from") :])
    for part in ("merge", "16", EVIL, "-0.5", "abc"):
        assert part in made
    for nonsense in ("{", "[]", '{"sources": 5}', '{"sources": [[[[[[[]]]]]]]}'):
        good(path, kumakobo_recipe=nonsense)
        assert look(Reports(), str(path), language).is_lora


@in_both
def test_an_algorithm_of_tomorrow_has_a_word(language):
    assert algorithm_word("lora", language) == "LoRA"
    assert algorithm_word("hypernet", language) == algorithm_word("unknown", language)


def test_a_prompt_is_one_line(reports, files):
    report = reports.header(files / "hostile.safetensors")
    assert prompt_of(report).startswith("<lora:hostile:1> ")
    assert "\n" not in prompt_of(report)
    assert head_html(report, "en")
