"""The rules by which a file's tensors tell what it is: base model, LoRA, VAE, and of which family."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lora_core.io.prediction import Prediction, PredictionFrom, predicts
from lora_core.io.tensors import Container, Header, TensorInfo
from lora_core.merge.names_family import family_of
from lora_core.merge.names_keys import split_key

Kind = Literal["checkpoint", "lora", "vae", "text_encoder", "unet", "embedding", "controlnet", "unknown"]
Family = Literal["sd1", "sd2", "sdxl", "sd3", "flux", "unknown"]
Tensors = Mapping[str, TensorInfo]


@dataclass(frozen=True)
class FileKind:
    """What a model file or folder is."""

    path: Path
    kind: Kind
    family: Family
    container: Container
    dtype: str = ""
    """Number format of most of its weights: fp32, fp16, bf16, fp8, or empty."""
    prediction_type: Prediction = "epsilon"
    prediction_from: PredictionFrom = "file"
    """How sure that is: "file" says it, "weights" look so, or it is only "assumed"."""
    zero_terminal_snr: bool = False
    """Marked as trained from pure noise on: its noise schedule ends without any signal (Lin et al. 2023)."""
    is_refiner: bool = False
    """SDXL's refiner: half a model, for the last steps of a picture."""
    in_channels: int = 4
    """Channels the denoiser reads: 4, or 9 for an inpainting model."""
    size: int = 0
    """Bytes."""
    tensors: int = 0
    has_vae: bool = False
    has_text_encoder: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)


FAMILY_NAMES: dict[Family, str] = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "SDXL",
    "sd3": "Stable Diffusion 3",
    "flux": "FLUX.1",
    "unknown": "?",
}

_NOT_ONLY_LORA = frozenset({"alpha", "weight", "scalar", "rescale"})
"""Tensors of LoRA files whose names other files have too."""
_UNET_PREFIXES = ("model.diffusion_model.", "")
_DENOISER_FIRSTS = (
    "input_blocks.0.0.weight",
    "double_blocks.0.img_attn.qkv.weight",
    "joint_blocks.0.x_block.attn.qkv.weight",
    "down_blocks.0.resnets.0.time_emb_proj.weight",
    "transformer_blocks.0.attn.add_k_proj.weight",
)
_VAE_PREFIXES = ("first_stage_model.", "vae.", "")
_TEXT_PREFIXES = (
    "cond_stage_model.",
    "conditioner.embedders.",
    "text_encoders.",
    "text_model.",
    "embeddings.",
    "encoder.block.",
)
"""The last is T5's."""


def _is_lora(tensors: Tensors) -> bool:
    splits = (split_key(name) for name in tensors)
    return any(split and split[1] not in _NOT_ONLY_LORA for split in splits)


def _is_controlnet(tensors: Tensors) -> bool:
    marks = ("control_model.", "controlnet_cond_embedding.", "input_hint_block.", "controlnet_blocks.")
    return any(name.startswith(marks) for name in tensors)


def _is_embedding(tensors: Tensors) -> bool:
    return bool(tensors) and len(tensors) <= 4 and bool(tensors.keys() & {"emb_params", "clip_l", "clip_g", "*"})


def _has_denoiser(tensors: Tensors) -> bool:
    firsts = (
        "input_blocks.0.0.weight",
        "double_blocks.0.img_attn.qkv.weight",
        "joint_blocks.0.x_block.attn.qkv.weight",
    )
    ldm = any(prefix + first in tensors for prefix in _UNET_PREFIXES for first in firsts)
    diffusers = (
        "down_blocks.0.resnets.0.time_emb_proj.weight",
        "conv_in.weight",
        "transformer_blocks.0.attn.add_k_proj.weight",
    )
    return ldm or any(first in tensors for first in diffusers)


def _has_vae(tensors: Tensors) -> bool:
    return any(prefix + "decoder.conv_in.weight" in tensors for prefix in _VAE_PREFIXES)


def _has_text_encoder(tensors: Tensors) -> bool:
    return any(name.startswith(_TEXT_PREFIXES) for name in tensors)


def _is_checkpoint(tensors: Tensors) -> bool:
    return _has_denoiser(tensors) and (_has_text_encoder(tensors) or _has_vae(tensors))


KINDS: tuple[tuple[Kind, Callable[[Tensors], bool]], ...] = (
    ("lora", _is_lora),
    ("controlnet", _is_controlnet),
    ("embedding", _is_embedding),
    ("checkpoint", _is_checkpoint),
    ("unet", _has_denoiser),
    ("vae", _has_vae),
    ("text_encoder", _has_text_encoder),
)
"""The first rule that holds names the file."""

