"""What inspecting LoRA files finds: plain values, to be shown by the page, the terminal or a script.

Everything that came out of a file is bounded plain text here (see bounded.py); a page must show it as text. Sentences
are made on demand in either language, from keys and values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from lora_core.i18n import Language, text
from lora_core.io.kinds import FAMILY_NAMES, Family, Kind

Part = Literal["unet", "te1", "te2", "te3"]
"""unet: the denoiser of any family. te1: CLIP-L (SD 2: OpenCLIP-H), te2: OpenCLIP-G, te3: T5."""
Group = Literal["model", "network", "optimisation", "data", "noise", "saving", "other"]
GROUPS: tuple[Group, ...] = ("model", "network", "optimisation", "data", "noise", "saving", "other")
Severity = Literal["error", "warning", "note"]
Naming = Literal["kohya", "diffusers", "peft", "mixed", "unknown"]


@dataclass(frozen=True)
class Finding:
    """Something a person should know. The sentence is ``inspect.finding.<key>``."""

    severity: Severity
    """error: does not play as trained. warning: probably a mistake or waste. note: good to know."""
    key: str
    values: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    """The first layers or keys it is about."""
    count: int = 0
    """How many layers or keys it is about; 0 for what is about the whole file."""

    def message(self, language: Language = "en") -> str:
        return text(f"inspect.finding.{self.key}", language, count=self.count, **self.values)


# ---- from the header alone -------------------------------------------------------------------------------------------


def part_name(part: Part, family: Family, language: Language = "en") -> str:
    """What a network is called: U-Net, or transformer in the families that have one."""
    key = "transformer" if part == "unet" and family in ("flux", "sd3") else part
    return text(f"inspect.part.{key}", language)


@dataclass(frozen=True)
class PartReport:
    """One network the LoRA changes."""

    part: Part
    layers: int
    targets: int
    """Layers of this part that a plain LoRA trains; 0 when unknown."""
    parameters: int
    family: Family = "unknown"

    def name(self, language: Language = "en") -> str:
        return part_name(self.part, self.family, language)


@dataclass(frozen=True)
class BlockReport:
    """The layers of one block: names as in merge.blocks (BASE, IN00 .. OUT11, D00 .., REST)"""

    block: str
    layers: int
    parameters: int
    ranks: tuple[int, ...]
    """Ranks that occur, rising; empty for algorithms without one."""
    alphas: tuple[float, ...]
    """Alphas that occur, rising; empty when the file has none (alpha then equals rank)."""


@dataclass(frozen=True)
class BaseModel:
    """What the metadata say of the model the LoRA was trained on; "" where they say nothing."""

    name: str = ""
    version: str = ""
    """ss_base_model_version or modelspec.architecture."""
    short_hash: str = ""
    """AUTOMATIC1111's old 8-digit hash."""
    sha256: str = ""
    vae_name: str = ""
    vae_sha256: str = ""


@dataclass(frozen=True)
class Thumbnail:
    """A picture of the LoRA: one of the two is set."""

    data_url: str = ""
    """data:image/(png|jpeg|webp);base64,... from the metadata, checked to be such a picture."""
    path: Path | None = None
    """A picture file beside the LoRA."""


@dataclass(frozen=True)
class RecipeEntry:
    """One entry of the metadata, usually a setting of the training. Unknown keys are their own label."""

    key: str
    """As in the file: ss_learning_rate, modelspec.title."""
    group: Group
    value: Any
    """str, int, float, bool, None (not set), or a list or dict of such: what the text means, bounded."""
    known: bool
    kind: str = "plain"
    """How the value is said: see recipe_keys.Kind; "setting" for one of our own settings (key is its dotted path)."""

    def label(self, language: Language = "en") -> str:
        from lora_core.inspect.recipe import label_of

        return label_of(self, language)

    def shown(self, language: Language = "en") -> str:
        """The value in words."""
        from lora_core.inspect.recipe import shown_value

        return shown_value(self, language)


