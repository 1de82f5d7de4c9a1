"""Captions: reading them from files, and what becomes of one each time its image is shown."""

import random
from dataclasses import dataclass
from pathlib import Path

from lora_core.errors import Problem, UserError
from lora_core.settings import DatasetSettings

BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True)
class Caption:
    """The text of a caption file, and what is to be said about the file."""

    text: str
    problems: tuple[Problem, ...] = ()


def read_caption(path: Path) -> Caption:
    """The first line with text of a caption file; an empty file is an empty caption.

    UTF-8 is expected; Shift-JIS, which Japanese Windows programs write, is read with a warning.
    Raises UserError if it is neither or cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError("data.caption_unreadable", path=path, reason=error.strerror or error) from error
    content, encoding = _decode(data, path)
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    problems = []
    if encoding == "cp932":
        problems.append(Problem("dataset.caption_extension", "data.caption_shift_jis", {"path": path}, "warning"))
    if len(lines) > 1:
        problems.append(Problem("dataset.caption_extension", "data.caption_many_lines", {"path": path}, "warning"))
    return Caption(lines[0] if lines else "", tuple(problems))


def caption_for(text: str, options: DatasetSettings, rng: random.Random, epoch: int) -> str:
    """The caption as it is trained this time: prefix and suffix, dropout, then shuffling.

    ``epoch`` counts from 1. Pure: the same arguments, with ``rng`` in the same state, give the same caption.
    """
    text = " ".join(part for part in (options.caption_prefix.strip(), text, options.caption_suffix.strip()) if part)
    # Drawn even when nothing depends on it, so that the shuffles of a run do not hang on the dropout setting.
    dropped = rng.random() < options.caption_dropout_rate
    every = options.caption_dropout_every_n_epochs
    if dropped or (every is not None and epoch % every == 0):
        return ""
    return shuffle_tags(text, options.keep_tokens, rng) if options.shuffle_caption else text


def shuffle_tags(text: str, keep: int, rng: random.Random) -> str:
    """Mix the comma-separated tags behind the first ``keep``."""
    tags = [tag.strip() for tag in text.split(",")]
    moving = tags[keep:]
    rng.shuffle(moving)
    return ", ".join(tags[:keep] + moving)


def tags_of(text: str) -> list[str]:
    """The tags of a caption as they are counted: lower case, without empty ones."""
    return [tag for part in text.split(",") if (tag := part.strip().lower())]


def _decode(data: bytes, path: Path) -> tuple[str, str]:
    encodings = next(([name] for bom, name in BOMS.items() if data.startswith(bom)), ["utf-8", "cp932"])
    for encoding in encodings:
        try:
            content = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\x00" not in content:
            return content, encoding
    raise UserError("data.caption_encoding", path=path)
