"""T5's tokenizer against transformers' own, and its search among the files people have."""

import json
import struct

import pytest
import torch
from transformers import T5Tokenizer

from lora_core.errors import UserError
from lora_core.families.t5_tokenizer import T5Words, find_tokenizer, read_pieces
from tests.models_flux import t5_pieces, t5_tokenizer_json

PROMPTS = ["", "a red bear", "usu in  the snow, a picture!", "うすくま 赤い", "ÄÖ </s>x", "bear " * 40]


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def sentencepiece(pieces: list[tuple[str, float]]) -> bytes:
    """A SentencePiece model: pieces with score and type, then trainer and normaliser, as Google's library writes it."""
    out = b""
    for i, (piece, score) in enumerate(pieces):
        kind = (3, 3, 2)[i] if i < 3 else 1
        row = _field(1, piece.encode()) + b"\x15" + struct.pack("<f", score)
        out += _field(1, row + (b"\x18" + _varint(kind) if kind != 1 else b""))
    trainer = b"\x18\x01" + _varint(4 << 3) + _varint(32000) + b"\x55" + struct.pack("<f", 0.9995)
    return out + _field(2, trainer) + _field(3, _field(1, b"identity") + b"\x18\x01")


@pytest.fixture(params=["tokenizer.json", "spiece.model"])
def tokenizer_file(request, tmp_path):
    path = tmp_path / "tokens" / request.param
    if request.param == "tokenizer.json":
        return t5_tokenizer_json(path)
    path.parent.mkdir()
    path.write_bytes(sentencepiece(t5_pieces()))
    return path


def test_ids_are_those_of_transformers(tokenizer_file):
    oracle = T5Tokenizer(vocab=t5_pieces(), extra_ids=0)
    expected = oracle(PROMPTS, padding="max_length", max_length=24, truncation=True, return_tensors="pt")
    ids, mask = T5Words.read(tokenizer_file).rows(PROMPTS, 24)
    assert torch.equal(ids, expected.input_ids)
    assert torch.equal(mask, expected.attention_mask.bool())


def test_a_sentencepiece_model_is_read_as_protocol_buffers_reads_it():
    pytest.importorskip("google.protobuf")
    from transformers.utils.sentencepiece_model_pb2_new import ModelProto

    proto = ModelProto()
    for i, (piece, score) in enumerate(t5_pieces()):
        proto.pieces.add(piece=piece, score=score, type=1 if i > 2 else 3)
    proto.trainer_spec.vocab_size = 32000
    proto.normalizer_spec.precompiled_charsmap = bytes(range(256))
    pieces, charsmap = read_pieces(proto.SerializeToString())
    assert [piece for piece, _ in pieces] == [piece for piece, _ in t5_pieces()]
    assert [score for _, score in pieces] == pytest.approx([score for _, score in t5_pieces()])
    assert charsmap == bytes(range(256))


@pytest.mark.parametrize("content", [b"", b"\x0a", b"\x0a\xff\xff\xff", b"{}", b"<html>", b"\x0f\x01", b"\x0a\x02ab"])
def test_another_file_gets_a_sentence(tmp_path, content):
    for name in ("spiece.model", "tokenizer.json"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as error:
            T5Words.read(tmp_path / name)
        assert error.value.key == "t5.tokenizer_damaged"


@pytest.mark.parametrize("place", ["t5.safetensors", ".", "../flux/tokenizer_2"])
@pytest.mark.parametrize("where", ["", "tokenizer_2"])
def test_a_tokenizer_is_found_in_and_beside_the_places(tmp_path, tokenizer_file, place, where):
    home = tmp_path / "flux"
    own = home / where / tokenizer_file.name
    own.parent.mkdir(parents=True, exist_ok=True)
    (home / "t5.safetensors").touch()
    own.write_bytes(tokenizer_file.read_bytes())
    assert find_tokenizer([tmp_path / "nowhere" / "x", home / place]).samefile(own)


def test_the_tokenizer_of_clip_is_not_taken_for_it(tmp_path):
    clip = {"model": {"type": "BPE", "vocab": {"<|endoftext|>": 1}, "merges": []}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(clip), encoding="utf-8")
    assert find_tokenizer([tmp_path]) is None
    (tmp_path / "spiece.model").write_bytes(sentencepiece(t5_pieces()))
    assert find_tokenizer([tmp_path]) == tmp_path / "spiece.model"
