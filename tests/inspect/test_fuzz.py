"""Mutated files: a report, or one sentence; never a crash."""

import json
import random
import struct

import pytest

from lora_core.errors import UserError
from lora_core.inspect.report import to_json
from lora_core.inspect.weights import inspect_file
from tests.inspect.samples import metadata, write
from tests.merge import makers

ROUNDS = 60
SWAPS = (
    (b"F16", b"F32"),
    (b"lora_up", b"lora_dn"),
    (b"alpha", b"diff_"),
    (b"[2,", b"[0,"),
    (b"[2,", b"[-1,"),
    (b'"2"', b"[1]"),
)
"""Words of a header -> what stands there instead."""


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> bytes:
    layers = {name: shape for name, shape in makers.SMALL["sd1"].items() if shape[0] <= 768}
    path = write(
        tmp_path_factory.mktemp("fuzz") / "lora.safetensors", makers.lora_state(layers, rank=2), metadata(rank=2)
    )
    return path.read_bytes()


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed in the header (mostly) or the numbers, cut, or with a piece of the header written twice."""
    (length,) = struct.unpack("<Q", data[:8])
    changed = bytearray(data)
    match rng.randrange(5):
        case 0:
            return data[: rng.randrange(len(data))]
        case 1:
            for _ in range(rng.randrange(1, 8)):
                changed[rng.randrange(len(data))] = rng.randrange(256)
        case 2:
            for _ in range(rng.randrange(1, 4)):
                changed[8 + rng.randrange(length)] = rng.choice(b'0123456789{}[]",:-abFloat')
        case 3:
            old, new = rng.choice(SWAPS)
            return relength(data, data[8 : 8 + length].replace(old, new, rng.randrange(1, 5)), length)
        case 4:
            digits = [i for i in range(8, 8 + length) if chr(data[i]).isdigit()]
            changed[rng.choice(digits)] = rng.choice(b"0123456789")
    return bytes(changed)


def relength(data: bytes, header: bytes, old: int) -> bytes:
    return struct.pack("<Q", len(header)) + header + data[8 + old :]


@pytest.mark.parametrize("seed", range(10))
def test_mutated_files_give_a_report_or_a_sentence(seed, original, tmp_path):
    rng, read = random.Random(seed), 0
    path = tmp_path / "mutated.safetensors"
    for _ in range(ROUNDS):
        path.write_bytes(mutated(original, rng))
        try:
            report = inspect_file(path)
        except UserError:
            continue
        json.dumps(to_json(report), allow_nan=False)
        read += 1
    assert 0 < read < ROUNDS  # some are still files, some are not
