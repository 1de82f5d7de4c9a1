"""Fetch the Noto emoji pictures and load them; augment them on the fly."""

import json
import math
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

PACKAGES = ("emoji-datasource-google@16.0.0", "emoji-datasource@16.0.0")
PICTURE_FOLDER = "package/img/google/64/"
SIZE = 64


@dataclass(frozen=True)
class Emoji:
    """One entry of emoji.json with its picture file."""

    name: str
    category: str
    file: Path


def fetch(work: Path) -> None:
    """Download both packages with npm and unpack the 64 px pictures and the names. Does nothing when they are there."""
    if (work / "emoji.json").exists():
        return
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm was not found. Install Node.js, or unpack the packages into the work folder by hand.")
    work.mkdir(parents=True, exist_ok=True)
    subprocess.run([npm, "pack", "--silent", *PACKAGES], cwd=work, check=True)
    pictures, names = (work / (package.replace("@", "-") + ".tgz") for package in PACKAGES)
    with tarfile.open(pictures) as archive:
        wanted = [member for member in archive.getmembers() if member.name.startswith(PICTURE_FOLDER)]
        archive.extractall(work, members=wanted, filter="data")
    with tarfile.open(names) as archive, archive.extractfile("package/emoji.json") as source:
        (work / "emoji.json").write_bytes(source.read())


def list_emoji(work: Path) -> list[Emoji]:
    """All emoji that have a Noto picture, without skin tone variants, in a fixed order."""
    entries = json.loads((work / "emoji.json").read_text(encoding="utf-8"))
    emoji = [
        Emoji(entry["short_name"], entry["category"], work / PICTURE_FOLDER / entry["image"])
        for entry in entries
        if entry["has_img_google"]
    ]
    return sorted((e for e in emoji if e.file.exists()), key=lambda e: e.file.name)


def load_rgba(files: list[Path]) -> Tensor:
    """The pictures as one premultiplied float tensor (N, 4, 64, 64) in [0, 1]."""

    def load(file: Path) -> np.ndarray:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS))

    rgba = torch.from_numpy(np.stack([load(file) for file in files])).permute(0, 3, 1, 2).float() / 255
    return torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)


def random_affine(
    images_BCHW: Tensor, rng: torch.Generator, *, scale: tuple[float, float], shift: float, turn: float = 0.0
) -> Tensor:
    """Flip, scale, turn (radians) and shift (share of the picture) pictures at random; outside is transparent."""
    count = len(images_BCHW)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=rng)

    zoom = torch.exp(uniform(math.log(scale[0]), math.log(scale[1])))
    flip = torch.where(torch.rand(count, generator=rng) < 0.5, -1.0, 1.0)
    angle = uniform(-turn, turn)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = flip * angle.cos() / zoom, -angle.sin() / zoom
    theta[:, 1, 0], theta[:, 1, 1] = flip * angle.sin() / zoom, angle.cos() / zoom
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-2 * shift, 2 * shift), uniform(-2 * shift, 2 * shift)
    grid = F.affine_grid(theta, list(images_BCHW.shape), align_corners=False)
    return F.grid_sample(images_BCHW, grid, align_corners=False)


def turn_hue(images_BCHW: Tensor, angle_B: Tensor) -> Tensor:
    """Rotate premultiplied RGBA pictures about the grey axis by `angle_B` radians (Rodrigues' formula); alpha stays."""
    axis = torch.full((3,), 3**-0.5)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) * 3**-0.5
    cos, sin = angle_B.cos()[:, None, None], angle_B.sin()[:, None, None]
    matrix = cos * torch.eye(3) + sin * cross + (1 - cos) * axis[:, None] * axis
    rgb = torch.einsum("bij,bjhw->bihw", matrix, images_BCHW[:, :3])
    alpha = images_BCHW[:, 3:]
    return torch.cat([torch.minimum(rgb.clamp(min=0), alpha), alpha], dim=1)


def compose(images_BCHW: Tensor, background_B3HW: Tensor) -> Tensor:
    """Premultiplied RGBA over a background, scaled to [-1, 1]."""
    rgb, alpha = images_BCHW[:, :3], images_BCHW[:, 3:]
    return (rgb + (1 - alpha) * background_B3HW) * 2 - 1


def random_background(count: int, rng: torch.Generator, *, white: float) -> Tensor:
    """White for a share of the pictures, else a random colour or a slope between two: (count, 3, 64, 64)."""
    top, bottom = torch.rand(2, count, 3, 1, 1, generator=rng)
    pastel = torch.rand(count, 1, 1, 1, generator=rng)
    top, bottom = (colour + (1 - colour) * pastel * 0.8 for colour in (top, bottom))
    plain = torch.rand(count, 1, 1, 1, generator=rng) < 0.6
    bottom = torch.where(plain, top, bottom)
    slope = torch.linspace(0, 1, SIZE)[None, None, :, None]
    colour = (top * (1 - slope) + bottom * slope).expand(count, 3, SIZE, SIZE)
    return torch.where(torch.rand(count, 1, 1, 1, generator=rng) < white, torch.ones(1), colour)
