"""LoRAs as prompts name them: ``a bear <lora:usu:0.8>``. Torch-free.

``<lora:name>``, ``<lora:name:0.8>``, ``<lora:name:0.5:1>`` (text encoders, denoiser) and ``<lora:name:0.8:lbw=OUTALL>``
(layer weights in every form of ``lora_core.merge.blocks``). A tag is an instruction: the model does not read it.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_core.errors import UserError
from lora_core.settings.generate import LoraUse, PictureSettings

TAG = re.compile(r"<lora:([^<>]*)>")


@dataclass(frozen=True)
class Worn:
    """A LoRA file at a strength."""

    path: Path
    strength: float = 1.0
    """Of the denoiser."""
    text_strength: float = 1.0
    layers: str = ""

    @property
    def does_nothing(self) -> bool:
        return not self.strength and not self.text_strength


def tag(name: str, strength: float = 1.0, layers: str = "") -> str:
    """The words that put a LoRA to use."""
    return f"<lora:{name}:{strength:g}{f':lbw={layers}' if layers.strip() else ''}>"


def text_of(prompt: str) -> str:
    """What the model reads of a prompt."""
    return TAG.sub("", prompt).strip()


def tagged(prompt: str, uses: Sequence[LoraUse]) -> str:
    """The prompt with a tag for every LoRA that it does not name itself."""
    named = {_parts(words)[0] for words in TAG.findall(prompt)}
    added = [tag(use.path.stem, use.strength, use.layers) for use in uses if use.path and use.path.stem not in named]
    return " ".join([prompt.strip(), *added]).strip()


def worn(prompt: str, settings: PictureSettings) -> tuple[Worn, ...]:
    """The LoRAs of a prompt with their files. Raises UserError for a tag that can't be read and a file that is missing.

    A LoRA that is named twice counts twice, as in web UIs.
    """
    listed = {use.path.stem: use.path for use in settings.loras if use.path}
    return tuple(_worn(words, listed, settings.folders) for words in TAG.findall(prompt))


def _worn(words: str, listed: dict[str, Path], folders: Sequence[Path]) -> Worn:
    name, numbers, named = _parts(words)
    strengths = [_number(word, words) for word in numbers]
    if len(strengths) > 2 or named.keys() - {"lbw", "te", "unet"} or not name:
        raise UserError("generate.tag", tag=f"<lora:{words[:80]}>")
    text, strength = (strengths[0], strengths[-1]) if strengths else (1.0, 1.0)
    text = _number(named["te"], words) if "te" in named else text
    strength = _number(named["unet"], words) if "unet" in named else strength
    return Worn(listed.get(name) or find(name, folders), strength, text, named.get("lbw", ""))


def _parts(words: str) -> tuple[str, list[str], dict[str, str]]:
    """Name, numbers by place, and what is said by name."""
    name, *rest = (part.strip() for part in words.split(":"))
    pairs = [part.partition("=") for part in rest]
    numbers = [first for first, equals, _ in pairs if not equals]
    return name, numbers, {first.strip(): value.strip() for first, equals, value in pairs if equals}


def _number(word: str, words: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError("generate.tag", tag=f"<lora:{words[:80]}>")
    return value


def find(name: str, folders: Sequence[Path]) -> Path:
    """The LoRA file of a name: ``usu`` or, in a folder inside, ``bears/usu``. Raises UserError if there is none."""
    wanted = name.replace("\\", "/").removesuffix(".safetensors")
    for folder in folders:
        for path in sorted(folder.rglob("*.safetensors")) if folder.is_dir() else ():
            if wanted in (path.stem, path.relative_to(folder).with_suffix("").as_posix()):
                return path
    where = ", ".join(map(str, folders)) or "-"
    raise UserError("generate.lora_missing", name=name[:80], folders=where)
