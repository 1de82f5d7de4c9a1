"""One picture of many, with labels beside them. Torch-free; the labels are in English, whoever looks."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from lora_core.generate.axes import Page
from lora_core.generate.picture import Picture
from lora_core.generate.prompts import SAMPLER_NAMES
from lora_core.settings.generate import GridSettings

PAPER, INK, PALE = (255, 255, 255), (32, 32, 32), (110, 110, 110)


@dataclass(frozen=True)
class _Frame:
    """Sizes in pixels."""

    cell: tuple[int, int]
    text: int
    gap: int
    left: int
    """Of the first column of pictures."""
    top: int
    """Of the first row."""

    def place(self, row: int, column: int) -> tuple[int, int]:
        return self.left + column * (self.cell[0] + self.gap), self.top + row * (self.cell[1] + self.gap)


def sheet(page: Page, cells: Sequence[Sequence[Image.Image]], settings: GridSettings, hashes: str = "") -> Picture:
    """A page with its pictures, pixel for pixel, and in its text what they were drawn with."""
    frame, head = _frame(page, cells, settings)
    width, height = frame.place(len(cells), len(cells[0]))
    image = Image.new("RGB", (width, height), PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(frame.text)
    for number, line in enumerate(head):
        pen.text((frame.gap, frame.gap + number * _line(frame.text)), line, INK if not number else PALE, font)
    for column, label in enumerate(page.columns.labels):
        x, y = frame.place(0, column)
        label = _short(label, font, frame.cell[0])
        pen.text((x + frame.cell[0] // 2, y - frame.gap // 2), label, INK, font, anchor="mb")
    for row, label in enumerate(page.rows.labels):
        x, y = frame.place(row, 0)
        label = _short(label, font, frame.left - 2 * frame.gap)
        pen.text((x - frame.gap, y + frame.cell[1] // 2), label, INK, font, anchor="rm")
        for column, cell in enumerate(cells[row]):
            image.paste(cell.convert("RGB"), frame.place(row, column))
    return Picture(image, page.prompt, page.seed, settings.negative, _details(page, cells[0][0].size, settings, hashes))


def cell_box(
    page: Page, cells: Sequence[Sequence[Image.Image]], settings: GridSettings, row: int, column: int
) -> tuple:
    """Left, top, right and bottom of a picture on its page."""
    frame, _ = _frame(page, cells, settings)
    x, y = frame.place(row, column)
    width, height = cells[row][column].size
    return x, y, x + width, y + height


def _frame(page: Page, cells: Sequence[Sequence[Image.Image]], settings: GridSettings) -> tuple[_Frame, list[str]]:
    width = max(cell.width for row in cells for cell in row)
    height = max(cell.height for row in cells for cell in row)
    text = max(12, min(28, width // 20))
    gap = text // 2
    font = ImageFont.load_default(text)
    longest = max(font.getlength(_plain(label)) for label in page.rows.labels)
    left = int(min(longest, max(width, 120))) + 3 * gap
    whole = left + len(cells[0]) * (width + gap) - 2 * gap
    head = [line for words in _head(page, settings) for line in _wrapped(_plain(words), font, whole)]
    top = gap + (len(head) + 1) * _line(text) + gap
    return _Frame((width, height), text, gap, left, top), head


def _line(text: int) -> int:
    return round(text * 1.35)


def _head(page: Page, settings: GridSettings) -> list[str]:
    kinds = {page.rows.kind, page.columns.kind}
    facts = {
        "seed": f"Seed {page.seed}",
        "steps": f"Steps {settings.steps}",
        "guidance": f"CFG {settings.guidance:g}",
        "sampler": SAMPLER_NAMES[settings.sampler],
    }
    said = [words for kind, words in facts.items() if kind not in kinds]
    return [page.prompt, " · ".join([*said, f"{page.rows.title} by {page.columns.title.lower()}"])]


def _details(page: Page, size: tuple[int, int], settings: GridSettings, hashes: str) -> dict[str, str | int | float]:
    """In AUTOMATIC1111's words for its X/Y/Z plot."""
    found: dict[str, str | int | float] = {
        "Steps": settings.steps,
        "Sampler": SAMPLER_NAMES[settings.sampler],
        "CFG scale": float(settings.guidance),
        "Seed": page.seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model": settings.base.replace("\\", "/").rstrip("/").rpartition("/")[2].removesuffix(".safetensors"),
        "Script": "X/Y grid",
        "X Type": page.columns.title,
        "X Values": ", ".join(page.columns.labels),
        "Y Type": page.rows.title,
        "Y Values": ", ".join(page.rows.labels),
    }
    return found | ({"Lora hashes": hashes} if hashes else {})


def _plain(words: str) -> str:
    """On one line, with a sign for what the built-in font cannot draw."""
    return "".join(sign if ord(sign) < 0x180 or sign in "–—·…“”‘’" else "?" for sign in " ".join(words.split()))


def _short(words: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    words = _plain(words)
    if font.getlength(words) <= width:
        return words
    while words and font.getlength(words + "…") > width:
        words = words[:-1]
    return words + "…"


def _wrapped(words: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in words.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_short(line, font, width) for line in lines]
