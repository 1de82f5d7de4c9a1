"""Encoded texts on disk: read back bit for bit, never for another text or encoder, and never if damaged."""

import torch

from lora_core.data.texts import TextsOnDisk, files_identity
from lora_core.families.conditioning import Conditioning
from lora_core.families.encoded import EncodedTexts

FACTS = {"files": "abc", "clip_skip": 1, "precision": "torch.float32"}
KEY = ("usu bear, くま", False, None)


def made(seed: int = 0) -> Conditioning:
    random = torch.Generator().manual_seed(seed)
    return Conditioning(
        {
            "hidden": torch.randn(1, 7, 5, generator=random),
            "pooled": torch.randn(1, 5, generator=random).bfloat16(),
        }
    )


class Family:
    """Notes what it is asked."""

    text_parts = ("text_encoder",)

    def __init__(self):
        self.asked = []

    def encode_prompts(self, components, prompts, model, *, weighted, max_token_length):
        self.asked += prompts
        return made(len(prompts[0]))


class Parts:
    device = torch.device("cpu")


def test_what_was_written_is_read_bit_for_bit(tmp_path):
    store = TextsOnDisk(tmp_path / "くま cache", FACTS)
    assert store.read(KEY) is None
    store.write(KEY, made())
    read = store.read(KEY)
    assert read.tensors.keys() == made().tensors.keys()
    for name, tensor in made().tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
    assert not list(tmp_path.rglob("*.tmp"))


def test_another_text_or_encoder_has_another_file(tmp_path):
    paths = {TextsOnDisk(tmp_path, FACTS).path(key) for key in (KEY, ("a", False, None), (KEY[0], True, None))}
    paths.add(TextsOnDisk(tmp_path, FACTS).path((KEY[0], False, 225)))
    paths |= {TextsOnDisk(tmp_path, FACTS | change).path(KEY) for change in ({"files": "x"}, {"clip_skip": 2})}
    assert len(paths) == 6


def test_a_damaged_file_is_not_read(tmp_path):
    store = TextsOnDisk(tmp_path, FACTS)
    store.write(KEY, made())
    whole = store.path(KEY).read_bytes()
    for broken in (b"", whole[:40], whole[:-1] + bytes([whole[-1] ^ 1]), whole[:20] + whole[21:]):
        store.path(KEY).write_bytes(broken)
        assert store.read(KEY) is None


def test_the_next_run_does_not_ask_the_encoder(tmp_path):
    answers = []
    for _ in range(2):
        family = Family()
        texts = EncodedTexts(family, Parts(), None, TextsOnDisk(tmp_path, FACTS))
        answers.append((texts(["a bear", "two bears", "a bear"]), family.asked))
    assert answers[0][1] == ["a bear", "two bears"]
    assert answers[1][1] == []
    for name, tensor in answers[0][0].tensors.items():
        assert torch.equal(tensor, answers[1][0][name])


def test_files_are_known_by_what_is_in_them(tmp_path):
    data = bytearray(range(256)) * 4096
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(data)
    assert files_identity([tmp_path / "a"]) == files_identity([tmp_path / "b"])
    trained = bytes(value ^ 1 for value in data)
    (tmp_path / "b" / "model.safetensors").write_bytes(trained)
    assert files_identity([tmp_path / "a"]) != files_identity([tmp_path / "b"])
    (tmp_path / "b" / "model.safetensors").write_bytes(data + b"x")
    assert files_identity([tmp_path / "a"]) != files_identity([tmp_path / "b"])
