"""T5's tokenizer: where its file is, and prompts to token ids. It is too large, and not ours, to come along.

A file is tokenizer.json, or spiece.model as Google published it; the second is read here, for the library that usually
reads it has no wheels for some systems. Finding one needs neither torch nor a tokenizer library.
"""

import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

FILES = ("tokenizer.json", "spiece.model")
FOLDER = "tokenizer_2"
"""What diffusers calls the folder."""
HUB_NAME, HUB_FILE = "google/t5-v1_1-xxl", "spiece.model"
"""Where the original is, under the Apache licence; the one of FLUX.1 is the same."""
_CACHED_PROMPTS = 4096


# ---- the file --------------------------------------------------------------------------------------------------------


def find_tokenizer(places: Iterable[Path]) -> Path | None:
    """The first tokenizer of T5 in or beside the places: files and folders, the likeliest first."""
    for place in places:
        folder = place if place.is_dir() else place.parent
        for file in (folder / inner / name for inner in (FOLDER, "") for name in FILES):
            if file.is_file() and _is_t5(file):
                return file
    return None


def _is_t5(path: Path) -> bool:
    """Whether it is a unigram model that ends a text with </s>: the tokenizer.json of CLIP has the same name."""
    if path.suffix != ".json":
        return True
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
        pieces = {piece for piece, _ in model["vocab"][:8]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return model.get("type") == "Unigram" and "</s>" in pieces


def download_tokenizer() -> Path:
    """Google's file, fetched into the user's cache. Only called when the user allowed it. Raises UserError."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(HUB_NAME, HUB_FILE))
    except (OSError, ValueError) as error:  # no network, or none such any more
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError("model.download_failed", name=HUB_NAME, reason=reason) from error


# ---- ids -------------------------------------------------------------------------------------------------------------


class T5Words:
    """Turns prompts into rows of ids that end with </s> and are filled up. Remembers what it has seen."""

    def __init__(self, tokenizer: "Tokenizer"):
        self._tokenizer = tokenizer
        self.end, self.fill = tokenizer.token_to_id("</s>"), tokenizer.token_to_id("<pad>") or 0
        self.tokens = lru_cache(_CACHED_PROMPTS)(self._tokens)

    @classmethod
    def read(cls, path: Path) -> "T5Words":
        """From tokenizer.json or spiece.model. Raises UserError for a file that is neither."""
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(path)) if path.suffix == ".json" else unigram(path.read_bytes())
        except Exception as error:  # the library raises plain Exception
            raise UserError("t5.tokenizer_damaged", path=path) from error
        if tokenizer.token_to_id("</s>") is None:
            raise UserError("t5.tokenizer_damaged", path=path)
        return cls(tokenizer)

    @property
    def size(self) -> int:
        """How many ids there are."""
        return self._tokenizer.get_vocab_size()

    def _tokens(self, text: str) -> tuple[int, ...]:
        """Ids of a text, without the end mark, however long."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def rows(self, texts: Sequence[str], length: int) -> tuple["Tensor", "Tensor"]:
        """(B, length) ids, and where they stand for something; what does not fit is left out, the end mark stays."""
        import torch

        ids = torch.full((len(texts), length), self.fill)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for row, said, text in zip(ids, mask, texts, strict=True):
            tokens = [*self.tokens(text)[: length - 1], self.end]
            row[: len(tokens)] = torch.tensor(tokens)
            said[: len(tokens)] = True
        return ids, mask


def unigram(model: bytes) -> "Tokenizer":
    """A tokenizer of a SentencePiece model, set up as T5's is: words at spaces, each with the mark of a space."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import Unigram

    pieces, charsmap = read_pieces(model)
    tokenizer = Tokenizer(Unigram(pieces, unk_id=2, byte_fallback=False))
    if charsmap:
        tokenizer.normalizer = normalizers.Precompiled(charsmap)
    mark = {"replacement": "▁", "prepend_scheme": "always", "split": True}
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**mark)]
    )
    tokenizer.decoder = decoders.Metaspace(**mark)
    tokenizer.add_special_tokens([piece for piece, _ in pieces[:3]])
    return tokenizer


# ---- SentencePiece's file, a message of Protocol Buffers -------------------------------------------------------------

_PIECE, _NORMALIZER = 1, 3
"""Fields of the model: its pieces (text, score), and how text is brought to one form (a table)."""


def read_pieces(model: bytes) -> tuple[list[tuple[str, float]], bytes]:
    """Pieces with their scores, and the table that brings characters to one form. Raises ValueError."""
    pieces: list[tuple[str, float]] = []
    charsmap = b""
    for field, value in _fields(model):
        if field == _PIECE:
            row = dict(_fields(value))
            pieces.append((row[1].decode(), struct.unpack("<f", row[2])[0] if 2 in row else 0.0))
        elif field == _NORMALIZER:
            charsmap = dict(_fields(value)).get(2, b"")
    if len(pieces) < 3:
        raise ValueError("no pieces")
    return pieces, charsmap


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, raw bytes) of every field of a message; numbers of variable length come as their bytes."""
    at = 0
    while at < len(message):
        tag, at = _number(message, at)
        start, kind = at, tag & 7
        if kind == 0:
            _, at = _number(message, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            length, start = _number(message, at)
            at = start + length
        else:
            raise ValueError("no such kind of field")
        if at > len(message):
            raise ValueError("cut short")
        yield tag >> 3, message[start:at]


def _number(message: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, seven bits a byte, and where the next thing begins."""
    value = shift = 0
    while at < len(message):
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("cut short")
