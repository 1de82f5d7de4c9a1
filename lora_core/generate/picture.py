"""A finished picture, the text that tells how it was made, and its file. Torch-free."""

import contextlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lora_core.errors import UserError


@dataclass(frozen=True)
class Picture:
    image: Image.Image
    prompt: str
    seed: int
    negative: str = ""
    details: dict[str, str | int | float] = field(default_factory=dict)
    """Steps, Sampler, CFG scale, Seed, Size, Model ... in this order."""

    @property
    def parameters(self) -> str:
        """The text that AUTOMATIC1111 and other programs read from the PNG entry "parameters"."""
        lines = [self.prompt]
        if self.negative:
            lines.append(f"Negative prompt: {self.negative}")
        lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in self.details.items()))
        return "\n".join(lines)


def _quoted(value: str | int | float) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ',:\n"') else text


def sample_file_name(name: str, picture: Picture, *, index: int, step: int | None, epoch: int) -> str:
    """As sd-scripts names them: usu_e000003_00_20260731120000_42.png, or 000100 in place of e000003 for a step."""
    when = f"e{epoch:06d}" if step is None else f"{step:06d}"
    return f"{name}_{when}_{index:02d}_{time.strftime('%Y%m%d%H%M%S')}_{picture.seed}.png"


def save_png(picture: Picture, path: Path) -> Path:
    """Writes the picture with its parameters, whole or not at all. Raises UserError when it cannot be written."""
    info = PngInfo()
    info.add_text("parameters", picture.parameters)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.image.save(temporary, format="PNG", pnginfo=info)
        temporary.replace(path)
    except OSError as error:
        raise UserError("picture.cannot_write", path=path, reason=error.strerror or str(error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path
