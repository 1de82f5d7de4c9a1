"""Number formats of .safetensors files as numpy arrays: what bytes mean, and how numbers are rounded to them."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Array = np.ndarray
Precision = Literal["fp16", "bf16", "float"]
PRECISIONS: dict[str, str] = {"fp16": "F16", "bf16": "BF16", "float": "F32"}
"""How people say it -> how safetensors writes it."""

_PLAIN = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
"""Formats that numpy has itself."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})


def decode(raw: Array, dtype: str, shape: Sequence[int]) -> Array:
    """The numbers behind raw bytes (uint8): float32 for every floating-point format but F64, which stays."""
    if dtype == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if dtype in ("F8_E4M3", "F8_E5M2"):
        return _fp8_values(dtype)[raw].reshape(shape)
    plain: Array = raw.view(_PLAIN[dtype]).reshape(shape)
    return plain.astype(np.float32) if dtype == "F16" else plain


def encode(values: Array, dtype: str) -> Array:
    """Numbers as raw bytes (uint8, flat) in a format, rounded to nearest, ties to even.

    Values beyond the range become infinite in F16, as torch does it; callers who mind check with ``overflows``.
    """
    if dtype == "BF16":
        return _to_bf16(values).view(np.uint8).reshape(-1)
    if dtype in ("F8_E4M3", "F8_E5M2"):
        return _to_fp8(values, dtype).reshape(-1)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=_PLAIN[dtype]).reshape(-1).view(np.uint8)


_TOO_LARGE = {
    "F32": (2 - 2**-24) * 2.0**127,
    "BF16": (2 - 2**-8) * 2.0**127,
    "F16": 65520.0,
    "F8_E5M2": 61440.0,
    "F8_E4M3": 464.0,
}
"""The smallest number that is rounded to infinity, or beyond the last finite one: half a step above that one."""


def overflows(values: Array, dtype: str) -> bool:
    """Whether a finite number would become infinite (or, in 8 bits, another number altogether) in the format."""
    limit = _TOO_LARGE.get(dtype)
    if limit is None or not values.size:
        return False
    if max(float(values.max()), -float(values.min())) < limit:  # False also where there is a NaN
        return False
    return bool(np.any(np.isfinite(values) & (np.abs(values) >= limit)))


def _to_bf16(values: Array) -> Array:
    """The upper half of float32, rounded to nearest even; a NaN stays one."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    nan = np.isnan(np.asarray(values, dtype=np.float32))
    return np.where(nan, np.uint16(0x7FC0), rounded) if nan.any() else rounded


def _fp8_values(dtype: str) -> Array:
    """float32 of all 256 codes of an 8-bit float."""
    exponent_bits, bias = (4, 7) if dtype == "F8_E4M3" else (5, 15)
    mantissa_bits = 7 - exponent_bits
    codes = np.arange(256)
    sign = np.where(codes & 0x80, -1.0, 1.0)
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    fraction = (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    values = sign * np.where(exponent > 0, (1 + fraction) * 2.0 ** (exponent - bias), fraction * 2.0 ** (1 - bias))
    if dtype == "F8_E4M3":
        values[[0x7F, 0xFF]] = np.nan
    else:
        top = exponent == 31
        values = np.where(top, np.where(fraction == 0, sign * np.inf, np.nan), values)
    return values.astype(np.float32)


def _to_fp8(values: Array, dtype: str) -> Array:
    """Nearest code, ties to the even one; what is too large takes the largest finite one (as ``saturate`` does)."""
    table = _fp8_values(dtype)[:128]
    finite = table[np.isfinite(table)].astype(np.float64)
    magnitude = np.abs(np.asarray(values, dtype=np.float64))
    above = np.clip(np.searchsorted(finite, magnitude), 1, len(finite) - 1)
    low, high = finite[above - 1], finite[above]
    middle = (low + high) / 2
    up = (magnitude > middle) | ((magnitude == middle) & (above % 2 == 0))
    code = np.where(up, above, above - 1).astype(np.uint8)
    code = np.where(np.isnan(magnitude), np.uint8(0x7F), code)
    return code | np.where(np.signbit(values), np.uint8(0x80), np.uint8(0))
