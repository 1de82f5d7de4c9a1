"""Tables of plain text that stand straight in a terminal, full-width characters included."""

import unicodedata
from collections.abc import Sequence

GAP = "  "


def width(text: str) -> int:
    """Columns a text takes: full-width and wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def cut(text: str, columns: int) -> str:
    """A text that takes at most so many columns, with a mark where it was cut."""
    if width(text) <= columns:
        return text
    kept = ""
    for char in text:
        if width(kept + char) > columns - 1:
            break
        kept += char
    return kept + "…"


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = (), widest: int = 60) -> list[str]:
    """Lines of a table; columns in ``right`` are aligned to the right (numbers), cells cut to ``widest`` columns."""
    cells = [[cut(" ".join(cell.split()), widest) for cell in row] for row in rows]
    if not cells:
        return []
    widths = [max(width(row[i]) for row in cells) for i in range(len(cells[0]))]
    return [_line(row, widths, right) for row in cells]


def _line(row: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> str:
    padded = []
    for i, cell in enumerate(row):
        space = " " * (widths[i] - width(cell))
        padded.append(space + cell if i in right else cell + space)
    return GAP.join(padded).rstrip()