@dataclass(frozen=True)
class DatasetFolder:
    """One folder of training images."""

    name: str
    images: int | None
    repeats: int | None
    regularisation: bool = False


@dataclass(frozen=True)
class Tag:
    """A caption tag and how often it stands in the captions."""

    name: str
    count: int


@dataclass(frozen=True)
class TagFolder:
    """The tags of one dataset folder, most frequent first."""

    folder: str
    tags: tuple[Tag, ...]


@dataclass(frozen=True)
class Bucket:
    """One size to which training images were scaled (px)."""

    width: int
    height: int
    images: int


@dataclass(frozen=True)
class HeaderReport:
    """What a file's header says. For anything but a LoRA only the first fields are filled."""

    path: Path
    kind: Kind
    family: Family
    size: int
    """Bytes."""
    precision: str
    """fp32, fp16, bf16, fp8 or ""."""
    tensors: int
    parameters: int
    container: str = "safetensors"
    prediction_type: str = "epsilon"
    has_vae: bool = False
    has_text_encoder: bool = False

    algorithms: Mapping[str, int] = field(default_factory=dict)
    """Algorithm (lora, locon, loha, lokr, dora, ...) -> layers, most frequent first."""
    naming: Naming = "unknown"
    parts: tuple[PartReport, ...] = ()
    blocks: tuple[BlockReport, ...] = ()
    layers: int = 0
    targets: int = 0
    """Layers a plain LoRA trains in the parts that this file trains, so that "264 of 264" can be said; 0: unknown."""
    ranks: Mapping[int, int] = field(default_factory=dict)
    """Rank -> layers, most frequent first."""
    alphas: Mapping[float, int] = field(default_factory=dict)
    """Alpha -> layers, most frequent first."""

    base: BaseModel = field(default_factory=BaseModel)
    title: str = ""
    author: str = ""
    output_name: str = ""
    trigger_words: str = ""
    description: str = ""
    license: str = ""
    comment: str = ""
    thumbnail: Thumbnail | None = None
    has_settings: bool = False
    """Whether "train like this file" can load its settings."""
    program: str = ""
    """What wrote it, as far as it says."""
    merged_from: tuple[str, ...] = ()
    merge_recipe: Any = None
    """kumakobo_recipe, parsed and bounded."""
    recipe: tuple[RecipeEntry, ...] = ()
    """By group in the order of GROUPS."""
    datasets: tuple[DatasetFolder, ...] = ()
    tags: tuple[Tag, ...] = ()
    """Summed over folders, most frequent first."""
    tags_by_folder: tuple[TagFolder, ...] = ()
    buckets: tuple[Bucket, ...] = ()
    findings: tuple[Finding, ...] = ()
    """What the header alone shows; the weight report holds these too."""

    @property
    def family_name(self) -> str:
        return FAMILY_NAMES[self.family]

    @property
    def rank(self) -> int | None:
        """The most frequent rank."""
        return next(iter(self.ranks), None)

    @property
    def alpha(self) -> float | None:
        """The most frequent alpha; None when the file has none."""
        return next(iter(self.alphas), None)


# ---- with the weights ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EnergyPoint:
    """How much of the change (share of |D|^2, 0 to 1) the best approximation of a rank keeps."""

    rank: int
    share: float


@dataclass(frozen=True)
class ModuleReport:
    """One layer. Numbers are None where the change can't be formed from this file alone (OFT, broken layers)."""

    name: str
    """Canonical (kohya) name."""
    part: Part
    block: str
    algorithm: str
    shape: tuple[int, ...]
    """Of the weight that is changed; () when unknown."""
    rank: int | None
    alpha: float | None
    norm: float | None = None
    """Frobenius norm of the change at strength 1."""
    strength: float | None = None
    """norm over the square root of the number of weights: the root mean square change of a weight."""
    relative: float | None = None
    """strength over the median strength of the file's layers of the same kind: 1 is ordinary."""
    effective_rank: float | None = None
    """exp of the entropy of the singular values (Roy and Vetterli 2007)."""
    singular_values: tuple[float, ...] = ()
    """Falling; the first 64."""
    energy: tuple[EnergyPoint, ...] = ()


