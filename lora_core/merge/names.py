"""Names of LoRA layers in every spelling people meet, and the one spelling this program computes with.

Canonical names are those of kohya's sd-scripts, which AUTOMATIC1111, Forge, ComfyUI and most tools read:

* SD 1 and 2: the blocks of diffusers, ``lora_unet_down_blocks_0_attentions_0_...`` and ``lora_te_text_model_...``
* SDXL: the blocks of the original code, ``lora_unet_input_blocks_4_1_...``, with ``lora_te1_`` and ``lora_te2_``
* FLUX: the fused layers of the original code, ``lora_unet_double_blocks_0_img_attn_qkv``, with ``lora_te1_`` (CLIP-L)
  and ``lora_te3_`` (T5)

A name in a file is read in three steps: ``split_key`` parts layer and tensor, ``family_of`` tells the model family from
all of them, ``locate`` gives the canonical layer. ``spell`` and ``tensor_key`` go the other way.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from lora_core.io.kinds import Family
from lora_core.merge import names_flux, names_sd, names_text
from lora_core.merge.names_family import family_of
from lora_core.merge.names_keys import split_key, tensor_key
from lora_core.merge.names_parts import Part, dotted, split_part

__all__ = ["Place", "Style", "family_of", "locate", "spell", "split_key", "tensor_key"]

Style = Literal["kohya", "diffusers", "peft"]
Rows = tuple[int, int]


class Place(NamedTuple):
    """Where a file's layer belongs."""

    name: str
    """The canonical layer."""
    rows: Rows | None = None
    """Rows of its weight that the file's layer is, where it is a part of a fused one; None for all of them."""
    swapped: bool = False
    """Whether the first and the second half of the file's rows change places.

    Of diffusers' FLUX ``norm_out.linear`` alone: scale before shift there, shift before scale in the original.
    """


_CANONICAL: Mapping[str, Mapping[Part, str]] = {
    "sd1": {"unet": "lora_unet_", "te1": "lora_te_"},
    "sd2": {"unet": "lora_unet_", "te1": "lora_te_"},
    "sdxl": {"unet": "lora_unet_", "te1": "lora_te1_", "te2": "lora_te2_"},
    "flux": {"unet": "lora_unet_", "te1": "lora_te1_", "te3": "lora_te3_"},
}
"""Family -> its networks, with the prefix of each in canonical names."""
_DIFFUSERS: Mapping[str, Mapping[Part, str]] = {
    "sd1": {"unet": "unet.", "te1": "text_encoder."},
    "sd2": {"unet": "unet.", "te1": "text_encoder."},
    "sdxl": {"unet": "unet.", "te1": "text_encoder.", "te2": "text_encoder_2."},
    "flux": {"unet": "transformer.", "te1": "text_encoder.", "te3": "text_encoder_2."},
}
"""Family -> its networks, with the attribute of diffusers' pipeline that each is."""


def canonical_prefix(family: Family, part: Part) -> str | None:
    """What canonical names of a network begin with; None if the family has no such network."""
    return _CANONICAL.get(family, {}).get(part)


def locate(spelled: str, family: Family) -> Place | None:
    """The canonical layer behind any spelling; None if the family has no layer of such a name.

    For SD and SDXL a well-formed name is enough, whatever its numbers: small models have other blocks than the real
    ones. ``known.layers`` says what the real ones have. Rows of FLUX are those of the real model.
    """
    part, path = split_part(spelled)
    prefix = canonical_prefix(family, part)
    if prefix is None:
        return None
    place = _DENOISERS[family](path) if part == "unet" else _text_place(part, path)
    return place and place._replace(name=prefix + place.name)


def _text_place(part: Part, path: str) -> Place | None:
    name = names_text.t5_layer(path) if part == "te3" else names_text.clip_layer(path)
    return Place(name) if name else None


def _sd_place(path: str) -> Place | None:
    """SD 1 and 2: diffusers' blocks."""
    path = names_sd.plain_attention(path)
    name = path if names_sd.is_diffusers(path) else names_sd.to_diffusers(path)
    return Place(name) if name else None


def _sdxl_place(path: str) -> Place | None:
    """SDXL: the original blocks."""
    path = names_sd.plain_attention(path)
    name = path if names_sd.is_ldm(path) else names_sd.to_ldm(path)
    return Place(name) if name else None


def _flux_place(path: str) -> Place | None:
    if found := names_flux.original(path):
        return Place(*found)
    if part := names_flux.part_of_layer(path):
        return Place(part[0], names_flux.part_rows(*part), swapped=part[0] == names_flux.SWAPPED)
    return None


_DENOISERS: Mapping[str, Callable[[str], Place | None]] = {
    "sd1": _sd_place,
    "sd2": _sd_place,
    "sdxl": _sdxl_place,
    "flux": _flux_place,
}


def spell(name: str, family: Family, style: Style) -> list[tuple[str, Rows | None]]:
    """A canonical layer as layers of a file in a style, each with its rows of the canonical layer (None: all).

    A fused layer of FLUX is several in "diffusers" and "peft". Stacked in the order given, the rows are those of the
    file: ``norm_out.linear`` comes twice, its second half first. PEFT's adapters are for one network; ours have the
    denoiser's layers as PEFT has them, and those of text encoders behind the encoder's name. Raises ValueError for a
    name that is not canonical.
    """
    if locate(name, family) != Place(name):
        raise ValueError(f"{name}: not a canonical layer of {family}")
    if style == "kohya":
        return [(name, None)]
    part, path = split_part(name)
    prefix = _DIFFUSERS[family][part]
    if style == "peft":
        prefix = "base_model.model." + ("" if part == "unet" else prefix)
    return [(prefix + dotted(p), rows) for p, rows in _diffusers_paths(path, family, part)]


def _diffusers_paths(path: str, family: Family, part: Part) -> list[tuple[str, Rows | None]]:
    if part != "unet" or family in ("sd1", "sd2"):
        return [(path, None)]
    if family == "sdxl":
        return [(names_sd.to_diffusers(path) or path, None)]
    if path == names_flux.SWAPPED:
        (half,) = names_flux.parts(path)
        return [(half, (names_flux.H, 2 * names_flux.H)), (half, (0, names_flux.H))]
    return [(p, names_flux.part_rows(path, i)) for i, p in enumerate(names_flux.parts(path))]
