"""Thousands of broken LoRA files: nothing but a sentence for the person comes out, fast and in little memory.

Mutations are of three kinds, one to three of them in a file: of the tensors (the file is then well-formed, and reaches
the mathematics), of the header's JSON, and of raw bytes. Every file follows from its number.
"""

import json
import struct
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from lora_core.errors import UserError
from lora_core.i18n import LANGUAGES
from lora_core.io.arrays import encode
from lora_core.io.headers import identify
from lora_core.merge.algorithms import factors
from lora_core.merge.lora import load_lora
from tests.merge.makers import ALGORITHMS, layer_tensors

FILES = 2400
RNG = np.random.Generator


class Tensor(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    raw: bytes


@dataclass
class Model:
    """A LoRA file that may be written wrongly."""

    tensors: dict[str, Tensor]
    metadata: object = field(default_factory=dict)
    edits: list[Callable[[dict], None]] = field(default_factory=list)
    """Changes of the header's JSON once it is right."""

    def header(self) -> dict[str, object]:
        table: dict[str, object] = {"__metadata__": self.metadata}
        position = 0
        for name, tensor in self.tensors.items():
            end = position + len(tensor.raw)
            table[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [position, end]}
            position = end
        for edit in self.edits:
            edit(table)
        return table

    def bytes(self) -> bytes:
        text = json.dumps(self.header()).encode()
        return struct.pack("<Q", len(text)) + text + b"".join(tensor.raw for tensor in self.tensors.values())


# ---- sound files to begin with ---------------------------------------------------------------------------------------

LAYERS = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": (12, 20),
    "lora_unet_down_blocks_0_resnets_0_conv1": (12, 8, 3, 3),
    "lora_te_text_model_encoder_layers_0_mlp_fc1": (16, 12),
}
BASES = {name: np.full(shape, 0.1, np.float32) for name, shape in LAYERS.items()}
FLUX = ("transformer.transformer_blocks.0.attn.to_q", "transformer.transformer_blocks.0.attn.to_k")
FORMATS = ("F16", "F32", "BF16", "F64", "F8_E4M3")


def stored(values: np.ndarray, dtype: str) -> Tensor:
    return Tensor(dtype, values.shape, encode(values, dtype).tobytes())


def sound(rng: RNG) -> Model:
    """Every algorithm, spelling and number format."""
    dtype = str(rng.choice(FORMATS))
    if rng.random() < 0.15:
        return Model(
            {
                f"{layer}.lora_{half}.weight": stored(rng.standard_normal(shape), dtype)
                for layer in FLUX
                for half, shape in (("A", (1, 3072)), ("B", (3072, 1)))
            },
            {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 2, "transformer.r": 1})},
        )
    prefix = "dora " if rng.random() < 0.2 else ""
    tensors = {
        f"{layer}.{name}": stored(values, dtype)
        for layer, shape in LAYERS.items()
        for name, values in layer_tensors(prefix + str(rng.choice(ALGORITHMS)), shape, 2, 1.0, rng).items()
    }
    return Model(tensors, {"ss_base_model_version": "sd_v1"})


# ---- mutations -------------------------------------------------------------------------------------------------------

