"""Layer weights (階層マージ): a number for each block of the model, in the forms people paste.

Blocks have the names of AUTOMATIC1111's block-weight extensions: BASE (text encoders), IN00 to IN11, MID, OUT00 to
OUT11 for Stable Diffusion; for FLUX CLIP, T5, IN, D00 to D18 (double), S00 to S37 (single), OUT. A layer outside all
of them is in REST, which always counts fully.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from lora_core.errors import UserError
from lora_core.io.kinds import FAMILY_NAMES, Family

REST = "REST"


def _numbered(prefix: str, numbers: Iterable[int]) -> tuple[str, ...]:
    return tuple(f"{prefix}{number:02d}" for number in numbers)


SD = ("BASE", *_numbered("IN", range(12)), "MID", *_numbered("OUT", range(12)))
SDXL = ("BASE", *_numbered("IN", range(9)), "MID", *_numbered("OUT", range(9)))
FLUX = ("CLIP", "T5", "IN", *_numbered("D", range(19)), *_numbered("S", range(38)), "OUT")

NAMES: Mapping[Family, tuple[str, ...]] = {"sd1": SD, "sd2": SD, "sdxl": SDXL, "flux": FLUX}

FORMS: Mapping[Family, Mapping[int, tuple[str, ...]]] = {
    "sd1": {
        17: ("BASE", *_numbered("IN", (1, 2, 4, 5, 7, 8)), "MID", *_numbered("OUT", range(3, 12))),
        26: SD,
    },
    "sdxl": {
        12: ("BASE", *_numbered("IN", (4, 5, 7, 8)), "MID", *_numbered("OUT", range(6))),
        20: SDXL,
    },
    "flux": {57: FLUX[3:-1], 58: ("BASE", *FLUX[3:-1]), 61: FLUX},
}
"""How many numbers are pasted -> the blocks they are for. The shorter forms name those blocks that a plain LoRA has."""


def names(family: Family) -> tuple[str, ...]:
    """The blocks of a family, in the order of the longest form. Raises UserError for a family without any."""
    if family not in NAMES:
        raise UserError("blocks.no_family", family=FAMILY_NAMES[family])
    return NAMES[family]


def forms(family: Family) -> Mapping[int, tuple[str, ...]]:
    return FORMS["sd1" if family == "sd2" else family] if names(family) else {}


def block_of(name: str, family: Family) -> str:
    """The block a layer belongs to, by its canonical name; REST for time embeddings and the like."""
    if family == "flux":
        return _flux_block(name)
    if name.startswith("lora_te"):
        return "BASE"
    block = _sai_block(name) if family == "sdxl" else _diffusers_block(name)
    return block if block in NAMES.get(family, ()) else REST


_SAI = re.compile(r"lora_unet_(input|output)_blocks_(\d+)_")


def _sai_block(name: str) -> str:
    if found := _SAI.match(name):
        return f"{'IN' if found[1] == 'input' else 'OUT'}{int(found[2]):02d}"
    return "MID" if name.startswith("lora_unet_middle_block_") else REST


_DIFFUSERS = re.compile(r"lora_unet_(down|up)_blocks_(\d+)_(resnets|attentions|downsamplers|upsamplers)_(\d+)_")


def _diffusers_block(name: str) -> str:
    """Three blocks a level: two layers and the downsampler going in, three layers (upsampler in the last) going out."""
    if found := _DIFFUSERS.match(name):
        level, layer = int(found[2]), int(found[4])
        if found[1] == "down":
            return f"IN{3 * (level + 1) if found[3] == 'downsamplers' else 3 * level + layer + 1:02d}"
        return f"OUT{3 * level + (2 if found[3] == 'upsamplers' else layer):02d}"
    if name.startswith("lora_unet_conv_in"):
        return "IN00"
    return "MID" if name.startswith("lora_unet_mid_block_") else REST


_FLUX = re.compile(r"lora_unet_(double|single)_blocks_(\d+)_")
_FLUX_STARTS = (
    ("lora_te1_", "CLIP"),
    ("lora_te3_", "T5"),
    ("lora_unet_final_layer", "OUT"),
    ("lora_unet_img_in", "IN"),
    ("lora_unet_txt_in", "IN"),
    ("lora_unet_time_in", "IN"),
    ("lora_unet_vector_in", "IN"),
    ("lora_unet_guidance_in", "IN"),
)


def _flux_block(name: str) -> str:
    if found := _FLUX.match(name):
        return f"{'D' if found[1] == 'double' else 'S'}{int(found[2]):02d}"
    return next((block for start, block in _FLUX_STARTS if name.startswith(start)), REST)


# ---- weights ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BlockWeights:
    """A number for every block of a family; 1 leaves a block as it is, 0 removes it."""

    family: Family
    by_block: Mapping[str, float]

    def of(self, name: str) -> float:
        """The weight of a layer, by its canonical name."""
        return self.by_block.get(block_of(name, self.family), 1.0)

    @property
    def plain(self) -> bool:
        """Whether every block counts fully."""
        return all(weight == 1 for weight in self.by_block.values())


def everything(family: Family) -> BlockWeights:
    return BlockWeights(family, dict.fromkeys(names(family), 1.0) if family in NAMES else {})


def parse(text: str, family: Family) -> BlockWeights:
    """Weights from what people type or paste. Blocks that are not named keep weight 1.

    * nothing: 1 everywhere
    * 12, 17, 20, 26 (FLUX: 57, 58, 61) numbers, with commas, spaces or as a JSON list, also behind ``NAME:``
    * the name of a preset: "OUTALL"
    * blocks by name: "BASE=0, IN04-08=0.5"

    Raises UserError that says what was wrong.
    """
    return BlockWeights(family, dict(everything(family).by_block) | stated(text, family))


def preset_of(text: str, family: Family) -> dict[str, float] | None:
    """1 or 0 for every block, if the text is the name of a preset."""
    preset = PRESETS.get(text.strip().upper())
    return {block: preset.weight(block, names(family)) for block in names(family)} if preset else None


def stated(text: str, family: Family) -> dict[str, float]:
    """As ``parse``, of those blocks alone that the text gives a number."""
    words = text.strip()
    if not words:
        return {}
    if (chosen := preset_of(words, family)) is not None:
        return chosen
    if "=" in words:
        return _by_name(words, family)
    numbers = _numbers(re.sub(r"^[^:\[\]]*:", "", words))
    form = forms(family).get(len(numbers))
    if form is None:
        lengths = ", ".join(map(str, forms(family)))
        raise UserError("blocks.length", count=len(numbers), lengths=lengths, family=FAMILY_NAMES[family])
    return _spread(dict(zip(form, numbers, strict=True)), family)


def _spread(weights: Mapping[str, float], family: Family) -> dict[str, float]:
    """BASE stands for both text encoders of FLUX."""
    spread = dict(weights)
    if family == "flux" and "BASE" in spread:
        spread["CLIP"] = spread["T5"] = spread.pop("BASE")
    return spread


def _numbers(words: str) -> list[float]:
    try:
        if words.strip().startswith("["):
            return [_finite(value) for value in json.loads(words)]
        return [_finite(word) for word in re.split(r"[,\s]+", words.strip().strip(",")) if word]
    except (ValueError, TypeError):
        raise UserError("blocks.not_numbers", text=words[:80]) from None


def _finite(value: object) -> float:
    number = float(value)  # type: ignore[arg-type]
    if isinstance(value, bool) or number != number or abs(number) > 1e6:
        raise ValueError(value)
    return number


def _by_name(words: str, family: Family) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in re.split(r"\s*[,;\n]\s*", words.strip(" ,;\n")):
        block, _, number = part.partition("=")
        weight = _numbers(number)
        if len(weight) != 1:
            raise UserError("blocks.not_numbers", text=part[:80])
        weights |= dict.fromkeys(parse_names(block, family), weight[0])
    return weights


def parse_names(text: str, family: Family) -> list[str]:
    """Blocks from "BASE, IN04-08, MID" in the family's order; IN, OUT, D and S alone stand for all of theirs.

    Raises UserError for a name the family does not have.
    """
    found: set[str] = set()
    for word in re.split(r"[,\s]+", text.upper().strip(" ,")):
        if word:
            found |= set(_range(word, family))
    return [block for block in names(family) if block in found]


def _range(word: str, family: Family) -> list[str]:
    known = names(family)
    if word == "BASE" and family == "flux":
        return ["CLIP", "T5"]
    if word in known:
        return [word]
    kind = re.fullmatch(r"([A-Z]+?)(?:(\d{1,2})(?:-\1?(\d{1,2}))?)?", word)
    blocks = [block for block in known if kind and re.fullmatch(rf"{kind[1]}\d\d", block)]
    if kind and kind[2]:
        low, high = int(kind[2]), int(kind[3] or kind[2])
        blocks = [block for block in blocks if low <= int(block[-2:]) <= high]
    if not blocks:
        raise UserError("blocks.unknown", block=word[:40], family=FAMILY_NAMES[family], example=", ".join(known[:3]))
    return blocks


def format_weights(weights: BlockWeights) -> str:
    """The longest form as text: "1,0.5,0, ..." with as few digits as hold each number."""
    return ",".join(f"{weights.by_block.get(block, 1.0):.6g}" for block in names(weights.family))


# ---- presets ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preset:
    """Weights by the place of a block: ``weight(block, blocks of the family)``. ``key`` names its title."""

    key: str
    weight: Callable[[str, tuple[str, ...]], float]


def _is_text(block: str) -> bool:
    return block in ("BASE", "CLIP", "T5")


def _depth(block: str, blocks: tuple[str, ...]) -> float:
    """0 at the picture, 1 in the middle; for FLUX's single and double blocks, place in the row, 0 to 1."""
    kind = block.rstrip("0123456789")
    row = [b for b in blocks if b.rstrip("0123456789") == kind]
    place = row.index(block) / max(len(row) - 1, 1)
    return 1 - place if kind == "OUT" else place


