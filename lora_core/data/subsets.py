"""What a scan finds: folders of images with their captions, and how each is shown."""

from dataclasses import dataclass, field
from pathlib import Path

from lora_core.data.listing import ImageFile
from lora_core.data.wording import counted
from lora_core.errors import Problem
from lora_core.i18n import Language, text
from lora_core.settings import DatasetSettings


@dataclass(frozen=True)
class Subset:
    """One folder of images: how often each is shown per epoch, and the words for those without a caption."""

    folder: Path
    repeats: int
    class_tokens: str
    is_reg: bool
    images: tuple[ImageFile, ...]
    options: DatasetSettings = field(default_factory=DatasetSettings, compare=False)
    """Size, buckets and captions of this folder: the run's, or what a dataset file says otherwise."""
    loss_weight: float = 1.0
    dataset: int = 0
    """Number (from 1) of its dataset in a dataset file. Batches and regularisation keep to one dataset."""
    batch_size: int | None = None
    """Of its dataset; None is the run's."""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def setting(self) -> str:
        """The setting that names this folder."""
        if self.options.has_pair:
            return "dataset.pair_before" if self.dataset == 1 else "dataset.pair_after"
        if self.dataset:
            return "dataset.config"
        return "dataset.reg_dir" if self.is_reg else "dataset.train_dir"

    @property
    def captions(self) -> int:
        """How many images have a caption of their own."""
        return sum(image.has_caption for image in self.images)

    def line(self, language: Language = "en") -> str:
        """For the tree on screen: "20_usu bear: 20 × 15 images, 15 captions"."""
        line = text(
            "data.tree_line",
            language,
            name=self.name,
            repeats=self.repeats,
            images=counted("data.images", len(self.images), language),
            captions=counted("data.captions", self.captions, language),
        )
        return text("data.tree_reg", language, line=line) if self.is_reg else line


@dataclass(frozen=True)
class Scan:
    """What was found, in a fixed order, and what is to be said about it. Training images come first."""

    subsets: tuple[Subset, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def train(self) -> tuple[Subset, ...]:
        return tuple(subset for subset in self.subsets if not subset.is_reg)

    @property
    def reg(self) -> tuple[Subset, ...]:
        return tuple(subset for subset in self.subsets if subset.is_reg)

    @property
    def ok(self) -> bool:
        return not any(problem.severity == "error" for problem in self.problems)

    @property
    def datasets(self) -> list[int]:
        """Numbers of the datasets, in order; [0] for folders without a dataset file."""
        return sorted({subset.dataset for subset in self.subsets})

    def __add__(self, other: "Scan") -> "Scan":
        return Scan(self.subsets + other.subsets, self.problems + other.problems)
