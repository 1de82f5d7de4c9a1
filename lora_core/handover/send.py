"""Hand a LoRA over: everything is checked first, then all files are written together, or none."""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_core.errors import UserError
from lora_core.generate.keep import recommended_strength
from lora_core.handover.cards import ENDINGS, Facts, card
from lora_core.handover.places import Place, place_of
from lora_core.handover.preview import Picture, picture_of, png_of
from lora_core.handover.words import prompt, trigger_words
from lora_core.i18n import Language, text
from lora_core.inspect.header import inspect_header
from lora_core.inspect.hosts import host_reports
from lora_core.inspect.layers import group
from lora_core.inspect.report import HeaderReport, HostReport
from lora_core.io.hashes import sha256
from lora_core.io.headers import read_header
from lora_core.io.writing import replacing_together, write_error
from lora_core.settings.base import one_component

STRONGEST = 10.0
LONGEST_NAME = 120
"""Characters: with an ending they fit in what file systems take (255 bytes) in Japanese, too, for most names."""
HINTS = {
    "AUTOMATIC1111": "handover.hint_webui",
    "Forge": "handover.hint_webui",
    "ComfyUI": "handover.hint_comfyui",
}
"""Program -> what to do there."""
Write = Callable[[Path], None]


@dataclass(frozen=True)
class Wish:
    """What is to be handed over, and how."""

    lora: Path
    folder: Path
    """The program's own folder, or that of its LoRAs."""
    name: str = ""
    """What the file is called there, without ending; empty: as it is."""
    strength: float | None = None
    """None: that at which it was kept in a grid, else 1."""
    preview: Picture | None = None
    """None: the sample of its training, else the picture it has, if any."""
    negative: str = ""
    replace: bool = False
    """Whether files of that name may be replaced."""


@dataclass(frozen=True)
class Sent:
    """What was handed over."""

    lora: Path
    program: str
    """ "" for a folder that several programs may share."""
    files: Sequence[Path]
    """Everything that was written, the LoRA first."""
    words: str
    prompt: str
    has_preview: bool
    partly: HostReport | None = field(default=None)
    """Set when the program will not load all layers."""


def hand_over(wish: Wish) -> Sent:
    """Copy a LoRA to a program with picture and card. Raises UserError for what stands in the way, before writing."""
    report = inspect_header(wish.lora)
    if report.kind != "lora":
        raise UserError("lora.not_a_lora", path=wish.lora)
    place, name, strength = place_of(wish.folder), _name(wish), _strength(usual_strength(wish))
    digest, picture = sha256(wish.lora), wish.preview or picture_of(report)
    facts = Facts(report, name, trigger_words(report), strength, wish.negative.strip(), digest)
    files = dict(_files(place, facts, picture))
    _ask_first(files, wish, place.folder)
    try:
        replacing_together(files)
    except OSError as error:
        raise write_error(error, place.folder / f"{name}{wish.lora.suffix}", report.size) from error
    return Sent(
        place.folder / f"{name}{wish.lora.suffix}",
        place.program.name,
        tuple(files),
        facts.words,
        prompt(name, strength, facts.words),
        picture is not None,
        _partly(report, place),
    )


def _name(wish: Wish) -> str:
    """The name without ending. UserError for one that Windows or a prompt would not take."""
    name = wish.name.strip().removesuffix(wish.lora.suffix) or wish.lora.stem
    if len(name) > LONGEST_NAME:
        raise UserError("handover.long_name", count=LONGEST_NAME)
    return one_component(name)


def usual_strength(wish: Wish) -> float:
    """The strength that was asked for; else that of the grid cell it was kept from, else as it was trained."""
    if wish.strength is not None:
        return wish.strength
    return recommended_strength(wish.lora) or 1.0


def _strength(value: float) -> float:
    if not math.isfinite(value) or not 0 < abs(value) <= STRONGEST:
        raise UserError("handover.strength", most=f"{STRONGEST:g}")
    return round(value, 3)


def _files(place: Place, facts: Facts, picture: Picture | None) -> Iterator[tuple[Path, Write]]:
    """Every file with what writes it. A LoRA or picture that is there already, as the very same file, stays."""
    lora = facts.report.path
    target = place.folder / f"{facts.name}{lora.suffix}"
    if not _same(target, lora):
        yield target, _copied(lora, facts.sha256)
    shown = place.folder / f"{facts.name}.png"
    if picture is not None and (isinstance(picture, bytes) or not _same(shown, picture)):
        yield shown, _written(png_of(picture))
    for kind in place.program.cards:
        path = place.folder / f"{facts.name}{ENDINGS[kind]}"
        yield path, _written(card(kind, facts, path if path.is_file() else None))


def _same(a: Path, b: Path) -> bool:
    return a.exists() and a.samefile(b)


def _copied(lora: Path, digest: str) -> Write:
    """Copies the LoRA and reads the copy again: a bad cable or disk is found here, not by pictures of noise."""

    def write(path: Path) -> None:
        shutil.copyfile(lora, path)
        if sha256(path) != digest:
            raise UserError("handover.damaged", path=lora)

    return write


def _written(data: bytes) -> Write:
    def write(path: Path) -> None:
        path.write_bytes(data)

    return write


def _ask_first(files: Mapping[Path, Write], wish: Wish, folder: Path) -> None:
    """Raises UserError, with a name that is free, when files are there that were not said to be replaced."""
    there = [path for path in files if path.exists()]
    if folders := [path for path in there if path.is_dir()]:
        raise UserError("output.is_folder", path=folders[0])
    if there and not wish.replace:
        names = ", ".join(path.name for path in there)
        raise UserError("handover.exists", names=names, folder=folder, free=free_name(_name(wish), folder))


def free_name(name: str, folder: Path) -> str:
    """The name with the first number behind it that no file in the folder has."""
    there = [path.name.casefold() for path in folder.iterdir()]
    names = (f"{name}-{number}" for number in range(2, 10**6))
    return next(free for free in names if not any(taken.startswith(f"{free}.".casefold()) for taken in there))


def told(sent: Sent, language: Language = "en") -> list[str]:
    """What was done and what to know about it, in sentences; the prompt is told by itself."""
    if sent.program:
        lines = [text("handover.done_to", language, program=sent.program, path=sent.lora)]
    else:
        lines = [text("handover.done", language, path=sent.lora)]
    if beside := [path.name for path in sent.files if path != sent.lora]:
        lines.append(text("handover.files", language, names=", ".join(beside)))
    if not sent.has_preview:
        lines.append(text("handover.no_preview", language))
    if not sent.words:
        lines.append(text("handover.no_words", language))
    lines += [text(HINTS[sent.program], language)] if sent.program in HINTS else []
    if sent.partly:
        lines.append(sent.partly.message(language))
    return lines


def _partly(report: HeaderReport, place: Place) -> HostReport | None:
    """What the program leaves out of the file, by what its source code reads."""
    layers = group(read_header(report.path).tensors, report.family)
    found = (host for host in host_reports(layers) if host.host == place.program.name)
    return next((host for host in found if host.loaded < host.total), None)