def _chosen(*kinds: str, low: float = 0.0, high: float = 1.0, text: bool = True) -> Callable:
    """1 for blocks of these kinds between two depths (and for text encoders if ``text``), else 0."""

    def weight(block: str, blocks: tuple[str, ...]) -> float:
        if _is_text(block):
            return float(text)
        kind = block.rstrip("0123456789")
        return float(kind in kinds and (kind == "MID" or low <= _depth(block, blocks) <= high))

    return weight


PRESETS: Mapping[str, Preset] = {
    "ALL": Preset("blocks.preset.all", lambda block, blocks: 1.0),
    "NONE": Preset("blocks.preset.none", lambda block, blocks: 0.0),
    "NOTEXT": Preset("blocks.preset.no_text", lambda block, blocks: float(not _is_text(block))),
    "TEXT": Preset("blocks.preset.text", lambda block, blocks: float(_is_text(block))),
    "INALL": Preset("blocks.preset.in_all", _chosen("IN", "D")),
    "INS": Preset("blocks.preset.in_shallow", _chosen("IN", "D", high=0.45)),
    "IND": Preset("blocks.preset.in_deep", _chosen("IN", "D", low=0.45)),
    "MIDD": Preset("blocks.preset.middle", _chosen("IN", "MID", "OUT", "D", "S", low=0.45)),
    "OUTD": Preset("blocks.preset.out_deep", _chosen("OUT", "S", low=0.45)),
    "OUTS": Preset("blocks.preset.out_shallow", _chosen("OUT", "S", high=0.45)),
    "OUTALL": Preset("blocks.preset.out_all", _chosen("OUT", "S")),
}
"""Named weights, with the names that SuperMerger and the block-weight extension use where theirs mean the same."""
