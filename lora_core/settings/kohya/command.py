"""A pasted command line: accelerate launch ... train_network.py --...

Written for bash (\\), cmd (^) or PowerShell (`), over several lines or pasted into one.
"""

import re
from collections.abc import Iterator
from pathlib import PureWindowsPath
from typing import Any

from lora_core.errors import UserError

_SCRIPT = re.compile(r"^(?:(\w+?)_)?train_network\.py$")
_FAMILY_KEYS = {
    "sdxl": "sdxl",
    "flux": "flux1_checkbox",
    "sd3": "sd3_checkbox",
    "hunyuan_image": "hunyuan_image_checkbox",
    "anima": "anima_checkbox",
    "lumina": "lumina_checkbox",
}
_CONTINUATION = re.compile(r"[ \t]*[\\^`][ \t]*\r?\n|(?<=\s)[\\^`](?=\s|$)")
_LONGEST = 100_000


def is_command(text: str) -> bool:
    """Whether a text is a training command, not a path or a settings file."""
    return "train_network" in text or bool(re.match(r"\s*(?:\S+\s+)*?accelerate\s+launch\s", text[:500]))


def read_command(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(options of the training script, options of accelerate launch) by name, values as text, lists or True.

    The script of another family adds the key that the GUI has for it. Raises UserError for a text that holds no command
    of a LoRA training.
    """
    if len(text) > _LONGEST:
        raise UserError("kohya.too_long")
    tokens = _command_tokens(text)
    at = next((i for i, token in enumerate(tokens) if token.endswith(".py")), None)
    if at is None:
        if not any(token.startswith("--") for token in tokens):
            raise UserError("kohya.no_command")
        return options(tokens), {}
    script = PureWindowsPath(tokens[at]).name
    found = _SCRIPT.match(script)
    if found is None or (found[1] and found[1] not in _FAMILY_KEYS):
        raise UserError("kohya.other_script", script=script)
    family = {_FAMILY_KEYS[found[1]]: True} if found[1] else {}
    return options(tokens[at + 1 :]) | family, options(tokens[:at])


def options(tokens: list[str]) -> dict[str, Any]:
    """``--name value value`` as {"name": ["value", "value"]}; no value is True, one is text."""
    found: dict[str, Any] = {}
    name = ""
    for token in tokens:
        if token.startswith("--") and len(token) > 2:
            name, equals, value = token[2:].partition("=")
            name = name.replace("-", "_")
            found[name] = value if equals else True
        elif name:
            before = found[name]
            found[name] = token if before is True else [*(before if isinstance(before, list) else [before]), token]
    return found


def split(text: str) -> list[str]:
    """Words of a command. A backslash is a path's own, except before a quotation mark or a space within a word."""
    return list(_words(text))


def _command_tokens(text: str) -> list[str]:
    """The words of the first line, continued lines joined, that holds a training command; else of the whole text."""
    joined = _CONTINUATION.sub(" ", text.replace("\ufeff", ""))
    lines = [line for line in joined.splitlines() if not re.match(r"\s*(#|::|rem\b)", line, re.IGNORECASE)]
    line = next((line for line in lines if "train_network" in line or "--pretrained_model" in line), None)
    return split(line if line is not None and "--" in line else " ".join(lines))


def _words(text: str) -> Iterator[str]:
    word, quote, begun = "", "", False
    at = 0
    while at < len(text):
        char, after = text[at], text[at + 1 : at + 2]
        if quote:
            if char == "\\" and after == quote == '"' and not _is_windows(word):
                word, at = word + after, at + 1
            elif char == quote:
                quote = ""
            else:
                word += char
        elif char in "\"'":
            quote, begun = char, True
        elif char == "\\" and after in (" ", '"', "'") and after and not _is_windows(word):
            word, at, begun = word + after, at + 1, True
        elif char.isspace():
            if begun:
                yield word
            word, begun = "", False
        else:
            word, begun = word + char, True
        at += 1
    if quote:
        raise UserError("kohya.open_quote", quote=quote)
    if begun:
        yield word


def _is_windows(word: str) -> bool:
    return "\\" in word or bool(re.search(r"(^|=)[A-Za-z]:$", word))
