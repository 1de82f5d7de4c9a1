"""LoRAs merged into the base first: how they are written, and what becomes of the model."""

from pathlib import Path

import pytest

from lora_core.base_weights import BaseWeights, parse, written
from lora_core.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n", []),
        ("a.safetensors", [("a.safetensors", 1.0)]),
        ("a.safetensors:0.8, b.safetensors", [("a.safetensors", 0.8), ("b.safetensors", 1.0)]),
        (
            "/x/クマ 1, 2.safetensors : -0.5\n/y/b.SAFETENSORS",
            [("/x/クマ 1, 2.safetensors", -0.5), ("/y/b.SAFETENSORS", 1.0)],
        ),
        ("C:/lora/a.safetensors:2;D:/b.safetensors", [("C:/lora/a.safetensors", 2.0), ("D:/b.safetensors", 1.0)]),
        ('"/x y/a.safetensors":0.25', [("/x y/a.safetensors", 0.25)]),
    ],
)
def test_files_and_strengths(text, expected):
    found = parse(text)
    assert [(str(one.path), one.multiplier) for one in found] == expected
    assert parse(written(found)) == found


@pytest.mark.parametrize("text", ["style", "a.safetensors:much", "a.safetensors:nan", "a.safetensors, b.ckpt"])
def test_what_is_no_file_is_refused(text):
    with pytest.raises(UserError, match="names no LoRA to merge"):
        parse(text)


def test_written_one_a_line():
    assert written([BaseWeights(Path("a.safetensors")), BaseWeights(Path("b.safetensors"), 0.5)]) == (
        "a.safetensors\nb.safetensors:0.5"
    )
