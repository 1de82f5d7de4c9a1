"""The words about a proof follow from its numbers: the gravest first, and something is always said."""

import pytest

from lora_core.events import ProofDone
from lora_core.i18n import LANGUAGES
from lora_core.proof_verdict import lines, numbers, remarks, severity


def done(**changes) -> ProofDone:
    found = {"modules": 100, "pixels": 9.0, "latents": 0.2, "own": 0.3, "class_prompt": 0.2, "unrelated": 0.1}
    return ProofDone(name="usu.safetensors", **found | changes)


UNMEASURED = {"pixels": None, "latents": None, "own": None, "class_prompt": None, "unrelated": None}


@pytest.mark.parametrize(
    ("changes", "keys", "worst"),
    [
        ({}, ["works"], "good"),
        ({"own": 0.0, "pixels": 0.0, "unrelated": 0.0}, ["no_change"], "bad"),
        ({"own": 0.0049, "unrelated": 0.006}, ["hardly"], "caution"),
        ({"own": 1.5}, ["too_far"], "caution"),
        ({"own": float("nan")}, ["not_finite"], "bad"),
        ({"unrelated": 0.31}, ["works", "everywhere"], "good"),
        ({"unrelated": 0.3}, ["works"], "good"),
        ({"unrelated": None}, ["works"], "good"),
        ({"lost": 3, "lost_names": ["a", "b", "c"]}, ["partly", "works"], "bad"),
        ({"lost": 100, **UNMEASURED}, ["no_place"], "bad"),
        ({"zero": 100, **UNMEASURED}, ["zero"], "bad"),
        ({"zero": 60}, ["mostly_zero", "works"], "caution"),
        ({"zero": 10}, ["works"], "good"),
        ({"zero": 40, "lost": 60, **UNMEASURED}, ["partly", "zero"], "bad"),
        ({"broken": 2, "broken_names": ["a", "b"], **UNMEASURED}, ["broken"], "bad"),
        ({"modules": 0, **UNMEASURED}, ["zero"], "bad"),
    ],
)
def test_what_is_said_first(changes, keys, worst):
    found = done(**changes)
    assert [remark.key for remark in remarks(found)] == keys
    assert severity(found) == worst
    for language in LANGUAGES:
        assert len(lines(found, language)) == len(keys) + len(numbers(found, language))
    assert lines(found, "en") != lines(found, "ja")


def test_a_partly_loaded_file_names_how_many_and_some():
    (first, _) = remarks(done(lost=12, lost_names=["lora_unet_a", "lora_unet_b"]))
    assert "12 of 100" in first.words("en")
    assert "lora_unet_a, lora_unet_b ..." in first.words("ja")


def test_what_was_not_measured_has_no_number():
    assert [value for _, value in numbers(done(zero=100, **UNMEASURED), "en")] == ["100 / 100", "100"]
