"""Tensors as numpy arrays against torch and the safetensors library: number formats, bytes, hashes, broken files."""

import errno
import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file, save, save_file

from lora_core.errors import UserError
from lora_core.io.arrays import (
    ITEM_SIZES,
    PRECISIONS,
    decode,
    encode,
    hashes_of,
    open_arrays,
    overflows,
    read_arrays,
    same_file,
    save_arrays,
    write_stream,
    writing,
)
from lora_core.io.safetensors import with_lora_hashes
from lora_core.io.tensors import TensorInfo

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
INTEGERS = {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8}
LARGEST = {"F8_E4M3": 448.0, "F8_E5M2": 57344.0}
"""8-bit floats stop here: ours stay at the largest number, torch's become infinite or NaN."""

sixteen_bits = pytest.mark.parametrize("dtype", ["F16", "BF16"])
small_floats = pytest.mark.parametrize("dtype", ["F16", "BF16", "F8_E4M3", "F8_E5M2"])


def codes(dtype: str) -> np.ndarray:
    """Every number the format has, as bytes."""
    size = ITEM_SIZES[dtype]
    return np.arange(256**size).astype(np.uint8 if size == 1 else np.uint16).view(np.uint8)


def by_torch(raw: np.ndarray, dtype: str) -> np.ndarray:
    return torch.from_numpy(raw.copy()).view(TORCH[dtype]).float().numpy()


def encoded_by_torch(values: np.ndarray, dtype: str) -> np.ndarray:
    return torch.from_numpy(values).to(TORCH[dtype]).view(torch.uint8).numpy() if values.size else values.view(np.uint8)


class TestNumberFormats:
    @small_floats
    def test_every_code_is_the_number_torch_reads(self, dtype: str):
        raw = codes(dtype)
        ours = decode(raw, dtype, (raw.size // ITEM_SIZES[dtype],))
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, by_torch(raw, dtype))
        numbers = ~np.isnan(ours)
        np.testing.assert_array_equal(np.signbit(ours[numbers]), np.signbit(by_torch(raw, dtype)[numbers]))

    @small_floats
    def test_every_number_comes_back_as_its_own_code(self, dtype: str):
        raw = codes(dtype)
        values = decode(raw, dtype, (-1,))
        again = decode(encode(values, dtype), dtype, (-1,))
        finite = np.isfinite(values)
        codes_again = encode(values[finite], dtype).view(np.uint8).reshape(finite.sum(), -1)
        np.testing.assert_array_equal(codes_again, raw.reshape(values.size, -1)[finite])
        assert np.isnan(again[np.isnan(values)]).all()

    @small_floats
    def test_numbers_between_two_codes_are_rounded_as_torch_does(self, dtype: str):
        """Just below, at and just above the middle of every two neighbours: ties go to the even code."""
        values = decode(codes(dtype), dtype, (-1,))
        values = np.unique(values[np.isfinite(values)])
        middle = ((values[1:].astype(np.float64) + values[:-1]) / 2).astype(np.float32)
        near = np.concatenate([np.nextafter(middle, -np.inf), middle, np.nextafter(middle, np.inf)], dtype=np.float32)
        np.testing.assert_array_equal(encode(near, dtype), encoded_by_torch(near, dtype))

    @small_floats
    @given(data=st.data())
    @settings(max_examples=50, deadline=None)
    def test_random_numbers_are_rounded_as_torch_does(self, dtype: str, data):
        limit = LARGEST.get(dtype)
        numbers = st.floats(width=32, allow_nan=False, min_value=limit and -limit, max_value=limit)
        values = data.draw(hnp.arrays(np.float32, st.integers(0, 40), elements=numbers))
        np.testing.assert_array_equal(encode(values, dtype), encoded_by_torch(values, dtype))

    @small_floats
    def test_nan_stays_nan(self, dtype: str):
        values = np.array([np.nan, -np.nan, 1.0], np.float32)
        np.testing.assert_array_equal(np.isnan(decode(encode(values, dtype), dtype, (3,))), [True, True, False])

    @pytest.mark.parametrize("dtype", LARGEST)
    def test_8_bits_stay_at_their_largest_number(self, dtype: str):
        values = np.array([1e6, -1e6, np.inf], np.float32)
        largest = LARGEST[dtype]
        np.testing.assert_array_equal(decode(encode(values, dtype), dtype, (3,)), [largest, -largest, largest])

    @pytest.mark.parametrize("dtype", [*TORCH, *INTEGERS])
    def test_every_format_survives(self, dtype: str):
        values = np.arange(8).reshape(2, 4)
        again = decode(encode(values, dtype), dtype, (2, 4))
        np.testing.assert_array_equal(again, values)
        assert again.dtype == (np.float64 if dtype == "F64" else np.float32 if dtype in TORCH else again.dtype)

    @pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0, 3)])
    def test_scalars_and_nothing(self, shape: tuple[int, ...]):
        for dtype in TORCH:
            assert decode(encode(np.ones(shape, np.float32), dtype), dtype, shape).shape == shape