TAILS = (
    *(
        "lora_down.weight",
        "lora_up.weight",
        "lora_mid.weight",
        "alpha",
        "dora_scale",
        "hada_w1_a",
        "hada_t1",
        "hada_t2",
    ),
    *(
        "lokr_w1",
        "lokr_w1_a",
        "lokr_w2",
        "lokr_w2_b",
        "lokr_t2",
        "a1.weight",
        "b2.weight",
        "bm.weight",
        "diff",
        "diff_b",
    ),
    *(
        "w_norm",
        "b_norm",
        "weight",
        "on_input",
        "oft_blocks",
        "lora_up.bias",
        "lora_A.weight",
        "lora_B.default.weight",
        "scalar",
    ),
)
LAYER_NAMES = (
    *LAYERS,
    *FLUX,
    "transformer.single_transformer_blocks.0.proj_mlp",
    "transformer.norm_out.linear",
    "lora_unet_double_blocks_0_img_attn_qkv",
    "lora_te2_text_model_encoder_layers_0_mlp_fc1",
    "lora_unet_input_blocks_4_1_proj_in",
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "lora_unet_",
    "",
    ".",
    "層",
    "x" * 3000,
)
ODD_SIDES = (0, 1, 2, 3, -1, 2**31, 2**62, 10**30, 1.5, "2", None, True, [2], float("nan"), float("inf"))
ODD_VALUES = (*ODD_SIDES, [], {}, "x", [-8, 0], [0, 2**63], {"dtype": "F32"}, "F32", "F4", "C64", "I64", "BOOL", "f16")


def one(rng: RNG, values):
    return values[int(rng.integers(len(values)))]


def drop(model: Model, rng: RNG) -> None:
    if model.tensors:
        del model.tensors[one(rng, list(model.tensors))]


def rename(model: Model, rng: RNG) -> None:
    """One tensor becomes another's, of this layer or of any."""
    old = one(rng, list(model.tensors))
    layer = old.partition(".")[0]
    new = one(rng, (f"{layer}.{one(rng, TAILS)}", f"{one(rng, LAYER_NAMES)}.{one(rng, TAILS)}", old[:-1], old + "x"))
    model.tensors = {new if name == old else name: tensor for name, tensor in model.tensors.items()}


def turn(model: Model, rng: RNG) -> None:
    """A layer of OFT; sometimes nothing else."""
    model.tensors = {} if rng.random() < 0.5 else model.tensors
    model.tensors[f"{one(rng, LAYER_NAMES)}.oft_blocks"] = stored(np.zeros((2, 4, 4)), "F16")


def empty(model: Model, rng: RNG) -> None:
    """No layer at all, or none of a LoRA."""
    names = one(rng, ([], ["model.diffusion_model.input_blocks.0.0.weight"], ["x.weight", "y.alpha"]))
    model.tensors = {name: stored(np.zeros(3), "F16") for name in names}


def swap(model: Model, rng: RNG) -> None:
    a, b = one(rng, list(model.tensors)), one(rng, list(model.tensors))
    model.tensors[a], model.tensors[b] = model.tensors[b], model.tensors[a]


