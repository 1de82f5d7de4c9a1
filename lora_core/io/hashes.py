"""Hashes by which programs know a file: of base models, and of LoRAs as sd-scripts writes them into the metadata."""

import contextlib
import hashlib
import json
import os
import struct
from pathlib import Path

from lora_core.runs import runs_root

LEGACY_START, LEGACY_LENGTH = 0x100000, 0x10000


def legacy_model_hash(path: Path) -> str:
    """First 8 hexadecimal digits of the sha256 of 64 KiB at 1 MiB: AUTOMATIC1111's old model hash."""
    with path.open("rb") as file:
        file.seek(LEGACY_START)
        return hashlib.sha256(file.read(LEGACY_LENGTH)).hexdigest()[:8]


def model_hash(path: Path, cache: Path | None = None) -> str:
    """sha256 of the whole file, remembered in ``cache`` (JSON) until the file's size or time changes."""
    cache = cache or runs_root() / "model-hashes.json"
    stat = path.stat()
    key, stamp = str(path.resolve()), [stat.st_size, stat.st_mtime_ns]
    known = _read(cache)
    if known.get(key, [])[:1] != [stamp]:
        known[key] = [stamp, sha256(path)]
        _write(cache, known)
    return known[key][1]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(cache: Path) -> dict[str, list]:
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in known.items() if isinstance(v, list)} if isinstance(known, dict) else {}


def _write(cache: Path, known: dict[str, list]) -> None:
    """A cache that cannot be written (read-only folder, full disk) costs time, nothing else."""
    temporary = cache.with_name(f"{cache.name}.{os.getpid()}.tmp")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(known), encoding="utf-8")
        temporary.replace(cache)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def lora_hashes(serialised: bytes) -> dict[str, str]:
    """sshs_model_hash and sshs_legacy_hash of a LoRA, as sd-scripts computes them.

    ``serialised`` is the safetensors file with those metadata only whose keys begin with ss_. The first hash leaves the
    header out, so that editing metadata does not change it; the second is of 64 KiB at 1 MiB.
    """
    (header,) = struct.unpack("<Q", serialised[:8])
    window = serialised[LEGACY_START : LEGACY_START + LEGACY_LENGTH]
    return {
        "sshs_model_hash": hashlib.sha256(memoryview(serialised)[8 + header :]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(window).hexdigest()[:8],
    }
