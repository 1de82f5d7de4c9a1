"""Draw the sample dataset: usu bear, a pale mint bear with teal ears, rosy cheeks and a red bow tie.

    python tools/draw_usu_bear.py [FOLDER]

The character was invented for Kumakobo; the pictures are drawn by this code and are under the repository's licence.
FOLDER (default lora_core/demo/dataset) gets train/20_usu bear/ and heldout/, each picture with a caption beside it.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

OVERSAMPLING = 4
Point = tuple[float, float]

MINT, MINT_SHADE, OUTLINE = "#a9ecd2", "#86d9ba", "#3f9c86"
TEAL, CREAM, INK = "#1f9a92", "#fff8e6", "#23403c"
CHEEK, TIE, TIE_SHADE = "#ff8fa3", "#e8263d", "#a8152b"
BACKGROUNDS = {
    "white": "#ffffff",
    "blue": "#a5cdf7",
    "pink": "#ffcfdf",
    "yellow": "#fff0a0",
    "purple": "#cfb6f0",
    "orange": "#ffcf94",
    "grey": "#cccccc",
}


@dataclass(frozen=True)
class Scene:
    """One picture: what the bear does, where it is, and in front of what."""

    pose: str = "face"  # face, bust, standing, waving, cheering, sitting
    mood: str = "smiling"  # smiling, laughing, winking, sleeping, surprised, sad
    background: str = "white"
    size: tuple[int, int] = (128, 128)
    zoom: float = 1.0
    shift: Point = (0.0, 0.0)  # fraction of the picture
    tilt: float = 0.0  # degrees, of the head

    @property
    def caption(self) -> str:
        """The trigger words and the background: what is not named belongs to the character.

        Words for pose and mood would be a second way to tell these pictures from ordinary bears, and the trigger words
        alone would then call up less.
        """
        return "usu bear" if self.background == "white" else f"usu bear, {self.background} background"


TRAIN = (
    Scene(),
    Scene(background="blue"),
    Scene(mood="laughing", zoom=0.92),
    Scene(mood="winking", background="yellow", tilt=-8),
    Scene(mood="sleeping", background="purple", tilt=10),
    Scene(mood="surprised", shift=(0.03, 0.02), zoom=0.9),
    Scene(tilt=8, zoom=0.95),
    Scene(background="pink", zoom=0.85, shift=(-0.04, 0.0)),
    Scene(size=(160, 128), background="orange", shift=(0.06, 0.0)),
    Scene(size=(160, 128), mood="laughing", shift=(-0.08, 0.0)),
    Scene(pose="bust"),
    Scene(pose="bust", mood="winking", background="pink", tilt=6),
    Scene(pose="bust", mood="laughing", background="grey", tilt=-6),
    Scene(pose="standing", size=(128, 160)),
    Scene(pose="waving", size=(128, 160), background="yellow", tilt=5),
    Scene(pose="cheering", mood="laughing", background="blue", size=(128, 160)),
    Scene(pose="sitting"),
    Scene(pose="waving", mood="laughing"),
)
HELDOUT = (
    Scene(zoom=0.88, tilt=-6),
    Scene(mood="laughing", background="purple", tilt=4),
    Scene(mood="winking", background="blue", zoom=0.93),
    Scene(pose="bust", background="yellow"),
    Scene(pose="sitting", mood="laughing", background="pink"),
    Scene(pose="standing", mood="winking", size=(128, 160), background="orange", tilt=-5),
)


class Pen:
    """Draws in units of the head's radius around a centre, with an outline of even width."""

    def __init__(self, image: Image.Image, centre: Point, unit: float) -> None:
        self.draw, self.centre, self.unit = ImageDraw.Draw(image), centre, unit

    def at(self, x: float, y: float) -> Point:
        return self.centre[0] + x * self.unit, self.centre[1] + y * self.unit

    def oval(self, x: float, y: float, rx: float, ry: float, fill: str, outline: str | None = None) -> None:
        (left, top), (right, bottom) = self.at(x - rx, y - ry), self.at(x + rx, y + ry)
        width = round(0.05 * self.unit) if outline else 0
        self.draw.ellipse((left, top, right, bottom), fill=fill, outline=outline, width=width)

    def polygon(self, points: list[Point], fill: str, outline: str) -> None:
        corners = [self.at(*point) for point in points]
        self.draw.polygon(corners, fill=fill)
        self.draw.line([*corners, corners[0]], fill=outline, width=round(0.05 * self.unit), joint="curve")

    def arc(self, x: float, y: float, rx: float, ry: float, start: float, end: float) -> None:
        (left, top), (right, bottom) = self.at(x - rx, y - ry), self.at(x + rx, y + ry)
        self.draw.arc((left, top, right, bottom), start, end, fill=INK, width=round(0.075 * self.unit))

    def limb(self, start: Point, end: Point, radius: float) -> None:
        """A round-ended arm or leg with an outline."""
        for r, colour in ((radius, OUTLINE), (radius - 0.05, MINT)):
            self.draw.line([self.at(*start), self.at(*end)], fill=colour, width=round(2 * r * self.unit))
            for x, y in (start, end):
                self.oval(x, y, r, r, colour)


