"""Prompts to SDXL's conditioning: two CLIPs side by side, and the text as a whole.

Podell et al. 2023 ("SDXL"), section 2.1: the layers before the last of CLIP-L and OpenCLIP bigG, without final norm,
one beside the other, and bigG's projection of the end mark. Clip skip has no part in it.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lora_core.families.text import CHUNK, Chunker, joined, rows_of
from lora_core.transfer import to_device

PARTS = ("text_encoder", "text_encoder_2")


def encode(
    encoders: Mapping[str, nn.Module],
    chunkers: Mapping[str, Chunker],
    prompts: Sequence[str],
    *,
    max_token_length: int = CHUNK,
    weighted: bool = False,
) -> tuple[Tensor, Tensor]:
    """(B, L, C) of both encoders, L = 77 for every 75 of ``max_token_length``, and (B, P) of the first chunk.

    Weights of a prompt change the first, not the second, as in AUTOMATIC1111.
    """
    chunks = max_token_length // CHUNK
    hidden, pooled = [], None
    for part in PARTS:
        encoder = encoders[part]
        ids, weights = rows_of(chunkers[part], prompts, chunks, weighted=weighted)
        out = encoder(input_ids=to_device(ids, encoder.device), output_hidden_states=True)
        hidden.append(joined(out.hidden_states[-2], weights, chunks))
        pooled = getattr(out, "text_embeds", None)
    assert pooled is not None, "the second encoder projects"
    return torch.cat(hidden, -1), pooled.unflatten(0, (-1, chunks))[:, 0]
