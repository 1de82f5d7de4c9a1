"""The pictures a guide is given: a plain folder, one named "20_usu bear", or a folder of such folders."""

from dataclasses import dataclass
from pathlib import Path

from lora_core.data.captions import read_caption
from lora_core.data.folders import scan
from lora_core.data.layout import numbered
from lora_core.data.listing import CAPTION_ENDINGS
from lora_core.data.subsets import Scan, Subset
from lora_core.errors import Problem, UserError
from lora_core.settings import DatasetSettings

_BELOW = "data.images_below"
"""The finding that the pictures are one folder further down, with that folder as its fix."""


@dataclass(frozen=True)
class Pictures:
    """What was found. Nothing in these folders is ever changed."""

    folder: Path
    subsets: tuple[Subset, ...]
    is_root: bool
    """The folder holds numbered folders: it trains as it stands."""
    caption_extension: str

    @property
    def count(self) -> int:
        return sum(len(subset.images) for subset in self.subsets)

    @property
    def captions(self) -> int:
        """Pictures with a caption of their own."""
        return sum(subset.captions for subset in self.subsets)

    @property
    def named(self) -> bool:
        """Whether folder names say repeats and words."""
        return all(numbered(subset.name) and subset.class_tokens for subset in self.subsets)

    def texts(self) -> list[str]:
        """The captions there are. Those that can't be read are left to the check."""
        found = []
        for image in (image for subset in self.subsets for image in subset.images if image.has_caption):
            try:
                found.append(image.caption or (read_caption(image.caption_path).text if image.caption_path else ""))
            except UserError:
                continue
        return found


def find_pictures(folder: Path | None) -> Pictures:
    """The pictures of a folder, or of the one inside it that has them. Opens none.

    Raises UserError where there are none, and for a single one: that is what the copier presets are for.
    """
    folder = folder and folder.absolute()
    found = _with_captions(folder)
    if not found.train and (below := _below(found.problems)):
        folder, found = below, _with_captions(below)
    if not found.train:
        first = found.problems[0]
        raise UserError(first.key, **first.values)
    assert folder is not None
    subsets, extension = found.train, found.train[0].options.caption_extension
    pictures = Pictures(folder, subsets, all(s.folder.parent == folder for s in subsets), extension)
    if pictures.count < 2:
        raise UserError("guides.one_picture", path=folder)
    return pictures


def _with_captions(folder: Path | None) -> Scan:
    """The scan with the ending of caption files that more pictures have."""
    scans = [scan(DatasetSettings.model_validate(_tree(folder, ending))) for ending in CAPTION_ENDINGS]
    return max(scans, key=lambda found: sum(subset.captions for subset in found.subsets))


def _tree(folder: Path | None, ending: str) -> dict[str, object]:
    return {"train_dir": folder, "caption_extension": ending}


def _below(problems: tuple[Problem, ...]) -> Path | None:
    fixes = [problem.fix.get("dataset.train_dir") for problem in problems if problem.key == _BELOW]
    return Path(str(fixes[0])) if fixes and fixes[0] else None