_FAMILY_MARKS: tuple[tuple[Family, str], ...] = (
    ("flux", r"(.*\.)?double_blocks\.\d|(transformer\.)?single_transformer_blocks\.\d"),
    ("sd3", r"(.*\.)?joint_blocks\.\d"),
    ("sdxl", r"conditioner\.embedders\.|(.*\.)?label_emb\.|add_embedding\.|text_encoder_2\."),
    ("sd2", r"cond_stage_model\.model\."),
    ("sd1", r"cond_stage_model\.transformer\."),
)
_CONTEXT: dict[int, Family] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Width of the text that cross-attention reads."""


def _family(tensors: Tensors, kind: Kind) -> Family:
    if kind == "lora":
        return _family_of_lora(tensors)
    for family, mark in _FAMILY_MARKS:
        if any(re.match(mark, name) for name in tensors):
            return family
    for name, info in tensors.items():
        if name.endswith("attn2.to_k.weight"):
            return _CONTEXT.get((0, *info.shape)[-1], "unknown")
    return _family_of_part(tensors, kind)


def _family_of_lora(tensors: Tensors) -> Family:
    layers = {split[0] for name in tensors if (split := split_key(name))}
    return family_of(layers, {name: info.shape for name, info in tensors.items()})


def _family_of_part(tensors: Tensors, kind: Kind) -> Family:
    """Of a file without a denoiser: 16 latent channels are newer families', 768 wide is the CLIP of SD 1."""
    if kind == "vae":
        info = next((t for name, t in tensors.items() if name.endswith("decoder.conv_in.weight")), None)
        return "sd1" if info and info.shape[1:2] == (4,) else "unknown"
    if kind == "text_encoder":
        info = next((t for name, t in tensors.items() if name.endswith("token_embedding.weight")), None)
        return _CONTEXT.get((*info.shape, 0, 0)[1], "unknown") if info else "unknown"
    return "unknown"


_SAID: tuple[tuple[Family, str], ...] = (
    ("sdxl", r"sdxl|stable-diffusion-xl"),
    ("flux", r"flux"),
    ("sd3", r"sd3|stable-diffusion-3"),
    ("sd2", r"sd_?v?2|stable-diffusion-v2"),
    ("sd1", r"sd_?v?1|stable-diffusion-v1"),
)
_SAYING = ("ss_base_model_version", "modelspec.architecture")


def _said_family(metadata: Mapping[str, str]) -> Family:
    """The family by what a training tool noted: for LoRAs of a single text encoder, which fit several."""
    for key in _SAYING:
        for family, pattern in _SAID:
            if re.match(pattern, metadata.get(key, "").lower()):
                return family
    return "unknown"


_DTYPES = {"F32": "fp32", "F16": "fp16", "BF16": "bf16", "F8_E4M3": "fp8", "F8_E5M2": "fp8", "F64": "fp64"}


def _dtype(tensors: Tensors) -> str:
    """The number format that most weights have."""
    elements: Counter[str] = Counter()
    for info in tensors.values():
        elements[_DTYPES.get(info.dtype, "")] += info.elements
    return elements.most_common(1)[0][0] if elements else ""


def _in_channels(tensors: Tensors) -> int:
    for name in (*(p + "input_blocks.0.0.weight" for p in _UNET_PREFIXES), "conv_in.weight"):
        if name in tensors and len(tensors[name].shape) == 4:
            return tensors[name].shape[1]
    return 4


def _is_refiner(tensors: Tensors) -> bool:
    """The refiner reads OpenCLIP alone, 1280 wide; SDXL itself reads both encoders, 2048."""
    shapes = (info.shape for name, info in tensors.items() if name.endswith("attn2.to_k.weight"))
    return next(shapes, ())[-1:] == (1280,)


def classify(path: Path, header: Header) -> FileKind:
    """What a file with these tensors is. Nothing is unreadable here, only unknown."""
    tensors = header.tensors
    kind: Kind = next((kind for kind, holds in KINDS if holds(tensors)), "unknown")
    family = _family(tensors, kind)
    prediction, how = predicts(path, header, sd2=family == "sd2" and kind in ("checkpoint", "unet"))
    return FileKind(
        path=path,
        kind=kind,
        family=family if family != "unknown" or kind != "lora" else _said_family(header.metadata),
        container=header.container,
        dtype=_dtype(tensors),
        prediction_type=prediction,
        prediction_from=how,
        zero_terminal_snr="ztsnr" in tensors,
        is_refiner=family == "sdxl" and kind in ("checkpoint", "unet") and _is_refiner(tensors),
        in_channels=_in_channels(tensors),
        size=path.stat().st_size,
        tensors=len(tensors),
        has_vae=_has_vae(tensors),
        has_text_encoder=_has_text_encoder(tensors),
        metadata=header.metadata,
    )
