"""Write CLIP's tokenizer files from the vocabulary that the open_clip_torch package carries.

CLIP's byte pair encoding is published as one file, bpe_simple_vocab_16e6.txt.gz (OpenAI, MIT licence).
transformers reads the same thing as vocab.json and merges.txt; this script does the conversion, offline.

    python tools/make_clip_tokenizer.py lora_core/families/bundled/clip_tokenizer
"""

import argparse
import gzip
import importlib.util
import json
from pathlib import Path

START, END = "<|startoftext|>", "<|endoftext|>"
MERGE_COUNT = 49152 - 256 - 2
"""CLIP uses this many merges; the file holds more (it was made for a larger vocabulary)."""

CONFIG = {
    "add_prefix_space": False,
    "bos_token": START,
    "clean_up_tokenization_spaces": True,
    "do_lower_case": True,
    "eos_token": END,
    "errors": "replace",
    "model_max_length": 77,
    "pad_token": END,
    "tokenizer_class": "CLIPTokenizer",
    "unk_token": END,
}
SPECIAL_TOKENS = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}

LICENSE = """\
vocab.json and merges.txt are the byte pair encoding of CLIP (https://github.com/openai/CLIP), converted from its
bpe_simple_vocab_16e6.txt.gz by tools/make_clip_tokenizer.py.

MIT License

Copyright (c) 2021 OpenAI

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


def open_clip_vocabulary() -> Path:
    """The vocabulary file inside the installed open_clip_torch package, found without importing it (it pulls torch)."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise SystemExit("open_clip_torch is not installed: pip install --no-deps open_clip_torch, or give --bpe.")
    return Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz"


def byte_symbols() -> list[str]:
    """The 256 printable characters that stand for bytes, in vocabulary order (GPT-2's byte-level BPE)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]


def read_merges(bpe: Path) -> list[str]:
    """The merges CLIP uses, each as "left right", most frequent first."""
    lines = gzip.decompress(bpe.read_bytes()).decode("utf-8").split("\n")
    return lines[1 : 1 + MERGE_COUNT]  # line 0 is a version note


def make_vocabulary(merges: list[str]) -> dict[str, int]:
    """49,408 tokens: bytes, bytes that end a word, one per merge, start and end of text."""
    symbols = byte_symbols()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *(merge.replace(" ", "") for merge in merges)]
    return {token: index for index, token in enumerate([*tokens, START, END])}


def write_tokenizer(bpe: Path, folder: Path) -> None:
    """Write vocab.json, merges.txt, the two configuration files and the licence into `folder`."""
    merges = read_merges(bpe)
    files = {
        "vocab.json": json.dumps(make_vocabulary(merges), ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
        "tokenizer_config.json": json.dumps(CONFIG, indent=2) + "\n",
        "special_tokens_map.json": json.dumps(SPECIAL_TOKENS, indent=2) + "\n",
        "LICENSE": LICENSE,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write the files")
    parser.add_argument("--bpe", type=Path, help="bpe_simple_vocab_16e6.txt.gz (default: open_clip_torch's)")
    args = parser.parse_args()
    write_tokenizer(args.bpe or open_clip_vocabulary(), args.folder)


if __name__ == "__main__":
    main()
