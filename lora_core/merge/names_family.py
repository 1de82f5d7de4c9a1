"""Which model family a LoRA is for, by the names and shapes in it, in any spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from lora_core.merge.names_keys import split_key
from lora_core.merge.names_parts import split_part

if TYPE_CHECKING:  # kinds asks this module
    from lora_core.io.kinds import Family

Shape = tuple[int, ...]
_CONTEXT: Mapping[int, Family] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Width of the text that cross-attention reads."""
_WIDTH: Mapping[int, Family] = {3072: "flux", 1536: "sd3", 2432: "sd3"}
"""Width of a transformer whose blocks have the same names in both."""


def family_of(layers: Iterable[str], shapes: Mapping[str, Shape] | None = None) -> Family:
    """The family of a LoRA from its layers (as ``split_key`` gives them) and the shapes of its tensors by file key.

    "unknown" where nothing in it is particular to a family.
    """
    paths = {layer: split_part(layer) for layer in layers}
    inputs = _inputs(shapes or {})
    return (
        _transformer(paths, inputs)
        or _cross_attention(paths, inputs)
        or _text_encoders(paths, inputs)
        or _unet_blocks(paths)
        or _small_unet(paths, inputs)
        or "unknown"
    )


Paths = Mapping[str, tuple[str, str]]
"""Layer as spelled -> (network, path)."""


def _inputs(shapes: Mapping[str, Shape]) -> dict[str, int]:
    """How many numbers each layer reads, as far as one of its tensors (or two of LoKr) says so."""
    tensors: dict[str, dict[str, Shape]] = {}
    for key, shape in shapes.items():
        if len(shape) > 1 and (split := split_key(key)):
            tensors.setdefault(split[0], {})[split[1]] = shape
    return {layer: width for layer, own in tensors.items() if (width := _input_width(own))}


def _input_width(tensors: Mapping[str, Shape]) -> int | None:
    for name in ("lora_down.weight", "hada_w1_b", "diff"):
        if name in tensors:
            return tensors[name][1]
    left, right = (tensors.get(f"lokr_{w}") or tensors.get(f"lokr_{w}_b") for w in ("w1", "w2"))
    return left[1] * right[1] if left and right else None


def _transformer(paths: Paths, inputs: Mapping[str, int]) -> Family | None:
    """FLUX and SD 3, whose blocks have names of their own or, in diffusers, partly each other's."""
    denoiser = {layer: path for layer, (part, path) in paths.items() if part == "unet"}
    if any(re.match(r"(double|single)_blocks_\d|single_transformer_blocks_\d", path) for path in denoiser.values()):
        return "flux"
    if any(path.startswith("joint_blocks_") for path in denoiser.values()):
        return "sd3"
    shared = [
        layer for layer, path in denoiser.items() if re.match(r"transformer_blocks_\d+_(attn_|norm1_c|ff_)", path)
    ]
    return next((_WIDTH[inputs[layer]] for layer in shared if inputs.get(layer) in _WIDTH), None)


def _contexts(paths: Paths, inputs: Mapping[str, int]) -> list[int]:
    """Widths of the text that the U-Net's cross-attention reads."""
    pattern = re.compile(r"_attn2_(processor_)?to_[kv](_lora)?$")
    readers = (layer for layer, (part, path) in paths.items() if part == "unet" and pattern.search(path))
    return [inputs[layer] for layer in readers if layer in inputs]


def _cross_attention(paths: Paths, inputs: Mapping[str, int]) -> Family | None:
    return next((_CONTEXT[width] for width in _contexts(paths, inputs) if width in _CONTEXT), None)


def _small_unet(paths: Paths, inputs: Mapping[str, int]) -> Family | None:
    """Text of a width that no real model has: a small SD 1, for tests or by hand."""
    return "sd1" if _contexts(paths, inputs) else None


def _text_encoders(paths: Paths, inputs: Mapping[str, int]) -> Family | None:
    """Two CLIPs are SDXL's (or SD 3's, seen before), T5 with no SD 3 in sight is FLUX'; one CLIP says its width."""
    parts = {part for part, _ in paths.values()}
    if "te3" in parts:
        return "flux"
    if "te2" in parts:
        return "sdxl"
    firsts = [layer for layer, (part, path) in paths.items() if part == "te1"]
    if any(inputs.get(layer) == 1024 and re.search(r"[qkv]_proj$", layer) for layer in firsts):
        return "sd2"
    return "sd1" if any(layer.startswith("lora_te_") for layer in firsts) else None


def _unet_blocks(paths: Paths) -> Family | None:
    """The U-Nets by their blocks: SDXL alone has deep transformers, and original names with kohya's prefix."""
    if any(re.search(r"_transformer_blocks_[1-9]", path) for _, path in paths.values()):
        return "sdxl"
    if any(
        re.match(r"lora_unet_(input|output|middle)_block|.*(label_emb|add_embedding)[._]", layer) for layer in paths
    ):
        return "sdxl"
    return "sd1" if any(re.match(r"lora_unet_(down|up)_blocks", layer) for layer in paths) else None