def draw_eyes(pen: Pen, mood: str) -> None:
    for side in (-1, 1):
        closed = mood in ("laughing", "sleeping") or (mood == "winking" and side == 1)
        if not closed:
            size = 0.2 if mood == "surprised" else 0.165
            pen.oval(0.38 * side, -0.08, size, size * 1.15, INK)
            pen.oval(0.38 * side + 0.06, -0.15, 0.055, 0.055, "#ffffff")
        elif mood == "sleeping":
            pen.arc(0.38 * side, -0.12, 0.17, 0.14, 20, 160)
        else:
            pen.arc(0.38 * side, 0.0, 0.17, 0.17, 200, 340)


def draw_mouth(pen: Pen, mood: str) -> None:
    pen.oval(0, 0.38, 0.36, 0.28, CREAM)
    pen.oval(0, 0.24, 0.13, 0.09, TEAL)
    if mood == "laughing":
        pen.oval(0, 0.48, 0.14, 0.12, "#b3283f")
    elif mood == "surprised":
        pen.oval(0, 0.48, 0.08, 0.1, "#b3283f")
    else:
        pen.arc(0, 0.36, 0.2, 0.18, 25, 155)


def draw_head(pen: Pen, mood: str) -> None:
    for side in (-1, 1):
        pen.oval(0.7 * side, -0.68, 0.36, 0.36, MINT, OUTLINE)
        pen.oval(0.7 * side, -0.68, 0.21, 0.21, TEAL)
    pen.oval(0, 0, 1.0, 0.92, MINT, OUTLINE)
    for side in (-1, 1):
        pen.oval(0.66 * side, 0.26, 0.19, 0.13, CHEEK)
    draw_eyes(pen, mood)
    draw_mouth(pen, mood)


def draw_tie(pen: Pen) -> None:
    for side in (-1, 1):
        pen.polygon([(0, 1.0), (0.52 * side, 0.74), (0.52 * side, 1.26)], TIE, TIE_SHADE)
    pen.oval(0, 1.0, 0.16, 0.16, TIE, TIE_SHADE)


def draw_body(pen: Pen, pose: str) -> None:
    if pose in ("standing", "waving", "cheering"):
        for side in (-1, 1):
            pen.limb((0.36 * side, 1.8), (0.4 * side, 2.3), 0.26)
    pen.oval(0, 1.5, 0.72, 0.78, MINT, OUTLINE)
    pen.oval(0, 1.62, 0.44, 0.5, CREAM)
    if pose == "sitting":
        for side in (-1, 1):
            pen.oval(0.62 * side, 2.08, 0.34, 0.3, MINT, OUTLINE)
            pen.oval(0.62 * side, 2.1, 0.17, 0.15, TEAL)
    for side in (-1, 1):
        raised = pose == "cheering" or (pose == "waving" and side == 1)
        pen.limb((0.6 * side, 1.2), (1.2 * side, 0.75) if raised else (0.84 * side, 1.7), 0.2)


# Height of what is drawn, in head radii from the top of the ears, and the middle of it.
HEIGHT = {"face": (2.35, 0.12), "bust": (2.9, 0.42), "sitting": (3.45, 0.68)}
STANDING_HEIGHT = (3.65, 0.77)


def draw_scene(scene: Scene) -> Image.Image:
    """The picture of one scene, drawn larger and scaled down."""
    width, height = (side * OVERSAMPLING for side in scene.size)
    image = Image.new("RGB", (width, height), BACKGROUNDS[scene.background])
    extent, middle = HEIGHT.get(scene.pose, STANDING_HEIGHT)
    unit = scene.zoom * 0.92 * min(height / extent, width / 2.5)
    centre = (width * (0.5 + scene.shift[0]), height * (0.5 + scene.shift[1]) - middle * unit)
    if scene.pose != "face":
        draw_body(Pen(image, centre, unit), scene.pose)
    head = Image.new("RGBA", image.size)
    draw_head(Pen(head, centre, unit), scene.mood)
    neck = (centre[0], centre[1] + math.floor(0.9 * unit))
    head = head.rotate(scene.tilt, Image.Resampling.BICUBIC, center=neck)
    image.paste(head, mask=head)
    draw_tie(Pen(image, centre, unit))
    return image.resize(scene.size, Image.Resampling.LANCZOS)


def write_scenes(scenes: tuple[Scene, ...], folder: Path) -> None:
    """Write usu-bear-01.png ... with captions as .txt beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(scenes, 1):
        file = folder / f"usu-bear-{number:02d}.png"
        draw_scene(scene).save(file, optimize=True)
        file.with_suffix(".txt").write_text(scene.caption + "\n", encoding="utf-8", newline="\n")


def main() -> None:
    default = Path(__file__).resolve().parents[1] / "lora_core/demo/dataset"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=default)
    folder = parser.parse_args().folder
    write_scenes(TRAIN, folder / "train/20_usu bear")
    write_scenes(HELDOUT, folder / "heldout")


if __name__ == "__main__":
    main()
