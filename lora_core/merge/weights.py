"""Where a canonical layer's weight is in a checkpoint, whatever names the checkpoint uses.

One .safetensors with the original names (SD 1, SD 2, SDXL, FLUX, with or without prefixes), a text encoder by itself,
or one part of a diffusers folder.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lora_core.io.kinds import Family
from lora_core.merge import names_flux, names_sd, names_text
from lora_core.merge.names import canonical_prefix
from lora_core.merge.names_parts import Part, split_part

Shape = tuple[int, ...]
Rows = tuple[int, int]


class Slot(NamedTuple):
    """A piece of a layer's weight: rows of a tensor in the file, and which rows of the layer they are."""

    key: str
    rows_in_weight: Rows | None = None
    """Rows of the file's tensor (None: all). OpenCLIP keeps query, key and value of a text encoder in one."""
    rows_in_layer: Rows | None = None
    """Rows of the canonical layer (None: all). diffusers keeps the parts of FLUX' fused layers apart."""


class _Weight(NamedTuple):
    """A tensor that may be the weight of a layer."""

    key: str
    part: Part
    path: str
    """Its place in the network: underscored, without ``weight``."""
    shape: Shape


class _Piece(NamedTuple):
    """A tensor, or rows of one, that is the nth of so many parts of a layer."""

    key: str
    rows: Rows | None = None
    nth: int = 0
    of: int = 1


Named = tuple[str, _Piece]


@dataclass(frozen=True)
class WeightMap:
    """Canonical layer name -> slots, for one file or one part of a folder."""

    family: Family
    _shapes: Mapping[str, Shape]
    _pieces: Mapping[str, Sequence[_Piece]]
    """Of every layer that is there whole, in the order of their rows."""

    @classmethod
    def of(cls, shapes: Mapping[str, Shape], *, part: str | None = None, family: Family | None = None) -> "WeightMap":
        """The map of a file by its keys and shapes.

        ``part``: of a diffusers folder ("unet", "transformer", "text_encoder", "text_encoder_2"); None for a single
        file. ``family``: as far as known; else it is told from the keys (a CLIP-L by itself passes for that of SD 1).
        """
        weights = list(_weights(shapes, part))
        family = family or _family(weights)
        pieces: dict[str, dict[int, _Piece]] = {}
        for name, piece in _named(weights, family):
            pieces.setdefault(name, {}).setdefault(piece.nth, piece)
        whole = {name: own for name, own in pieces.items() if len(own) == own[min(own)].of}
        return cls(family, shapes, {name: [own[nth] for nth in sorted(own)] for name, own in whole.items()})

    def find(self, name: str) -> list[Slot]:
        """The weight of a layer (linear, convolution or norm): one slot or more; none if the file does not have it."""
        slots, start = [], 0
        for piece in self._pieces.get(name, ()):
            end = start + self._rows(piece)
            slots.append(Slot(piece.key, piece.rows, (start, end) if piece.of > 1 else None))
            start = end
        return slots

    def find_bias(self, name: str) -> list[Slot]:
        """The bias of a layer, in slots like the weight's; none if the file does not have it."""
        slots = [slot._replace(key=slot.key.removesuffix("weight") + "bias") for slot in self.find(name)]
        return slots if all(slot.key in self._shapes for slot in slots) else []

    def layers(self) -> list[str]:
        """Every linear and convolution layer found whole, in the order of the file. Norms are not among them."""
        return [name for name in self._pieces if len(self.shape(name)) > 1]

    def shape(self, name: str) -> Shape:
        """Shape of a layer's whole weight: (out, in) or (out, in, height, width).

        Raises KeyError if the file does not have it.
        """
        pieces = self._pieces[name]
        return (sum(map(self._rows, pieces)), *self._shapes[pieces[0].key][1:])

    def _rows(self, piece: _Piece) -> int:
        return piece.rows[1] - piece.rows[0] if piece.rows else self._shapes[piece.key][0]


# ---- reading the keys ------------------------------------------------------------------------------------------------

_FOLDERS: Mapping[str, Part] = {"unet": "unet", "transformer": "unet", "text_encoder": "te1", "text_encoder_2": "te2"}


def _weights(shapes: Mapping[str, Shape], folder_part: str | None) -> Iterator[_Weight]:
    """All tensors called weight. What networks they really are of, the names of layers decide later."""
    lone_clip_g = shapes.get("text_model.embeddings.token_embedding.weight", (0, 0))[1:] == (1280,)
    for key, shape in shapes.items():
        if not shape or not key.endswith((".weight", "_weight")):
            continue
        layer = key[: -len(".weight")]
        if folder_part is None:
            part, path = split_part(layer)
            if lone_clip_g and key.startswith("text_model."):
                part = "te2"
        elif folder_part in _FOLDERS:
            path = layer.replace(".", "_")
            part = "te3" if path.startswith("encoder_block_") else _FOLDERS[folder_part]
        else:
            continue
        yield _Weight(key, part, path, shape)


