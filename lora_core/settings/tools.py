"""Settings of the jobs that work on LoRA files and checkpoints. The page and the command line fill them in.

Paths are those of this machine; where a LoRA is recorded in a result's metadata only its name and hash are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from lora_core.settings.base import Settings, UserPath
from lora_core.settings.dataset import DatasetSettings
from lora_core.settings.generate import GenerateSettings, GridSettings, ProofSettings
from lora_core.settings.model import AnyModel, Sd1Model
from lora_core.settings.problems import SettingsError, problems_from
from lora_core.settings.run import RunSettings

MethodName = Literal["svd", "concat", "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"]
SavePrecision = Literal["fp16", "bf16", "float"]
Names = Literal["kohya", "diffusers", "peft"]


class LoraSource(Settings):
    """One LoRA of a merge."""

    path: UserPath = None
    """The LoRA file."""

    ratio: float = 1.0
    """How strongly it counts. 0.5 plays as half, -1 takes it away."""

    block_weights: str = ""
    """Weights by block: 12, 17, 20 or 26 numbers (FLUX: 57 or 58) or the name of a preset. Empty means 1 everywhere."""


class Target(Settings):
    """Where a result goes."""

    output: UserPath = None
    """The file to write."""

    overwrite: bool = False
    """Whether a file that is there may be replaced."""

    precision: SavePrecision = "fp16"
    """Number format of the result."""

    no_metadata: bool = False
    """Write only what other programs need to know the file's kind."""


class Size(Settings):
    """How large the factors of a result may be."""

    rank: int | None = Field(None, ge=1, le=4096)
    """Rank of the result. Empty: as large as needed."""

    conv_rank: int | None = Field(None, ge=1, le=4096)
    """Rank of convolutions larger than 1x1. Empty: the same as rank."""

    energy: float | None = Field(None, gt=0, le=1)
    """Share of the change to keep in every layer, 0 to 1: the smallest rank that keeps it is chosen, up to ``rank``."""

    same_rank: bool = False
    """With ``energy``: give every layer the largest rank any layer needs, for programs that expect one rank."""


class MergeSettings(Target, Size):
    """LoRAs -> a LoRA whose effect is the weighted sum of theirs."""

    job: Literal["merge"] = "merge"
    loras: list[LoraSource] = Field(default_factory=list)

    method: MethodName = "svd"
    """How the changes are combined."""

    density: float = Field(0.5, gt=0, le=1)
    """TIES, DARE and pruning: the share of numbers kept in every layer."""

    seed: int = Field(0, ge=0, lt=2**32)
    """DARE: which numbers are dropped."""

    base: UserPath = None
    """Base model; needed only for DoRA, GLoRA and IA3 files, whose change depends on it."""


class ApplySettings(Target):
    """LoRAs + a checkpoint -> a checkpoint with them baked in, or taken out again."""

    job: Literal["apply"] = "apply"
    checkpoint: UserPath = None
    """A .safetensors checkpoint or a diffusers folder."""

    loras: list[LoraSource] = Field(default_factory=list)

    reverse: bool = False
    """Take the LoRAs out of a checkpoint they were baked into."""

    precision: Literal["same", "fp16", "bf16", "float"] = "same"  # type: ignore[assignment]
    """Number format of the result; "same" keeps that of every weight."""


class ExtractSettings(Target, Size):
    """Two checkpoints -> the LoRA that turns one into the other."""

    job: Literal["extract"] = "extract"
    base: UserPath = None
    """The checkpoint to start from."""

    tuned: UserPath = None
    """The checkpoint whose difference is wanted."""

    rank: int | None = Field(16, ge=1, le=4096)
    """Rank of linear layers and 1x1 convolutions."""

    conv: bool = True
    """Also extract convolutions larger than 1x1 (makes a LoCon)."""

    text_encoder: bool = True
    """Also extract the text encoders."""

    min_diff: float = Field(0.0, ge=0)
    """Layers in which no weight differs by more than this are left out."""


class ResizeSettings(Target, Size):
    """A LoRA -> the same LoRA in a smaller rank."""

    job: Literal["resize"] = "resize"
    lora: UserPath = None

    dynamic_method: Literal["sv_ratio", "sv_cumulative", "sv_fro"] | None = None
    """Choose the rank of every layer by its singular values, up to ``rank``."""

    dynamic_param: float | None = Field(None, gt=0)
    """sv_ratio: largest over smallest singular value kept. sv_cumulative: share of their sum. sv_fro: share of the norm."""


class ConvertSettings(Target):
    """A LoRA -> the same LoRA with other names, another number format, or other metadata."""

    job: Literal["convert"] = "convert"
    lora: UserPath = None

    names: Names | Literal["same"] = "same"
    """Spelling of the layers: kohya, diffusers or peft."""

    precision: Literal["same", "fp16", "bf16", "float"] = "same"  # type: ignore[assignment]

    metadata: dict[str, str | None] = Field(default_factory=dict)
    """Entries to set; null removes one."""

    strip_metadata: bool = False
    """Remove everything but what other programs need."""