@dataclass(frozen=True)
class BlockWeights:
    """The layers of one block together."""

    block: str
    layers: int
    norm: float
    """Root of the sum of |D|^2."""
    share: float
    """Of the file's |D|^2, 0 to 1."""
    strength: float
    """Root mean square change of a weight of this block."""
    effective_rank: float
    """Mean over the layers."""
    energy: tuple[EnergyPoint, ...] = ()


@dataclass(frozen=True)
class HostReport:
    """Which layers a program would load, by what its source code reads."""

    host: str
    """A1111 / Forge, ComfyUI or diffusers."""
    loaded: int
    total: int
    refused: tuple[str, ...] = ()
    """The first layers it would not load."""

    def message(self, language: Language = "en") -> str:
        key = "inspect.host.all" if self.loaded == self.total else "inspect.host.some"
        return text(key, language, host=self.host, loaded=self.loaded, total=self.total)


@dataclass(frozen=True)
class WeightReport:
    """What the weights show."""

    path: Path
    family: Family
    modules: tuple[ModuleReport, ...]
    blocks: tuple[BlockWeights, ...]
    shares: Mapping[Part, float]
    """Part -> share of |D|^2, 0 to 1."""
    norm: float
    """Root of the sum of |D|^2 over all layers."""
    energy: tuple[EnergyPoint, ...]
    """Share of the whole kept when every layer is cut to a rank: 1, 2, 4, 8 ..."""
    rank_for_95: int | None
    """The smallest one rank for all layers that keeps 95% of |D|^2."""
    rank_for_99: int | None
    hosts: tuple[HostReport, ...]
    stored_hash: str
    """sshs_model_hash in the metadata, "" if none."""
    computed_hash: str
    findings: tuple[Finding, ...]
    """Gravest first; those of the header report among them."""


@dataclass(frozen=True)
class LoraReport:
    """A LoRA (or other model file) inspected; ``weights`` when they were asked for and there are any."""

    header: HeaderReport
    weights: WeightReport | None = None


# ---- two of them -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BlockComparison:
    block: str
    layers: int
    """Layers both have."""
    cosine: float | None
    """-1 to 1; None when one of them is nothing here."""
    norm_a: float
    norm_b: float


@dataclass(frozen=True)
class Difference:
    """A setting in which two files differ."""

    a: RecipeEntry | None
    """None: the file does not say."""
    b: RecipeEntry | None

    def label(self, language: Language = "en") -> str:
        entry = self.a or self.b
        assert entry
        return entry.label(language)


@dataclass(frozen=True)
class Comparison:
    """Two LoRAs of one family side by side."""

    a: HeaderReport
    b: HeaderReport
    cosine: float | None
    """Of the whole changes, missing layers counted as zero."""
    norm_a: float
    norm_b: float
    distance: float
    """|A - B|."""
    blocks: tuple[BlockComparison, ...]
    common: int
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    unmeasured: tuple[str, ...]
    """Layers that can't be compared without the base model, or are broken."""
    differences: tuple[Difference, ...]
    same_hash: bool
    """Whether the weights are the same byte for byte."""
    hash_a: str
    hash_b: str


# ---- JSON ------------------------------------------------------------------------------------------------------------


def to_json(report: Any) -> Any:
    """A report as JSON values: paths as text, numbers that are not finite as null, findings with their English text."""
    if is_dataclass(report) and not isinstance(report, type):
        extra = {"message": report.message()} if isinstance(report, Finding | HostReport) else {}
        return {f.name: to_json(getattr(report, f.name)) for f in fields(report)} | extra
    if isinstance(report, Mapping):
        return {str(key): to_json(value) for key, value in report.items()}
    if isinstance(report, list | tuple):
        return [to_json(value) for value in report]
    if isinstance(report, float):
        return report if isfinite(report) else None
    return str(report) if isinstance(report, Path) else report
