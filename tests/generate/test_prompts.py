"""Sample prompts as people write them."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_core.errors import UserError
from lora_core.generate.prompts import SAMPLER_NAMES, SamplePrompt, floor_to, parse
from lora_core.i18n import LANGUAGES
from lora_core.settings import SampleSettings

CASES = {
    "usu bear": SamplePrompt("usu bear"),
    "usu bear, snow --n blurry, low quality --w 512 --h 768 --d 0 --l 7.5 --s 28": SamplePrompt(
        "usu bear, snow", "blurry, low quality", 512, 768, 0, 7.5, 28
    ),
    "a --D 3 --S 5 --N x": SamplePrompt("a", "x", seed=3, steps=5),
    "a --n": SamplePrompt("a"),
    "--n only negative": SamplePrompt("", "only negative"),
    "w 5 bears, l 3, d 4 --w 64": SamplePrompt("w 5 bears, l 3, d 4", width=64),
    "a well-known --- thing, x--y": SamplePrompt("a well-known --- thing, x--y"),
    "a -- b": SamplePrompt("a -- b"),
    "a --ss ddim": SamplePrompt("a", sampler="ddim"),
    "a --ss DPM++ 2M Karras": SamplePrompt("a", sampler="dpmpp_2m_karras"),
    "a --ss k_euler_a --l 0": SamplePrompt("a", sampler="euler_a", guidance=0.0),
    "(うす:1.2) くま\t--w\t96": SamplePrompt("(うす:1.2) くま", width=96),
}
FAULTS = {
    "a --w wide": "not_a_number",
    "a --w 8": "not_a_number",
    "a --h 512.5": "not_a_number",
    "a --w 5 12": "not_a_number",
    "a --d -1": "not_a_number",
    "a --d 4294967296": "not_a_number",
    "a --s 0": "not_a_number",
    "a --l nan": "not_a_number",
    "a --l inf": "not_a_number",
    "a --x 5": "unknown_option",
    "a --cn pose.png": "unknown_option",
    "a --w": "no_value",
    "a --w --h 512": "no_value",
    "a --w 64 --W 128": "twice",
    "a --ss magic": "unknown_sampler",
}


@pytest.mark.parametrize("text", CASES)
def test_reads(text):
    assert parse(text) == [CASES[text]]


@pytest.mark.parametrize("text", FAULTS)
def test_names_the_line_of_a_fault(text):
    with pytest.raises(UserError) as error:
        parse(f"fine\n# comment --x\n\n{text}\n")
    assert error.value.key == f"prompt.{FAULTS[text]}"
    for language in LANGUAGES:
        assert "4" in error.value.message(language)


def test_comments_and_empty_lines_are_left_out_but_counted():
    text = "# first\n\n  one --d 1  \r\n\n\t# not this\ntwo #2"
    assert parse(text) == [SamplePrompt("one", seed=1, line=3), SamplePrompt("two #2", line=6)]
    assert parse("") == []


@given(
    st.text(alphabet=st.characters(exclude_characters="-#", exclude_categories=["Cc", "Zl", "Zp"])),
    st.integers(0, 2**32 - 1),
)
def test_the_prompt_is_never_read_as_options(text, seed):
    expected = [SamplePrompt(text.strip(), seed=seed)]
    assert parse(f"{text} --d {seed}") == expected


@pytest.mark.parametrize(
    ("size", "multiple", "floored"), [(513, 8, 512), (64, 8, 64), (70, 16, 64), (5, 8, 8), (39, 4, 36)]
)
def test_sizes_are_floored(size, multiple, floored):
    assert floor_to(size, multiple) == floored


def test_samplers_are_those_of_the_settings():
    assert set(SAMPLER_NAMES) == set(get_args(SampleSettings.model_fields["sampler"].annotation))


def test_parsing_needs_no_torch():
    code = "import sys, lora_core.generate.prompts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
