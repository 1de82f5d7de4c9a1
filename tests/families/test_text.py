"""Prompts to conditioning: chunks, clip skip and weights, against transformers called directly."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_core.errors import UserError
from lora_core.families.base import Components, ModelFamily
from lora_core.families.text import Chunker, emphasise
from lora_core.families.text_weights import parse_weights
from lora_core.settings import Sd1Model

SHORT, LONG = "usu bear sitting on a chair", ", ".join(f"word{i} cat" for i in range(60))


def encoded(family, components, prompts, *, weighted=False, **settings):
    return family.encode_prompts(components, prompts, Sd1Model(**settings), weighted=weighted).hidden


def direct(components: Components, text: str) -> torch.Tensor:
    """One prompt of at most 75 tokens as transformers encodes it."""
    ids = components.tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    out = components.text_encoder(ids.input_ids, output_hidden_states=True)
    return out


@pytest.mark.parametrize("prompt", ["", SHORT, LONG], ids=["empty", "short", "long"])
def test_one_chunk_is_what_the_tokenizer_makes(components: Components, prompt: str):
    expected = components.tokenizer(prompt, padding="max_length", max_length=77, truncation=True).input_ids
    assert components.chunker.rows(prompt, 1).tolist() == [expected]


@torch.no_grad()
@pytest.mark.parametrize("clip_skip", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_short_prompts_equal_a_direct_call(sd1: ModelFamily, components: Components, clip_skip: int, weighted: bool):
    ours = encoded(sd1, components, [SHORT, ""], clip_skip=clip_skip, max_token_length=75, weighted=weighted)
    for row, prompt in zip(ours, (SHORT, ""), strict=True):
        out = direct(components, prompt)
        hidden = components.text_encoder.final_layer_norm(out.hidden_states[-clip_skip])
        torch.testing.assert_close(row, hidden[0], rtol=1e-5, atol=1e-5)
        if clip_skip == 1:
            torch.testing.assert_close(row, out.last_hidden_state[0], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_long_prompt_is_its_chunks_one_after_the_other(sd1: ModelFamily, components: Components):
    ours = encoded(sd1, components, [LONG], clip_skip=1, max_token_length=225)
    assert ours.shape == (1, 3 * 77, 64)
    tokens = components.tokenizer(LONG, add_special_tokens=False, verbose=False).input_ids
    for i in range(3):
        part = tokens[i * 75 : (i + 1) * 75]
        ids = [49406, *part, *[49407] * (76 - len(part))]
        expected = components.text_encoder(torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(ours[0, i * 77 : (i + 1) * 77], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_prompt_does_not_depend_on_its_neighbours(sd1: ModelFamily, components: Components):
    alone = encoded(sd1, components, [SHORT], clip_skip=1, max_token_length=225)
    among = encoded(sd1, components, [LONG, SHORT], clip_skip=1, max_token_length=225)
    torch.testing.assert_close(among[1:], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("limit", [75, 150, 225])
def test_cut_tokens_are_counted(sd1: ModelFamily, components: Components, limit: int):
    tokens = len(components.tokenizer(LONG, add_special_tokens=False, verbose=False).input_ids)
    assert sd1.tokens_cut(components, LONG, max_token_length=limit) == max(0, tokens - limit)
    assert sd1.tokens_cut(components, SHORT, max_token_length=limit) == 0


def test_gradients_reach_the_text_encoder(sd1: ModelFamily, components: Components):
    weight = components.text_encoder.encoder.layers[0].mlp.fc1.weight.requires_grad_(True)
    try:
        encoded(sd1, components, [SHORT], clip_skip=2, max_token_length=75).square().sum().backward()
        assert weight.grad.abs().sum() > 0
    finally:
        weight.requires_grad_(False).grad = None


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_gradient_checkpointing_changes_nothing(sd1: ModelFamily, components: Components, clip_skip: int):
    """Hidden states are taken out of the middle of the network, which checkpointing runs a second time."""
    encoder = components.text_encoder
    weight = encoder.encoder.layers[0].mlp.fc1.weight.requires_grad_(True)
    grads = []
    for checkpointing in (False, True):
        if checkpointing:
            encoder.train()
            encoder.gradient_checkpointing_enable({"use_reentrant": False})
        encoded(sd1, components, [SHORT], clip_skip=clip_skip, max_token_length=75).square().sum().backward()
        grads.append(weight.grad)
        weight.grad = None
    encoder.gradient_checkpointing_disable()
    encoder.eval().requires_grad_(False)
    assert grads[0].abs().sum() > 0
    torch.testing.assert_close(*grads)


def test_clip_skip_beyond_the_layers_is_refused(sd1: ModelFamily, components: Components):
    with pytest.raises(UserError) as caught:
        encoded(sd1, components, [SHORT], clip_skip=3, max_token_length=75)
    assert caught.value.key == "model.clip_skip_too_large"


class CountingTokenizer:
    pad_token_id = bos_token_id = eos_token_id = 0

    def __init__(self):
        self.calls = 0

    def __call__(self, text: str, **options: object):
        self.calls += 1
        return type("Encoding", (), {"input_ids": [1] * len(text)})


def test_a_caption_is_tokenised_once():
    chunker = Chunker(tokenizer := CountingTokenizer())
    for _ in range(5):
        chunker.rows("the same caption", 3)
    assert tokenizer.calls == 1


def test_captions_are_taken_literally(components: Components):
    assert not torch.equal(components.chunker.rows("(bear:1.5)", 1), components.chunker.rows("bear", 1))
    ids, weights = components.chunker.weighted_rows("(bear:1.5)", 1)
    assert torch.equal(ids, components.chunker.rows("bear", 1))
    assert weights[0, :3].tolist() == [1.0, 1.5, 1.0]


def test_break_goes_on_in_the_next_chunk(components: Components):
    ids, _ = components.chunker.weighted_rows("a cat BREAK a dog", 2)
    assert torch.equal(ids, torch.cat([components.chunker.rows(text, 1) for text in ("a cat", "a dog")]))


WEIGHTS = {
    "": [("", 1.0)],
    "a cat": [("a cat", 1.0)],
    "a (cat)": [("a ", 1.0), ("cat", 1.1)],
    "a ((cat))": [("a ", 1.0), ("cat", 1.21)],
    "[cat] here": [("cat", 1 / 1.1), (" here", 1.0)],
    "(cat:1.5), dog": [("cat", 1.5), (", dog", 1.0)],
    "(cat:0.5)": [("cat", 0.5)],
    "(cat: .5 )": [("cat", 0.5)],
    "(a (cat:2) dog)": [("a ", 1.1), ("cat", 2.2), (" dog", 1.1)],
    "(a [cat] dog:2)": [("a ", 2.0), ("cat", 2 / 1.1), (" dog", 2.0)],
    r"a \(cat\)": [("a (cat)", 1.0)],
    r"\[x\] \\": [("[x] \\", 1.0)],
    "(open": [("open", 1.1)],
    "a [open": [("a ", 1.0), ("open", 1 / 1.1)],
    "closed) more]": [("closed) more]", 1.0)],
    "ratio 16:9": [("ratio 16:9", 1.0)],
    "at 5:1.5)": [("at 5:1.5)", 1.0)],
    "(a:b:1.2)": [("a:b", 1.2)],
    "(): x": [(": x", 1.0)],
    "(クマ:1.2)の絵": [("クマ", 1.2), ("の絵", 1.0)],
}


@pytest.mark.parametrize("prompt", WEIGHTS)
def test_weights_are_read_as_the_web_ui_reads_them(prompt: str):
    found = parse_weights(prompt)
    assert [text for text, _ in found] == [text for text, _ in WEIGHTS[prompt]]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in WEIGHTS[prompt]])


@given(st.text(alphabet="ab ()[]:\\1.5", max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_text_can_be_read(prompt: str):
    pieces = parse_weights(prompt)
    assert pieces
    assert all(a[1] != b[1] for a, b in pairwise(pieces))


@given(st.text(alphabet="ab ,.:", max_size=30))
@settings(max_examples=100, deadline=None)
def test_text_without_brackets_stays_as_it_is(prompt: str):
    assert parse_weights(prompt) == [(prompt, 1.0)]


def test_emphasis_keeps_the_mean_of_every_chunk():
    hidden, weights = torch.randn(3, 77, 8) + 0.5, torch.rand(3, 77) + 0.5
    result = emphasise(hidden, weights)
    torch.testing.assert_close(result.mean((1, 2)), hidden.mean((1, 2)))
    ratio = result / hidden / weights[..., None]
    torch.testing.assert_close(ratio, ratio[:, :1, :1].expand_as(ratio), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_weight_changes_the_conditioning(sd1: ModelFamily, components: Components):
    plain, strong = encoded(sd1, components, ["a bear", "a (bear:1.5)"], weighted=True)
    assert not torch.allclose(plain, strong)
