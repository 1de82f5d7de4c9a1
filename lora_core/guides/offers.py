"""Which preset suits a model, a purpose and a graphics card: one table, read from the top.

The memory is what the presets are made for (docs/guides.md), an estimate for each. A card sold as 12 GB reports a
little less, hence ``SPARE``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from lora_core.errors import UserError
from lora_core.families import FAMILIES
from lora_core.families.source import BUILT_IN, base_path, is_hub_name
from lora_core.io.headers import identify
from lora_core.io.kinds import FAMILY_NAMES, FileKind
from lora_core.settings import ModelSettings
from lora_core.settings.presets import find_preset

Kind = Literal["character", "style", "object"]
KINDS: tuple[Kind, ...] = get_args(Kind)

SPARE = 0.6
"""GB that a card may have less than it is sold with."""
USUAL_GB = 12.0
"""Taken where nobody can tell: the most common size of cards that people train on."""

_PEOPLE: tuple[Kind, ...] = ("character", "object")


@dataclass(frozen=True)
class Source:
    """What the source model is, as far as presets differ by it."""

    family: str
    built_in: bool = False
    v_prediction: bool = False
    tagged: bool = False
    """An anime fine-tune of SDXL by its file name: nothing in the file tells."""


@dataclass(frozen=True)
class Offer:
    """One preset and what it is for. ``needs`` is GB of graphics memory."""

    preset: str
    family: str
    kinds: tuple[Kind, ...] = KINDS
    needs: float = 0.0
    only: Literal["", "built_in", "v_prediction", "tagged"] = ""
    """For such source models alone."""


OFFERS: tuple[Offer, ...] = (
    Offer("demo", "sd1", only="built_in"),
    Offer("sd15_character", "sd1", ("character",), 8),
    Offer("sd15_object", "sd1", ("object",), 8),
    Offer("sd15_style", "sd1", ("style",), 10),
    Offer("sd15_low_memory", "sd1"),
    Offer("noobai_vpred_character", "sdxl", _PEOPLE, 16, "v_prediction"),
    Offer("illustrious_character", "sdxl", _PEOPLE, 16, "tagged"),
    Offer("sdxl_style", "sdxl", ("style",), 24),
    Offer("sdxl_24gb", "sdxl", _PEOPLE, 24),
    Offer("sdxl_16gb", "sdxl", needs=16),
    Offer("sdxl_12gb", "sdxl", needs=12),
    Offer("sdxl_8gb", "sdxl"),
    Offer("sdxl_character", "sdxl", _PEOPLE, 16),
    Offer("flux_character", "flux", _PEOPLE, 32),
    Offer("flux_24gb", "flux", needs=24),
    Offer("flux_16gb", "flux", needs=16),
    Offer("flux_12gb", "flux"),
)
"""Stable Diffusion 2 takes the rows of 1: it is trained the same way, at its own size."""

_LEAST = {"sd1": 6.0, "sd2": 6.0, "sdxl": 8.0, "flux": 12.0}
"""GB below which even the smallest preset of a family may not fit."""
_SIZES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "sd1": {},
        "sd2": {},
        "sdxl": {"dataset.resolution": "1024", "train.gradient_checkpointing": True},
        "flux": {
            "dataset.resolution": "768",
            "train.gradient_checkpointing": True,
            "train.train_text_encoder": False,
            "train.text_encoder_lr": None,
            "sample.guidance": 3.5,
            "sample.steps": 20,
        },
    }
)
"""What presets for Stable Diffusion 1.5 need to fit another family."""
_BUILT_IN = ("resolution", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps")
"""Settings of the demo preset without which the built-in model, of 64 px pictures, learns nothing."""
_TAGGED = ("illustrious", "pony", "noob", "animagine", "wai-", "wai_")


def source_of(model: ModelSettings, family: str) -> Source:
    """The source model by its header; ``family`` where nothing can be looked at yet (no model, a Hugging Face name).

    Raises UserError for a file that is no model, or of a family that is not trained here.
    """
    base = model.base.strip()
    if base == BUILT_IN:
        return Source("sd1", built_in=True)
    if not base or is_hub_name(base):
        return Source(family)
    found = identify(base_path(model))
    _require_trainable(found)
    tagged = any(mark in found.path.name.lower() for mark in _TAGGED)
    return Source(found.family, v_prediction=found.prediction_type == "v_prediction", tagged=tagged)


def _require_trainable(found: FileKind) -> None:
    if found.kind not in ("checkpoint", "unet"):
        raise UserError("guides.no_model_file", path=found.path)
    if found.family not in FAMILIES:
        raise UserError("model.no_such_family", path=found.path, family=FAMILY_NAMES[found.family])


def offers_for(source: Source, kind: Kind) -> list[Offer]:
    """Every preset that may be chosen, in the order of the table."""
    return [offer for offer in OFFERS if _suits(offer, source) and kind in offer.kinds]


def best_offer(source: Source, kind: Kind, gigabytes: float | None) -> Offer:
    """The first that fits the card; the one that needs least where none does."""
    offers = offers_for(source, kind)
    room = (USUAL_GB if gigabytes is None else gigabytes) + SPARE
    return next((o for o in offers if o.needs <= room), min(offers, key=lambda o: o.needs))


def presets_of(source: Source) -> list[str]:
    """The presets for a model, whatever is to be learned."""
    return [offer.preset for offer in OFFERS if _suits(offer, source)]


def too_small(source: Source, gigabytes: float | None) -> float | None:
    """The GB that a model wants, if the card has less; None where it fits or nobody can tell."""
    least = _LEAST.get(source.family, 0.0)
    return least if gigabytes is not None and not source.built_in and gigabytes + SPARE < least else None


def settings_for_source(source: Source) -> dict[str, Any]:
    """What a preset for Stable Diffusion 1.5 needs besides to train this source model, by dotted path."""
    family = {"model.family": source.family}
    if source.built_in:
        demo = find_preset("demo").values
        return family | {path: demo[path] for path in (f"dataset.{name}" for name in _BUILT_IN)}
    if source.family == "sd2" and source.v_prediction:
        return family | {"dataset.resolution": "768"}
    return family | dict(_SIZES[source.family])


def _suits(offer: Offer, source: Source) -> bool:
    if source.built_in:  # it draws 64 x 64 pixels: no other preset fits it
        return offer.only == "built_in"
    family = "sd1" if source.family == "sd2" else source.family
    return offer.family == family and (not offer.only or bool(getattr(source, offer.only)))
