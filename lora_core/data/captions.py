"""Captions: reading them from files, and what becomes of one each time its image is shown."""

import math
import random
import re
from dataclasses import dataclass
from pathlib import Path

from lora_core.errors import Problem, UserError
from lora_core.settings import DatasetSettings

MANY_LINES = "data.caption_many_lines"
BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True)
class Caption:
    """The text of a caption file, and what is to be said about the file."""

    lines: tuple[str, ...] = ()
    """The lines with text; with wildcards one of them is drawn at each showing, otherwise the first is the caption."""
    problems: tuple[Problem, ...] = ()

    @property
    def text(self) -> str:
        return self.lines[0] if self.lines else ""


def read_caption(path: Path) -> Caption:
    """The lines with text of a caption file; an empty file is an empty caption.

    UTF-8 is expected; Shift-JIS, which Japanese Windows programs write, is read with a warning.
    Raises UserError if it is neither or cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError("data.caption_unreadable", path=path, reason=error.strerror or error) from error
    content, encoding = _decode(data, path)
    lines = lines_of(content)
    problems = []
    if encoding == "cp932":
        problems.append(Problem("dataset.caption_extension", "data.caption_shift_jis", {"path": path}, "warning"))
    if len(lines) > 1:
        problems.append(Problem("dataset.caption_extension", MANY_LINES, {"path": path}, "warning"))
    return Caption(lines, tuple(problems))


def lines_of(content: str) -> tuple[str, ...]:
    """The lines with text, without spaces at their ends."""
    return tuple(line.strip() for line in content.splitlines() if line.strip())


def caption_for(
    text: str, options: DatasetSettings, rng: random.Random, epoch: int, *, step: int = 0, total_steps: int = 0
) -> str:
    """The caption as it is trained this time, in the order of sd-scripts: dropout, wildcards, tags, separators.

    ``epoch`` counts from 1, ``step`` from 0. Pure: the same arguments, with ``rng`` in the same state, give the same
    caption. Options that are off draw nothing, so that switching one on leaves the draws of a run without it alone.
    """
    # Drawn even when nothing depends on it, so that the shuffles of a run do not hang on the dropout setting.
    dropped = rng.random() < options.caption_dropout_rate
    every = options.caption_dropout_every_n_epochs
    if dropped or (every is not None and epoch % every == 0):
        return ""
    if options.enable_wildcard:
        text = rng.choice(text.split("\n"))
    text = " ".join(part for part in (options.caption_prefix.strip(), text, options.caption_suffix.strip()) if part)
    if options.enable_wildcard:
        text = replace_wildcards(text, rng)
    if _by_tag(text, options):
        text = ", ".join(_tags_shown(text, options, rng, step, total_steps))
    if options.secondary_separator:
        text = text.replace(options.secondary_separator, separator_of(options))
    return text


def replace_wildcards(text: str, rng: random.Random) -> str:
    """One of a, b and c for each ``{a|b|c}``; ``{{`` and ``}}`` are braces that stay.

    A brace without its partner, and an empty pair, stay as they are.
    """

    def shown(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        return rng.choice(match[1].split("|"))

    return re.sub(r"\{\{|\}\}|\{((?:[^{}])+)\}", shown, text)


def separator_of(options: DatasetSettings) -> str:
    """What stands between tags."""
    return options.caption_separator or ","


def tags_of(text: str) -> list[str]:
    """The tags of a caption as they are counted: lower case, without empty ones."""
    return [tag for part in re.split(r"[,\n]", text) if (tag := part.strip().lower())]


# ---- Tags ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tags:
    """A caption's tags by what may happen to them."""

    fixed: list[str]
    flexible: list[str]
    """Only these are shuffled, dropped and warmed up."""
    ending: list[str]


def _by_tag(text: str, options: DatasetSettings) -> bool:
    """Whether something happens to single tags; otherwise a caption is trained exactly as it is written."""
    separated = bool(options.keep_tokens_separator) and options.keep_tokens_separator in text
    return (
        options.shuffle_caption
        or options.token_warmup_step is not None
        or options.caption_tag_dropout_rate > 0
        or separated
    )


def _tags_shown(text: str, options: DatasetSettings, rng: random.Random, step: int, total_steps: int) -> list[str]:
    tags = split_tags(text, options)
    flexible = warmed_up(tags.flexible, options, step, total_steps)
    if options.shuffle_caption:
        rng.shuffle(flexible)
    if options.caption_tag_dropout_rate > 0:
        flexible = [tag for tag in flexible if rng.random() >= options.caption_tag_dropout_rate]
    return tags.fixed + flexible + tags.ending


def split_tags(text: str, options: DatasetSettings) -> Tags:
    """The tags that stay in front, those that move, and those that stay behind.

    ``usu bear ||| sitting, hat ||| photo``: what stands between the marks moves. Without marks the first
    ``keep_tokens`` stay in front.
    """
    mark, separator = options.keep_tokens_separator, separator_of(options)
    if mark and mark in text:
        fixed, flexible, *ending = text.split(mark, 2)
        return Tags(*(_parts(part, separator) for part in (fixed, flexible, "".join(ending))))
    tags = [tag.strip() for tag in text.split(separator)]
    return Tags(tags[: options.keep_tokens], tags[options.keep_tokens :], [])


def warmed_up(tags: list[str], options: DatasetSettings, step: int, total_steps: int) -> list[str]:
    """The first few of the tags, more with every step, all of them from the end of the warm-up on.

    sd-scripts: floor(step * (n - min) / steps) + min.
    """
    until = options.token_warmup_step
    if until is None:
        return list(tags)
    steps = math.floor(until * total_steps) if until < 1 else until
    if step >= steps:
        return list(tags)
    least = options.token_warmup_min
    return tags[: math.floor(step * ((len(tags) - least) / steps)) + least]


def _parts(text: str, separator: str) -> list[str]:
    return [tag for part in text.split(separator) if (tag := part.strip())]


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
