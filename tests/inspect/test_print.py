"""Reports as text in a terminal and as JSON for scripts."""

import io
import json

import numpy as np
import pytest

from lora_core.i18n import LANGUAGES
from lora_core.inspect.print import compare_command, inspect_command
from lora_core.inspect.tables import cut, table, width
from tests.inspect.samples import metadata, trained, write

languages = pytest.mark.parametrize("language", LANGUAGES)


@pytest.fixture
def lora(tmp_path):
    state = trained("sd1", "small")
    next(value for key, value in state.items() if key.endswith("up.weight"))[:] = 0
    text = {"modelspec.title": "くま <b>", "ss_dataset_dirs": '{"10_くま": {"n_repeats": 10, "img_count": 20}}'}
    return write(tmp_path / "くま lora.safetensors", state, metadata(**text, strange="\x1b[2J\r\nnew line"))


@pytest.fixture
def vae(tmp_path):
    return write(tmp_path / "vae.safetensors", {"decoder.conv_in.weight": np.zeros((8, 4, 3, 3), np.float32)}, {})


def said(paths, as_json=False, weights=True, language="en") -> str:
    out = io.StringIO()
    assert inspect_command(paths, as_json, weights, language, out) == 0
    return out.getvalue()


@languages
@pytest.mark.parametrize("weights", [True, False])
def test_a_report_holds_what_people_look_for(lora, language, weights):
    text = said([lora], weights=weights, language=language)
    for words in ("Stable Diffusion 1.x", "くま <b>", "くま lora.safetensors", "IN01", "BASE", "10_くま", "fp16"):
        assert words in text
    assert ("ComfyUI" in text) == weights
    assert "\x1b" not in text
    assert "\r" not in text


@languages
def test_columns_stand_below_each_other(lora, language):
    """A row of the block table ends where its head ends: numbers are aligned to the right."""
    lines = said([lora], language=language).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("  BASE")) - 1
    rows = [line for line in lines[start:] if line.startswith("  ")][:5]
    assert len({width(row) for row in rows}) == 1


@languages
def test_a_model_gets_a_short_honest_report(vae, language):
    text = said([vae], language=language)
    assert "VAE" in text
    assert len(text.splitlines()) < 12


def test_json_is_one_object_for_one_file_and_a_list_for_several(lora, vae):
    one = json.loads(said([lora], as_json=True))
    assert one["header"]["family"] == "sd1"
    assert one["weights"]["findings"][0]["message"]
    several = json.loads(said([lora, vae], as_json=True, weights=False))
    assert [report["header"]["kind"] for report in several] == ["lora", "vae"]


def test_a_file_that_cannot_be_read_does_not_hide_the_others(lora, tmp_path, capsys):
    out = io.StringIO()
    paths = [tmp_path / "missing.safetensors", lora]
    assert inspect_command(paths, False, False, "en", out) == 2
    assert "missing.safetensors" in capsys.readouterr().err
    assert "くま lora" in out.getvalue()
    out = io.StringIO()
    assert inspect_command(paths, True, False, "en", out) == 2
    assert "error" in json.loads(out.getvalue())[0]


@languages
def test_a_comparison_holds_what_people_look_for(lora, tmp_path, language):
    other = write(tmp_path / "other.safetensors", trained("sd1", "small", rank=4, seed=1), metadata(rank=4))
    out = io.StringIO()
    assert compare_command(lora, other, False, language, out) == 0
    for words in ("other.safetensors", "くま lora.safetensors", "BASE", "IN01"):
        assert words in out.getvalue()
    out = io.StringIO()
    compare_command(lora, other, True, language, out)
    assert json.loads(out.getvalue())["same_hash"] is False


@pytest.mark.parametrize(
    ("text", "columns"), [("abc", 3), ("くま", 4), ("aくb", 4), ("ﾊﾝ", 2), ("", 0), ("é", 1), ("e\u0301", 1)]
)
def test_width_counts_columns(text, columns):
    assert width(text) == columns


@pytest.mark.parametrize("text", ["くまくまくま", "abcdef", "aくbまc"])
@pytest.mark.parametrize("columns", [2, 3, 5])
def test_a_cut_text_fits(text, columns):
    assert width(cut(text, columns)) <= columns
    assert cut(text, 99) == text


def test_a_table_is_straight():
    lines = table([("層", "1"), ("abc", "100"), ("x\ny", "20")], right=(1,))
    assert lines == ["層     1", "abc  100", "x y   20"]
    assert table([]) == []