def reshape(model: Model, rng: RNG) -> None:
    """The same numbers in another shape."""
    name = one(rng, list(model.tensors))
    tensor = model.tensors[name]
    count = int(np.prod(tensor.shape))
    divisors = [n for n in range(1, min(count, 5000) + 1) if count % n == 0] or [1]
    side = one(rng, divisors)
    shapes = ((count,), (side, count // side), (1, side, count // side), tensor.shape[::-1], (*tensor.shape, 1), ())
    shape = one(rng, shapes)
    model.tensors[name] = tensor._replace(shape=shape if int(np.prod(shape)) == count else (count, 1))


def resize(model: Model, rng: RNG) -> None:
    """Other numbers, of any small shape, also an empty one."""
    name = one(rng, list(model.tensors))
    shape = tuple(int(n) for n in rng.choice([0, 1, 2, 3, 8, 12, 13, 20, 300], size=int(rng.integers(0, 6))))
    if np.prod(shape, dtype=float) < 1e5:
        model.tensors[name] = stored(rng.standard_normal(shape), one(rng, FORMATS))


def outer(model: Model, rng: RNG) -> None:
    """Long and thin tensors, whose product is a giant."""
    for name in list(model.tensors):
        side = int(one(rng, (30000, 20000, 12000)))
        if name.endswith(("up.weight", "_a", "B.weight", "b1.weight", "lokr_w1")):
            model.tensors[name] = stored(np.ones((side, 1)), "F8_E4M3")
        elif name.endswith(("down.weight", "_b", "A.weight", "b2.weight", "lokr_w2")):
            model.tensors[name] = stored(np.ones((1, side)), "F8_E4M3")


def bad_numbers(model: Model, rng: RNG) -> None:
    name = one(rng, list(model.tensors))
    tensor = model.tensors[name]
    count = int(np.prod(tensor.shape))
    values = rng.standard_normal(count)
    values[rng.integers(0, max(count, 1), 1) if count else []] = one(rng, (np.nan, np.inf, 1e300, 1e38, 1e-300, -0.0))
    with np.errstate(all="ignore"):
        model.tensors[name] = stored(values.reshape(tensor.shape), one(rng, ("F64", "F32")))


def whole_numbers(model: Model, rng: RNG) -> None:
    name = one(rng, list(model.tensors))
    model.tensors[name] = stored(np.ones(model.tensors[name].shape), one(rng, ("I64", "U8", "BOOL", "I32")))


def odd_metadata(model: Model, rng: RNG) -> None:
    inner = one(rng, ("[" * 50000, '{"transformer.lora_alpha": 1e999}', "\x00", '{"lora_alpha": [1]}', "<script>", "1"))
    model.metadata = one(rng, ({"lora_adapter_metadata": inner}, {"a": {"b": [1]}}, [], "x", 5, None, {"": None}))


def edit_row(model: Model, rng: RNG) -> None:
    """One value of the JSON, in a place of any depth."""
    seed = int(rng.integers(2**32))

    def edit(table: dict) -> None:
        own = np.random.default_rng(seed)
        name = one(own, list(table))
        entry = table[name]
        if own.random() < 0.1 or not isinstance(entry, dict) or not entry:
            table[name] = deepcopy(one(own, ODD_VALUES))
            return
        key = one(own, list(entry))
        if isinstance(entry[key], list) and entry[key] and own.random() < 0.7:
            entry[key][int(own.integers(len(entry[key])))] = deepcopy(one(own, ODD_SIDES))
        else:
            entry[key] = deepcopy(one(own, ODD_VALUES))

    model.edits.append(edit)


OF_TENSORS = (
    drop,
    rename,
    rename,
    swap,
    reshape,
    reshape,
    resize,
    resize,
    bad_numbers,
    whole_numbers,
    odd_metadata,
    outer,
    turn,
    empty,
)
"""The file stays well-formed."""
OF_JSON = (edit_row,)


def flip_header(raw: bytes, rng: RNG) -> bytes:
    (length,) = struct.unpack("<Q", raw[:8])
    out = bytearray(raw)
    for _ in range(int(rng.integers(1, 9))):
        out[int(rng.integers(8 + length))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def flip_anywhere(raw: bytes, rng: RNG) -> bytes:
    out = bytearray(raw)
    for _ in range(int(rng.integers(1, 50))):
        out[int(rng.integers(len(out)))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def truncate(raw: bytes, rng: RNG) -> bytes:
    return raw[: int(rng.integers(len(raw)))]


def lengthen(raw: bytes, rng: RNG) -> bytes:
    return raw + rng.bytes(int(rng.integers(1, 100)))


def other_length(raw: bytes, rng: RNG) -> bytes:
    (length,) = struct.unpack("<Q", raw[:8])
    return struct.pack("<Q", one(rng, (0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1, 10**8))) + raw[8:]


def with_header(raw: bytes, change: Callable[[bytes], bytes]) -> bytes:
    (length,) = struct.unpack("<Q", raw[:8])
    text = change(raw[8 : 8 + length])
    return struct.pack("<Q", len(text)) + text + raw[8 + length :]


def splice(raw: bytes, rng: RNG) -> bytes:
    """A piece of the JSON copied over another place of it."""

    def change(text: bytes) -> bytes:
        a, b, c = sorted(int(n) for n in rng.integers(len(text), size=3))
        return text[:a] + text[b:c] + text[int(rng.integers(a, len(text))) :]

    return with_header(raw, change)


def nest(raw: bytes, rng: RNG) -> bytes:
    deep = one(rng, (b'{"a":', b"[", b'{"a":[')) * int(rng.integers(1, 60000))
    return with_header(raw, lambda text: one(rng, (b'{"a":' + deep, text[:-1] + b',"z":' + deep)))


def not_text(raw: bytes, rng: RNG) -> bytes:
    junk = one(
        rng, (b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800", b"\x00", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"\xe3")
    )

    def change(text: bytes) -> bytes:
        at = int(rng.integers(1, len(text)))
        return text[:at] + junk + text[at:]

    return with_header(raw, change)


def twice(raw: bytes, rng: RNG) -> bytes:
    return with_header(raw, lambda text: text[:-1] + b"," + text[1:])


def noise(raw: bytes, rng: RNG) -> bytes:
    start = one(rng, (b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"{", struct.pack("<Q", 50) + b"{"))
    return start + rng.bytes(int(rng.integers(0, 200)))


OF_BYTES = (
    *(flip_header, flip_header, flip_anywhere, flip_anywhere, truncate, lengthen, other_length),
    *(splice, nest, not_text, twice, noise),
)


def mutated(number: int) -> bytes:
    rng = np.random.default_rng([2024, number])
    model = sound(rng)
    kind = rng.random()
    for _ in range(int(rng.integers(1, 4))):
        if model.tensors and kind < 0.9:
            one(rng, OF_JSON if 0.6 < kind < 0.75 else OF_TENSORS)(model, rng)
    raw = model.bytes()
    return one(rng, OF_BYTES)(raw, rng) if kind > 0.7 else raw


# ---- the test --------------------------------------------------------------------------------------------------------


def read_all(path: Path) -> Counter[str]:
    """What became of a file and of each of its layers: the key of the error, or "fine"."""
    found: Counter[str] = Counter()
    try:
        identify(path)
        file = load_lora(path)
        file.vectors()
    except UserError as error:
        return Counter([spoken(error)])
    for name in file.names():
        try:
            found[f"fine {type(file.change(name, BASES.get(name))).__name__}"] += 1
        except UserError as error:
            found[spoken(error)] += 1
    return found


def spoken(error: UserError) -> str:
    """The key of an error that has a sentence in both languages."""
    assert all("\n" not in error.message(language) for language in LANGUAGES)
    return error.key


def test_broken_files_only_ever_give_a_sentence(tmp_path: Path, monkeypatch):
    """The largest matrix is set down to 2 MB, so that one that should have been refused shows by its size."""
    monkeypatch.setattr(factors, "MAX_ELEMENTS", 500_000)
    path = tmp_path / "m.safetensors"
    found: Counter[str] = Counter()
    for number in range(FILES):
        path.write_bytes(mutated(number))
        try:
            found += read_all(path)
        except Exception as error:
            raise AssertionError(f"file {number}: {error!r}") from error
    reached = {key for key, count in found.items() if count >= 3}
    assert reached >= {
        *("fine LowRank", "fine Dense", "model.damaged", "model.truncated", "model.no_model", "lora.missing_half"),
        *("lora.halves_differ", "lora.not_finite", "lora.bad_shape", "lora.rank_zero", "lora.too_large"),
        *("lora.other_shape", "lora.unknown_tensors", "lora.whole_numbers", "lora.layer_twice", "lora.not_a_lora"),
        *("lora.not_linear", "lora.bad_alpha", "lora.mixed_families", "tensor.unknown_format"),
    }, found


@pytest.mark.parametrize("number", range(0, FILES, FILES // 20))
def test_a_file_follows_from_its_number(number: int):
    assert mutated(number) == mutated(number)


def test_sound_files_are_read_without_a_word(tmp_path: Path):
    path = tmp_path / "m.safetensors"
    for number in range(60):
        path.write_bytes(sound(np.random.default_rng(number)).bytes())
        assert {key.split()[0] for key in read_all(path)} == {"fine"}, number