class CleanSettings(Target):
    """A LoRA -> the same LoRA without keys that no program reads and layers that do nothing."""

    job: Literal["clean"] = "clean"
    lora: UserPath = None
    precision: Literal["same", "fp16", "bf16", "float"] = "same"  # type: ignore[assignment]

    zero_layers: bool = True
    """Also drop layers whose change is zero."""

    remove_blocks: str = ""
    """Blocks to drop, for example "BASE,IN01,OUT09-11"."""


class PreviewSettings(Settings):
    """Pictures drawn with LoRAs on a base model, to see a merge before it is saved."""

    job: Literal["preview"] = "preview"
    merge: MergeSettings = Field(default_factory=MergeSettings)

    base: str = "built-in"
    """The model to draw with."""

    prompts: list[str] = Field(default_factory=list)
    """One picture each; up to four."""

    steps: int = Field(20, ge=1, le=150)
    guidance: float = Field(7.0, ge=0, le=50)
    seed: int = Field(1, ge=0, lt=2**32)
    width: int | None = Field(None, ge=16, le=4096)
    """Empty: the size the model was made for."""

    height: int | None = Field(None, ge=16, le=4096)


class RegularisationSettings(Settings):
    """A class prompt -> pictures of the class as the source model draws it, to regularise a training with."""

    job: Literal["regularisation"] = "regularisation"
    model: AnyModel = Sd1Model()
    """The model to draw with: the one that will be trained."""

    dataset: DatasetSettings = Field(default_factory=DatasetSettings)
    """The training pictures; the new ones get their sizes."""

    folder: UserPath = None
    """The regularisation folder. The pictures go into a folder such as "1_bear" in it."""

    prompt: str = Field("", max_length=500)
    """The class, such as "bear" or "1girl, solo": what the training pictures show, without their trigger words."""

    negative: str = Field("", max_length=2000)
    """What the pictures are not to show."""

    count: int | None = Field(None, ge=1, le=100_000)
    """How many pictures there are to be in the end. Empty: five for each training picture."""

    seed: int = Field(1, ge=0, lt=2**32)
    """Seed of the first picture; each further one has the next."""

    steps: int = Field(28, ge=1, le=150)
    guidance: float = Field(7.5, ge=0, le=50)
    sampler: Literal["euler_a", "euler", "ddim", "dpmpp_2m_karras", "unipc"] = "euler_a"
    captions: bool = False
    """Also write the class as a caption file beside each picture."""

    device: Literal["auto", "cuda", "xpu", "mps", "cpu"] = "auto"


class RateRangeSettings(Settings):
    """A training -> the learning rate that suits it, by a short test that writes none of the training's files."""

    job: Literal["lr_range"] = "lr_range"
    training: RunSettings = Field(default_factory=RunSettings)
    """The training, with its own pictures, batches, optimizer and model."""

    lowest: float = Field(1e-6, gt=0, le=10)
    """Learning rate of the first step, for the U-Net or transformer; other parts keep their proportion to it."""

    highest: float = Field(1e-1, gt=0, le=10)
    """Learning rate of the last step. The rate rises by the same factor from step to step."""

    steps: int = Field(60, ge=10, le=1000)
    """Steps from the lowest rate to the highest."""


ToolSettings = Annotated[
    MergeSettings
    | ApplySettings
    | ExtractSettings
    | ResizeSettings
    | ConvertSettings
    | CleanSettings
    | PreviewSettings
    | RegularisationSettings
    | GenerateSettings
    | GridSettings
    | RateRangeSettings
    | ProofSettings,
    Field(discriminator="job"),
]
TOOL_SETTINGS: TypeAdapter[ToolSettings] = TypeAdapter(ToolSettings)
JOBS: Mapping[str, type[Settings]] = {
    "merge": MergeSettings,
    "apply": ApplySettings,
    "extract": ExtractSettings,
    "resize": ResizeSettings,
    "convert": ConvertSettings,
    "clean": CleanSettings,
    "preview": PreviewSettings,
    "regularisation": RegularisationSettings,
    "generate": GenerateSettings,
    "grid": GridSettings,
    "lr_range": RateRangeSettings,
    "proof": ProofSettings,
}
DRAWN = (PreviewSettings, GenerateSettings, GridSettings, ProofSettings)
"""Jobs whose results are pictures, which lie in the job's own folder unless another is named."""
PICTURES = (*DRAWN, RegularisationSettings)
"""Jobs that draw with a model, which may be in memory still from the last of them."""
TRAIN = (RunSettings, RateRangeSettings)
"""Jobs that want the graphics card's memory for themselves."""
IN_OWN_FOLDER = (*DRAWN, RateRangeSettings)
"""Jobs that are told the folder they run in, because they may write into it."""


def output_of(settings: ToolSettings) -> Path | None:
    """The file or folder that a job names itself after; jobs that write into their own folder have none."""
    if isinstance(settings, RegularisationSettings):
        return settings.folder
    return None if isinstance(settings, IN_OWN_FOLDER) else settings.output


S = TypeVar("S", bound=Settings)


def checked(cls: type[S], values: Mapping[str, Any], source: str = "-") -> S:
    """Settings of a job from loose values. Raises SettingsError, which names every value that cannot be used."""
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise SettingsError(source, problems_from(error)) from error
