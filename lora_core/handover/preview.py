"""The picture beside a LoRA: one that somebody chose, else the sample that was drawn when the file was saved."""

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from lora_core.errors import UserError
from lora_core.generate.epochs import SAVED
from lora_core.inspect.report import HeaderReport

Picture = Path | bytes
"""A picture's file, or what such a file holds."""
SAMPLES = "sample"
"""Folder of a training's samples, beside its LoRAs."""
_NAME = re.compile(r"(?P<run>.+)_(?P<by>e?)(?P<mark>\d{6})_(?P<index>\d{2,})_(?P<when>\d{14})_\d+\.png")
"""usu_e000003_00_20260731120000_42.png: epoch 3; without the e it is a step."""


@dataclass(frozen=True)
class _Sample:
    path: Path
    by_epoch: bool
    mark: int
    """Epoch or step."""
    index: int
    """Which prompt."""
    when: str


def picture_of(report: HeaderReport) -> Picture | None:
    """The sample of its training that shows a LoRA best, else the picture in its metadata, or that lies beside it."""
    if sample := sample_of(report.path):
        return sample
    if report.thumbnail is None:
        return None
    return report.thumbnail.path or base64.b64decode(report.thumbnail.data_url.partition(",")[2])


def sample_of(lora: Path) -> Path | None:
    """The first prompt's sample from when the file was saved, or the last one before; of a finished file, the last."""
    samples = [sample for path in _pictures(lora.parent / SAMPLES) if (sample := _sample(path, lora.stem))]
    if saved := SAVED.fullmatch(lora.stem.removesuffix("-ema")):
        by_epoch, mark = saved["epoch"] is not None, int(saved["epoch"] or saved["step"])
        samples = [s for s in samples if s.by_epoch == by_epoch and s.mark <= mark] or samples
    if not samples:
        return None
    last = max(samples, key=lambda sample: (sample.when, sample.mark))
    round_of_it = [s for s in samples if (s.by_epoch, s.mark) == (last.by_epoch, last.mark)]
    return min(round_of_it, key=lambda sample: (sample.index, -int(sample.when))).path


def samples_of(lora: Path, most: int) -> list[Path]:
    """Samples of a LoRA's training to choose from, the newest round first."""
    samples = [sample for path in _pictures(lora.parent / SAMPLES) if (sample := _sample(path, lora.stem))]
    samples.sort(key=lambda sample: (-int(sample.when), sample.index))
    return [sample.path for sample in samples[:most]]


def _sample(path: Path, stem: str) -> _Sample | None:
    found = _NAME.fullmatch(path.name)
    if not found or not (stem == found["run"] or _run_of(stem) == found["run"]):
        return None
    return _Sample(path, bool(found["by"]), int(found["mark"]), int(found["index"]), found["when"])


def _run_of(stem: str) -> str:
    """The output name in the name of a saved file: usu of usu-000003, usu-step00000100 and usu-ema."""
    run = stem.removesuffix("-ema").removesuffix("-best")
    found = SAVED.fullmatch(run)
    return found["run"] if found else run


def _pictures(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.suffix == ".png"]
    except OSError:
        return []


def png_of(picture: Picture) -> bytes:
    """A picture as PNG: one that is PNG stays as it is, with the text of its parameters in it.

    Raises UserError for what is no picture.
    """
    try:
        data = picture if isinstance(picture, bytes) else picture.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if image.format == "PNG":
                return data
            made = io.BytesIO()
            image.convert("RGBA" if image.has_transparency_data else "RGB").save(made, "PNG")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
        shown = "modelspec.thumbnail" if isinstance(picture, bytes) else picture
        raise UserError("handover.bad_picture", path=shown) from error
    return made.getvalue()
