"""A1111's prompt weights: which words of a prompt count more or less."""

import re
from dataclasses import dataclass, field


@dataclass
class _Parts:
    """Pieces of a prompt with their weights while its brackets are being read."""

    pieces: list[tuple[str, float]] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.pieces.append((text, 1.0))

    def scale(self, start: int, factor: float) -> None:
        self.pieces[start:] = [(text, weight * factor) for text, weight in self.pieces[start:]]

    def joined(self) -> list[tuple[str, float]]:
        """Neighbours of equal weight as one piece; at least one piece."""
        result: list[tuple[str, float]] = []
        for text, weight in self.pieces:
            if result and result[-1][1] == weight:
                result[-1] = (result[-1][0] + text, weight)
            else:
                result.append((text, weight))
        return result or [("", 1.0)]


_SYMBOL = re.compile(r"\\[()\[\]\\]|:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)|[()\[\]]|[^\\()\[\]:]+|.", re.DOTALL)
_STEP = 1.1
"""What one pair of brackets multiplies or divides by."""


def parse_weights(prompt: str) -> list[tuple[str, float]]:
    """Pieces of a prompt with their weights, in AUTOMATIC1111's syntax.

    (x) is 1.1, [x] is 1/1.1, (x:1.3) is 1.3, nested ones multiply; a backslash makes a bracket an ordinary letter;
    a bracket left open reaches to the end.

    >>> parse_weights("a (cat:1.5) here")
    [('a ', 1.0), ('cat', 1.5), (' here', 1.0)]
    """
    parts = _Parts()
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for match in _SYMBOL.finditer(prompt):
        symbol, number = match[0], match[1]
        if symbol in opened:
            opened[symbol].append(len(parts.pieces))
        elif number and opened["("]:
            parts.scale(opened["("].pop(), float(number))
        elif symbol == ")" and opened["("]:
            parts.scale(opened["("].pop(), _STEP)
        elif symbol == "]" and opened["["]:
            parts.scale(opened["["].pop(), 1 / _STEP)
        else:
            parts.add(symbol[1:] if len(symbol) == 2 and symbol[0] == "\\" else symbol)
    for start in opened["("]:
        parts.scale(start, _STEP)
    for start in opened["["]:
        parts.scale(start, 1 / _STEP)
    return parts.joined()
