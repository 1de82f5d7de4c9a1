"""Small pieces of HTML that all parts of the Inspect tab are made of. Every text that comes in is escaped here."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isfinite, log10
from typing import Any

CLIP = 4000
"""Characters of one text of a file that the page shows; metadata may hold megabytes."""


def number(value: float | None, digits: int = 3) -> str:
    """A number for people: three digits that count, no exponent where it can be helped, a dash for nothing.

    >>> number(0.0123456), number(1234.5), number(None), number(2.0)
    ('0.0123', '1,234', '–', '2')
    """
    if value is None:
        return "–"
    if not isfinite(value):
        return "NaN" if value != value else "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e")
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    shown = f"{value:.{digits - 1 - int(log10(abs(value)) // 1)}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def percent(share: float | None, digits: int = 0) -> str:
    """A share from 0 to 1: 42%, 0.3%, and never 100% or 0% for what is only nearly so."""
    if share is None or not isfinite(share):
        return "–"
    if 0 < share < 0.01:
        return "<0.1%" if share < 0.001 else f"{100 * share:.1f}%"
    if 0.99 < share < 1:
        return ">99.9%" if share > 0.999 else f"{100 * share:.1f}%"
    return f"{100 * share:.{digits}f}%"


def clipped(text: str, limit: int = CLIP) -> str:
    """The first characters of a long text."""
    return text if len(text) <= limit else f"{text[:limit]}…"


def safe(text: object) -> str:
    """A text for the inside of an element or attribute, without what no answer can carry (lone surrogates)."""
    return escape(str(text).encode("utf-8", "replace").decode(), quote=True)


def tag(name: str, inner: str, /, classes: str = "", **attributes: object) -> str:
    """One element. ``inner`` is HTML; attributes are text. ``data_x`` is written data-x."""
    given = {"class": classes or None, **{key.replace("_", "-"): value for key, value in attributes.items()}}
    written = "".join(f' {key}="{safe(value)}"' for key, value in given.items() if value is not None)
    return f"<{name}{written}>" if name == "img" else f"<{name}{written}>{inner}</{name}>"


def words(text: object, classes: str = "", name: str = "span") -> str:
    """An element that holds a text and nothing else."""
    return tag(name, safe(text), classes)


def fold(title: str, body: str, *, is_open: bool = False, name: str = "", note: str = "") -> str:
    """A part that can be folded away. ``body`` is HTML. Empty bodies make no part."""
    if not body:
        return ""
    head = tag("summary", words(title, "in-fold-title") + (words(note, "in-note") if note else ""))
    opened = " open" if is_open else ""
    return f'<details class="in-fold"{opened} id="{safe(name)}">{head}<div>{body}</div></details>'


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A list of name and value, both text; rows without a value are left out."""
    cells = "".join(
        tag("div", words(name, name="dt") + words(clipped(value), name="dd")) for name, value in rows if value
    )
    return tag("dl", cells, "in-facts") if cells else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], classes: str = "", caption: str = "") -> str:
    """A table of texts. The first cell of a row is its head."""
    top = "".join(tag("th", safe(head), scope="col") for head in heads)
    body = "".join(
        tag("tr", tag("th", safe(first), scope="row") + "".join(words(cell, name="td") for cell in rest))
        for first, *rest in rows
    )
    named = words(caption, "in-unseen", name="caption") if caption else ""
    return tag("table", f"{named}<thead><tr>{top}</tr></thead><tbody>{body}</tbody>", f"in-table {classes}".strip())


def badges(items: Iterable[str]) -> str:
    return tag("div", "".join(words(item, "in-badge") for item in items if item), "in-badges")


def copy_button(text: str, word: str) -> str:
    """A button that puts a text on the clipboard (see run_status.COPY_ON_CLICK)."""
    return tag("button", safe(word), "rs-copy", type="button", data_copy=text)


def tool_button(tool: str, word: str, **options: object) -> str:
    """A button that opens one of the tools below the head card, filled in."""
    data = {f"data_{name}": value for name, value in options.items()}
    return tag("button", safe(word), "in-do", type="button", data_tool=tool, **data)


def counted(found: Mapping[Any, int], limit: int = 4) -> str:
    """Values by how many layers have them: "16 (264), 8 (12)"; one value alone stands without its count."""
    shown = [(_plain(value), count) for value, count in list(found.items())[:limit]]
    if len(found) == 1:
        return shown[0][0]
    more = ", …" if len(found) > limit else ""
    return ", ".join(f"{value} ×{count}" for value, count in shown) + more


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
