"""Runs an installer and shows on one line what it is doing, with everything it said kept in a log file."""

import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from lora_core.i18n import Language, text

_DOWNLOADING = re.compile(r"\s*Downloading (?P<file>[^\s/]+?)(?:\.metadata)?(?: \((?P<size>[\d.]+ ?[kMG]?i?B)\))?$")
_COLLECTING = re.compile(r"\s*(Collecting |Processing .*[/\\])(?P<file>\S+)")
_INSTALLING = re.compile(r"\s*(Installing collected packages|Prepared \d+ packages)")


def describe(line: str, language: Language, details: bool = True) -> str | None:
    """What a line of an installer's output means for a person; None when nothing. ``details`` names every package."""
    if _INSTALLING.match(line):
        return text("setup.unpacking", language)
    if (found := _DOWNLOADING.match(line)) and found["size"] and not line.rstrip().endswith("kB)"):
        name = re.split(r"-\d", found["file"])[0]
        return text("setup.downloading", language, name=name, size=found["size"])
    if details and (found := _COLLECTING.match(line)):
        return text("setup.looking_up", language, name=re.split(r"[<>=!~;\[(]|-\d", found["file"])[0])
    return None


def follow(command: Sequence[str], log: Path, language: Language, env: Mapping[str, str]) -> tuple[int, str]:
    """Run to the end; returns the exit code and the whole output."""
    started, doing, output = time.monotonic(), "", []
    screen = _Line(sys.stdout)
    with (
        log.open("a", encoding="utf-8") as kept,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=dict(env)
        ) as process,
    ):
        kept.write(f"\n$ {' '.join(command)}\n")
        lines = _reader(process)
        while (line := _next(lines)) is not None:
            if line:
                kept.write(line)
                output.append(line)
                doing = describe(line.rstrip(), language, screen.live) or doing
            screen.show(doing, time.monotonic() - started)
        screen.clear()
    return process.returncode, "".join(output)


def _reader(process: subprocess.Popen) -> "queue.Queue[str | None]":
    """Lines as they come, then None."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for raw in process.stdout:
            lines.put(raw.decode("utf-8", errors="replace"))
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def _next(lines: "queue.Queue[str | None]") -> str | None:
    """The next line, "" if none came within a second, None at the end."""
    try:
        return lines.get(timeout=1)
    except queue.Empty:
        return ""


class _Line:
    """One line that is redrawn on a terminal; elsewhere each new text is printed once."""

    def __init__(self, stream: IO[str]):
        self.stream = stream
        self.live = stream.isatty()
        self.last = ""

    def show(self, doing: str, seconds: float) -> None:
        if self.live:
            minutes, rest = divmod(int(seconds), 60)
            self._write(f"\r\x1b[2K  {minutes}:{rest:02d}  {doing[:70]}")
        elif doing and doing != self.last:
            self.last = doing
            self._write(f"  {doing}\n")

    def clear(self) -> None:
        if self.live:
            self._write("\r\x1b[2K")

    def _write(self, characters: str) -> None:
        self.stream.write(characters)
        self.stream.flush()