_CONTEXT: Mapping[int, Family] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Width of the text that cross-attention reads."""
_CLIP_WIDTH: Mapping[int, Family] = {768: "sd1", 1024: "sd2", 1280: "sdxl"}
_BLOCKS: tuple[tuple[Family, str], ...] = (
    ("flux", r"(double|single)_blocks_\d|single_transformer_blocks_\d"),
    ("sd3", r"joint_blocks_\d|transformer_blocks_\d+_attn_add_"),
    ("sdxl", r"label_emb_|add_embedding_"),
)


def _family(weights: Sequence[_Weight]) -> Family:
    """The family by the denoiser's names and shapes, or else by the text encoders'."""
    denoiser = [w for w in weights if w.part == "unet"]
    for family, blocks in _BLOCKS:
        if any(re.match(blocks, w.path) for w in denoiser):
            return family
    for w in denoiser:
        if w.path.endswith("_attn2_to_k") and w.shape[-1] in _CONTEXT:
            return _CONTEXT[w.shape[-1]]
    parts = {w.part for w in weights}
    if "te3" in parts or "te2" in parts:
        return "flux" if "te3" in parts else "sdxl"
    widths = (w.shape[-1] for w in weights if w.part == "te1" and w.path.endswith(("final_layer_norm", "ln_final")))
    return _CLIP_WIDTH.get(next(widths, 768), "sd1")


# ---- from weights to layers ------------------------------------------------------------------------------------------


def _named(weights: Sequence[_Weight], family: Family) -> Iterator[Named]:
    """(canonical layer, piece) of every weight that is, or is part of, a layer of the family."""
    layers = _layers_per_block(weights)
    denoisers: Mapping[str, Callable[[_Weight], Sequence[Named]]] = {
        "sd1": lambda w: _sd(w, layers),
        "sd2": lambda w: _sd(w, layers),
        "sdxl": lambda w: _sdxl(w, layers),
        "flux": _flux,
    }
    for weight in weights:
        if prefix := canonical_prefix(family, weight.part):
            named = denoisers[family](weight) if weight.part == "unet" else _text(weight)
            yield from ((prefix + name, piece) for name, piece in named)


def _layers_per_block(weights: Sequence[_Weight]) -> int:
    """Pairs of resnet and transformer on a level of the U-Net; see names_sd."""

    def numbers(pattern: str) -> list[int]:
        return [int(m[1]) for w in weights if w.part == "unet" and (m := re.match(pattern, w.path))]

    if downsamplers := numbers(r"input_blocks_(\d{1,4})_0_op"):
        return min(downsamplers) - 1
    if resnets := numbers(r"down_blocks_0_resnets_(\d{1,4})_"):
        return max(resnets) + 1
    return max(numbers(r"input_blocks_(\d{1,4})_"), default=2) or 2


def _sd(weight: _Weight, layers: int) -> Sequence[Named]:
    path = weight.path
    name = path if names_sd.is_diffusers(path) else names_sd.to_diffusers(path, layers)
    return [(name, _Piece(weight.key))] if name else []


def _sdxl(weight: _Weight, layers: int) -> Sequence[Named]:
    path = weight.path
    name = path if names_sd.is_ldm(path) else names_sd.to_ldm(path, layers)
    return [(name, _Piece(weight.key))] if name else []


def _flux(weight: _Weight) -> Sequence[Named]:
    key, path = weight.key, weight.path
    if found := names_flux.original(path):
        return [(found[0], _Piece(key))]
    part = names_flux.part_of_layer(path)
    if not part:
        return []
    layer, nth = part
    if layer == names_flux.SWAPPED:
        rows = weight.shape[0]
        return [(layer, _Piece(key, (rows // 2, rows), 0, 2)), (layer, _Piece(key, (0, rows // 2), 1, 2))]
    return [(layer, _Piece(key, None, nth, len(names_flux.parts(layer))))]


def _text(weight: _Weight) -> Sequence[Named]:
    name = names_text.t5_layer(weight.path) if weight.part == "te3" else names_text.clip_layer(weight.path)
    if name:
        return [(name, _Piece(weight.key))]
    names = names_text.open_clip_layers(weight.path)
    rows = weight.shape[0] // max(len(names), 1)
    return [
        (name, _Piece(weight.key, (i * rows, (i + 1) * rows) if len(names) > 1 else None))
        for i, name in enumerate(names)
    ]