class TestOverflow:
    @sixteen_bits
    def test_it_begins_where_torch_says_infinity(self, dtype: str):
        largest = torch.finfo(TORCH[dtype]).max
        steps = np.array([largest], np.float32)
        while np.isfinite(encoded := by_torch(encoded_by_torch(steps, dtype), dtype)).all():
            assert not overflows(steps, dtype), encoded
            steps = np.nextafter(steps, np.float32(np.inf)) * np.float32(1 + 2**-14)
        assert overflows(steps, dtype)
        assert overflows(-steps, dtype)

    def test_numbers_that_are_no_longer_finite_are_no_overflow(self):
        assert not overflows(np.array([np.nan, np.inf, 1.0], np.float32), "F16")
        assert overflows(np.array([np.nan, 1e5], np.float32), "F16")
        assert not overflows(np.empty(0, np.float32), "F16")

    def test_float64_may_be_too_large_for_float32(self):
        assert overflows(np.array([1e39]), "F32")
        assert not overflows(np.array([3e38]), "F32")


def state(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Names out of order, scalars, a tensor that reaches beyond 1 MiB (where the legacy hash looks), Japanese."""
    return {
        "b.lora_up.weight": rng.standard_normal((320, 8), dtype=np.float32),
        "a.alpha": np.float32(4).reshape(()),
        "a.large": rng.standard_normal((700, 1000), dtype=np.float32),
        "B": rng.standard_normal((3, 2, 1, 1), dtype=np.float32),
        "層": rng.standard_normal(5, dtype=np.float32),
        "empty": np.empty((0, 4), np.float32),
    }


def as_torch(tensors: Mapping[str, np.ndarray], precision: str) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(np.array(values)).to(TORCH[PRECISIONS[precision]]) for name, values in tensors.items()
    }


METADATA = {"ss_network_dim": "8"}


class TestWriting:
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_bytes_are_those_of_the_library(self, tmp_path: Path, precision: str):
        tensors = state(np.random.default_rng(0))
        save_arrays(tensors, METADATA, tmp_path / "ours.safetensors", precision)
        ours = (tmp_path / "ours.safetensors").read_bytes()
        (length,) = struct.unpack("<Q", ours[:8])
        metadata = json.loads(ours[8 : 8 + length])["__metadata__"]
        theirs = save(as_torch(tensors, precision), metadata)
        (their_length,) = struct.unpack("<Q", theirs[:8])
        assert ours[8 + length :] == theirs[8 + their_length :]
        header, their_header = json.loads(ours[8 : 8 + length]), json.loads(theirs[8 : 8 + their_length])
        assert header == their_header
        without = [[key for key in h if key != "__metadata__"] for h in (header, their_header)]
        assert without[0] == without[1]
        assert length % 8 == 0

    def test_with_one_metadata_entry_every_byte_is_the_same(self, tmp_path: Path):
        infos = {"x": TensorInfo("F32", (2, 2)), "y": TensorInfo("F16", (3,)), "z": TensorInfo("I64", (1,))}
        values = {"x": torch.ones(2, 2), "y": torch.ones(3).half(), "z": torch.ones(1).long()}
        raw = {name: encode(t.numpy(), infos[name].dtype) for name, t in values.items()}
        write_stream(infos, lambda name: [raw[name]], {"format": "pt"}, tmp_path / "m.safetensors")
        assert (tmp_path / "m.safetensors").read_bytes() == save(values, {"format": "pt"})

    def test_formats_are_ordered_as_the_library_does(self, tmp_path: Path):
        values = {f"{i}": torch.zeros(1, dtype=dtype) for i, dtype in enumerate((TORCH | INTEGERS).values())}
        names = dict(zip(values, TORCH | INTEGERS, strict=True))
        infos = {name: TensorInfo(dtype, (1,)) for name, dtype in names.items()}
        write_stream(infos, lambda n: [np.zeros(ITEM_SIZES[names[n]], np.uint8)], {}, tmp_path / "m.safetensors")
        assert (tmp_path / "m.safetensors").read_bytes() == save(values)

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_hashes_are_those_of_training(self, tmp_path: Path, precision: str):
        tensors = state(np.random.default_rng(1))
        metadata = METADATA | {"modelspec.title": "クマ"}
        path = tmp_path / "m.safetensors"
        save_arrays(tensors, metadata | {"sshs_model_hash": "stale"}, path, precision)
        assert dict(read_arrays(path)[1]) == with_lora_hashes(as_torch(tensors, precision), metadata)

    @pytest.mark.parametrize("size", [0, 0x100000 - 200, 0x100000 + 3, 0x110000 - 8, 0x110000 + 100])
    def test_the_legacy_hash_sees_its_window_wherever_a_tensor_ends(self, size: int):
        rng = np.random.default_rng(size)
        tensors = {
            n: torch.from_numpy(rng.integers(0, 256, s).astype(np.uint8)) for n, s in (("a", size), ("b", 70000))
        }
        encoded = {name: ("U8", tuple(t.shape), t.numpy()) for name, t in tensors.items()}
        assert hashes_of(encoded, {}) == with_lora_hashes(tensors, {})

    def test_torch_reads_what_was_written(self, tmp_path: Path):
        tensors = state(np.random.default_rng(2))
        save_arrays(tensors, {}, tmp_path / "m.safetensors", "float")
        for name, values in load_file(tmp_path / "m.safetensors").items():
            np.testing.assert_array_equal(values.numpy(), tensors[name])

    def test_a_number_too_large_is_refused_and_nothing_is_written(self, tmp_path: Path):
        with pytest.raises(UserError) as caught:
            save_arrays({"a.lora_up.weight": np.full((2, 2), 7e4, np.float32)}, {}, tmp_path / "m.safetensors", "fp16")
        assert caught.value.key == "tensor.overflow"
        assert "bf16" in str(caught.value)
        assert not list(tmp_path.iterdir())

    def test_a_file_of_no_tensors(self, tmp_path: Path):
        write_stream({}, lambda name: [], {"a": "b"}, tmp_path / "m.safetensors")
        assert read_arrays(tmp_path / "m.safetensors") == ({}, {"a": "b"})

    def test_pieces_of_any_size_make_a_tensor(self, tmp_path: Path):
        raw = encode(np.arange(100, dtype=np.float32), "F32")
        pieces = [raw[:1], raw[1:8], raw[8:8], raw[8:]]
        infos = {"a": TensorInfo("F32", (100,))}
        assert list(writing(infos, lambda name: pieces, {}, tmp_path / "m.safetensors")) == [1, 7, 0, 392]
        np.testing.assert_array_equal(read_arrays(tmp_path / "m.safetensors")[0]["a"], np.arange(100))


TWO = {"a": TensorInfo("F32", (10,)), "b": TensorInfo("F32", (10,))}


class TestWritingFails:
    """The old file is whole, and nothing else lies there."""

    def old(self, tmp_path: Path) -> Path:
        path = tmp_path / "m.safetensors"
        path.write_bytes(b"old")
        return path

    def test_disk_full(self, tmp_path: Path):
        path = self.old(tmp_path)

        def chunks(name: str):
            if name == "b":
                raise OSError(errno.ENOSPC, "No space left on device")
            yield np.zeros(40, np.uint8)

        with pytest.raises(UserError) as caught:
            write_stream(TWO, chunks, {}, path)
        assert caught.value.key == "file.disk_full"
        assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
        assert path.read_bytes() == b"old"

    def test_a_computation_that_fails_half_way(self, tmp_path: Path):
        path = self.old(tmp_path)

        def chunks(name: str):
            yield np.zeros(8, np.uint8)
            raise UserError("lora.not_a_lora", path="x")

        with pytest.raises(UserError, match="x is not a LoRA"):
            write_stream(TWO, chunks, {}, path)
        assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
        assert path.read_bytes() == b"old"

    def test_a_file_where_the_folder_should_be(self, tmp_path: Path):
        (tmp_path / "folder").write_text("a file")
        with pytest.raises(UserError) as caught:
            write_stream({}, lambda name: [], {}, tmp_path / "folder" / "m.safetensors")
        assert caught.value.key == "file.cannot_write"

    def test_a_folder_that_is_not_there_is_made(self, tmp_path: Path):
        write_stream({}, lambda name: [], {}, tmp_path / "new" / "日本語" / "m.safetensors")
        assert (tmp_path / "new" / "日本語" / "m.safetensors").is_file()


posix = pytest.mark.skipif(os.name == "nt", reason="Windows keeps hold of a mapped file")


class TestReading:
    def file(self, tmp_path: Path) -> Path:
        save_file({"w": torch.arange(24).reshape(6, 4).half(), "s": torch.tensor(2.0)}, tmp_path / "m.safetensors")
        return tmp_path / "m.safetensors"

    def test_whole_and_by_rows(self, tmp_path: Path):
        with open_arrays(self.file(tmp_path)) as file:
            whole = np.arange(24, dtype=np.float32).reshape(6, 4)
            np.testing.assert_array_equal(file.read("w"), whole)
            np.testing.assert_array_equal(file.read_rows("w", 1, 4), whole[1:4])
            assert file.read_rows("w", 2, 2).shape == (0, 4)
            assert file.read("s") == 2

    @posix
    def test_what_was_read_may_be_changed_and_outlives_the_file(self, tmp_path: Path):
        path = self.file(tmp_path)
        with open_arrays(path) as file:
            values = file.read("s")
            raw = file.raw("w")
        values += 1
        path.unlink()
        assert values == 3
        np.testing.assert_array_equal(raw.view(np.float16), np.arange(24))

    def test_bytes_in_the_file_cannot_be_changed(self, tmp_path: Path):
        with open_arrays(self.file(tmp_path)) as file, pytest.raises(ValueError, match="read-only"):
            file.raw("w")[0] = 1

    def test_a_closed_file_is_not_read(self, tmp_path: Path):
        with open_arrays(self.file(tmp_path)) as file:
            pass
        with pytest.raises(AssertionError, match="closed"):
            file.read("w")

    def test_an_error_while_reading_closes_it_too(self, tmp_path: Path):
        with pytest.raises(ZeroDivisionError), open_arrays(self.file(tmp_path)) as file:
            1 / 0  # noqa: B018
        with pytest.raises(AssertionError, match="closed"):
            file.read("w")

    @posix
    def test_the_file_can_be_replaced_while_it_is_open(self, tmp_path: Path):
        path = self.file(tmp_path)
        with open_arrays(path) as file:
            save_arrays({"new": file.read("w")}, {}, path, "float")
            np.testing.assert_array_equal(file.read("w")[0], [0, 1, 2, 3])
        assert list(read_arrays(path)[0]) == ["new"]


def header(table: object, data: int = 0, length: int | None = None) -> bytes:
    raw = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(data)


def row(start: int, end: int, shape: object = (2,), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": [start, end]}


BROKEN: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": b"1234567",
    "length of 2^63": header({"a": row(0, 8)}, 8, 2**63),
    "length of 2^64 - 1": header({"a": row(0, 8)}, 8, 2**64 - 1),
    "length beyond the file": header({"a": row(0, 8)}, 8, 5000),
    "no data": header({"a": row(0, 8)}),
    "half the data": header({"a": row(0, 8)}, 4),
    "data nobody names": header({"a": row(0, 8)}, 12),
    "overlap": header({"a": row(0, 8), "b": row(4, 12)}, 12),
    "same bytes twice": header({"a": row(0, 8), "b": row(0, 8)}, 8),
    "gap": header({"a": row(0, 8), "b": row(12, 20)}, 20),
    "gap before the first": header({"a": row(4, 12)}, 12),
    "backwards": header({"a": row(8, 0)}, 8),
    "negative offset": header({"a": row(-8, 0)}, 8),
    "negative shape": header({"a": row(0, 8, (-1, -2))}, 8),
    "huge shape": header({"a": row(0, 8, (2**62, 2**62))}, 8),
    "shape of 0 x huge": header({"a": row(0, 8, (0, 2**62))}, 8),
    "larger than its bytes": header({"a": row(0, 8, (3,))}, 8),
    "smaller than its bytes": header({"a": row(0, 8, (1,))}, 8),
    "a thousand sides": header({"a": row(0, 8, (1,) * 1000)}, 8),
    "shape of fractions": header({"a": row(0, 8, [2.0])}, 8),
    "shape of booleans": header({"a": row(0, 4, [True])}, 4),
    "shape of NaN": header(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', 8),
    "shape is a text": header({"a": row(0, 8, "22")}, 8),
    "format is a number": header({"a": row(0, 8, (2,), 5)}, 8),
    "unknown format": header({"a": row(0, 8, (2,), "F7_E3M3")}, 8),
    "three offsets": header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4, 8]}}, 8),
    "a name twice": header(b'{"a":%s,"a":%s}' % ((json.dumps(row(0, 8)).encode(),) * 2), 8),
    "name of half a letter": header(b'{"\\ud800":%s}' % json.dumps(row(0, 8)).encode(), 8),
    "not UTF-8": header(b'{"\xff\xfe":1}'),
    "UTF-16": header("{}".encode("utf-16-le")),
    "deep": header(b'{"a":' * 50000),
    "deep list": header(b'{"a":' + b"[" * 99999),
    "huge number": header(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}', 8),
    "a list": header(b"[]"),
    "metadata is a list": header({"__metadata__": ["a"]}),
    "metadata is a number": header({"__metadata__": 5}),
    "row is null": header({"a": None}),
    "zeros": bytes(100),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_in_one_sentence(tmp_path: Path, name: str):
    path = tmp_path / "モデル.safetensors"
    path.write_bytes(BROKEN[name])
    with pytest.raises(UserError) as caught, open_arrays(path):
        pass
    for language in ("en", "ja"):
        assert "\n" not in caught.value.message(language)


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x10280])
def test_a_header_whose_length_looks_like_a_pickle(tmp_path: Path, length: int):
    """Pickles begin with the bytes 80 02, 80 03 or 80 04."""
    entries = b'{"a":%s}' % json.dumps(row(0, 8)).encode()
    (tmp_path / "m.safetensors").write_bytes(header(entries.ljust(length), 8))
    np.testing.assert_array_equal(read_arrays(tmp_path / "m.safetensors")[0]["a"], [0, 0])


def test_a_pickle_is_refused_in_words(tmp_path: Path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "m.pt")
    with pytest.raises(UserError) as caught, open_arrays(tmp_path / "m.pt"):
        pass
    assert caught.value.key == "model.not_safetensors"


def test_metadata_of_other_types_is_read_as_text(tmp_path: Path):
    table = b'{"__metadata__":{"a":1,"b":{"c":null},"d":"\\ud800"}}'
    (tmp_path / "m.safetensors").write_bytes(header(table))
    assert read_arrays(tmp_path / "m.safetensors")[1] == {"a": "1", "b": "{'c': None}", "d": "?"}


def test_one_file_under_two_names(tmp_path: Path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "c").write_text("x")
    assert same_file(tmp_path / "a", tmp_path / "b")
    assert not same_file(tmp_path / "a", tmp_path / "c")
    assert not same_file(tmp_path / "a", tmp_path / "missing")


def test_no_torch():
    code = "import sys, lora_core.io.arrays, lora_core.merge.lora; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
