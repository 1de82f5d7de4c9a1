"""Prompts to conditioning: chunks of 75 tokens, clip skip, and A1111's weights such as (word:1.2)."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lora_core.errors import UserError
from lora_core.families.text_weights import parse_weights
from lora_core.transfer import to_device

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

CHUNK = 75
"""Tokens of a prompt that CLIP reads at once; begin and end marks make it 77."""
_CACHED_PROMPTS = 4096


class Chunker:
    """Turns prompts into rows of 77 token ids. Remembers what it has seen: captions come back every epoch."""

    def __init__(self, tokenizer: "CLIPTokenizer"):
        self._tokenizer = tokenizer
        self.rows = lru_cache(_CACHED_PROMPTS)(self._rows)
        self.tokens = lru_cache(_CACHED_PROMPTS)(self._tokens)

    def _tokens(self, text: str) -> tuple[int, ...]:
        """Token ids of a text, without begin and end marks, however long."""
        return tuple(self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def _rows(self, text: str, chunks: int) -> Tensor:
        """(chunks, 77) ids of a caption taken literally; what does not fit is left out."""
        return self.frame(self.tokens(text), chunks)

    def frame(self, tokens: Sequence[int], chunks: int) -> Tensor:
        """(chunks, 77): each chunk between begin and end marks, filled up with the padding token.

        The filling is the end mark in CLIP-L and "!" (0) in OpenCLIP's models.
        """
        ids = torch.full((chunks, CHUNK + 2), self._tokenizer.pad_token_id)
        ids[:, 0] = self._tokenizer.bos_token_id
        for i, row in enumerate(ids):
            part = torch.tensor(tokens[i * CHUNK : (i + 1) * CHUNK], dtype=torch.long)
            row[1 : len(part) + 1] = part
            if self._tokenizer.eos_token_id not in part:  # as it is before a BREAK
                row[len(part) + 1] = self._tokenizer.eos_token_id
        return ids

    def weighted_rows(self, prompt: str, chunks: int) -> tuple[Tensor, Tensor]:
        """(chunks, 77) ids and weights of a prompt in A1111's syntax. BREAK goes on in the next chunk."""
        tokens: list[int] = []
        weights: list[float] = []
        for text, weight in parse_weights(prompt):
            for i, part in enumerate(re.split(r"\s*\bBREAK\b\s*", text)):
                if i:
                    fill = -len(tokens) % CHUNK
                    tokens += [self._tokenizer.eos_token_id, *[self._tokenizer.pad_token_id] * fill][:fill]
                    weights += [1.0] * fill
                ids = self.tokens(part)
                tokens += ids
                weights += [weight] * len(ids)
        table = torch.ones(chunks, CHUNK + 2)
        body = torch.tensor(weights[: chunks * CHUNK])
        for row, part in zip(table, body.split(CHUNK), strict=False):
            row[1 : len(part) + 1] = part
        return self.frame(tokens, chunks), table


def tokens_cut(chunker: Chunker, prompt: str, max_token_length: int) -> int:
    """How many tokens of a caption go beyond ``max_token_length`` and are not read."""
    return max(0, len(chunker.tokens(prompt)) - max_token_length)


def encode(
    text_encoder: "CLIPTextModel",
    chunker: Chunker,
    prompts: Sequence[str],
    *,
    clip_skip: int = 1,
    max_token_length: int = CHUNK,
    weighted: bool = False,
) -> Tensor:
    """(B, L, C) with L = 77 for every 75 of ``max_token_length``, whatever the prompts: one does not change another.

    Every chunk is read by itself, and the results stand one after the other, as the web UIs do.
    """
    chunks = max_token_length // CHUNK
    ids, weights = rows_of(chunker, prompts, chunks, weighted=weighted)
    return joined(_hidden(text_encoder, ids, clip_skip), weights, chunks)


def rows_of(
    chunker: Chunker, prompts: Sequence[str], chunks: int, *, weighted: bool = False
) -> tuple[Tensor, Tensor | None]:
    """(B * chunks, 77) ids of prompts, and the weights of their tokens if they are to be read as weighted."""
    if not weighted:
        return torch.cat([chunker.rows(prompt, chunks) for prompt in prompts]), None
    ids, weights = zip(*(chunker.weighted_rows(prompt, chunks) for prompt in prompts), strict=True)
    return torch.cat(ids), torch.cat(weights)


def joined(hidden: Tensor, weights: Tensor | None, chunks: int) -> Tensor:
    """(B, chunks * 77, C) of what was read chunk by chunk, (B * chunks, 77, C), its words weighted."""
    if weights is not None:
        hidden = emphasise(hidden, weights)
    return hidden.unflatten(0, (-1, chunks)).flatten(1, 2)


def _hidden(text_encoder: "CLIPTextModel", ids: Tensor, clip_skip: int) -> Tensor:
    """(rows, 77, C): the layer ``clip_skip`` from the end, then the final norm. No attention mask, as in training."""
    layers = text_encoder.config.num_hidden_layers
    if clip_skip > layers:
        raise UserError("model.clip_skip_too_large", clip_skip=clip_skip, layers=layers)
    out = text_encoder(input_ids=to_device(ids, text_encoder.device), output_hidden_states=clip_skip > 1)
    if clip_skip == 1:
        return out.last_hidden_state
    norm = getattr(text_encoder, "text_model", text_encoder).final_layer_norm
    return norm(out.hidden_states[-clip_skip])


def emphasise(hidden: Tensor, weights: Tensor) -> Tensor:
    """Multiplies (rows, 77, C) by (rows, 77) weights and brings each row's mean back, as AUTOMATIC1111 does."""
    if (weights == 1).all():
        return hidden
    scaled = hidden * to_device(weights[..., None].to(hidden.dtype), hidden.device)
    return scaled * (hidden.mean((1, 2), keepdim=True) / scaled.mean((1, 2), keepdim=True))
