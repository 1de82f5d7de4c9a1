"""Texts encoded once and kept, so that the text encoders can go."""

import pytest
import torch

from lora_core.families import FAMILIES
from lora_core.families.conditioning import Conditioning
from lora_core.families.encoded import MOST_TEXTS, EncodedTexts
from lora_core.settings import Sd1Model


@pytest.fixture
def texts(tiny_folder):
    model = Sd1Model(base=str(tiny_folder))
    components = FAMILIES["sd1"].load(model, dtype=torch.float32, device=torch.device("cpu"))
    return EncodedTexts(FAMILIES["sd1"], components, model), components, model


def test_a_text_is_what_the_family_says(texts):
    encoded, components, model = texts
    prompts = ["usu bear", "a (bear:1.4)", ""]
    for weighted in (False, True):
        expected = FAMILIES["sd1"].encode_prompts(components, prompts, model, weighted=weighted).hidden
        torch.testing.assert_close(encoded(prompts, weighted=weighted).hidden, expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(
            encoded(prompts[:1], weighted=weighted).hidden, encoded(prompts, weighted=weighted).hidden[:1]
        )


def test_known_texts_need_no_encoder_and_new_ones_bring_it_back(texts):
    encoded, components, _ = texts
    assert list(encoded.filling(["b", "a", "b"])) == [(1, 2), (2, 2)]
    before = encoded(["a", "b"]).hidden
    encoded.release_encoders()
    assert torch.equal(encoded(["a", "b"]).hidden, before)
    assert not components.loaded
    encoded(["c"])
    assert list(components.loaded) == ["text_encoder"]


def test_no_more_is_kept_than_fits(texts, monkeypatch):
    encoded, *_ = texts
    monkeypatch.setattr("lora_core.families.encoded.MOST_TEXTS", 2)
    assert MOST_TEXTS > 2
    encoded(["a", "b", "c"])
    assert len(encoded._known) == 1


def test_conditioning_is_cut_and_joined_again():
    whole = Conditioning({"hidden": torch.randn(3, 2, 4), "pooled": torch.randn(3, 5)})
    again = Conditioning.cat(whole.split())
    assert len(whole.split()) == len(whole) == 3
    assert all(torch.equal(whole[name], again[name]) for name in ("hidden", "pooled"))
    assert whole.to(torch.float64).hidden.dtype == torch.float64
    assert whole.with_tensors(guidance=torch.ones(3))["guidance"].sum() == 3
