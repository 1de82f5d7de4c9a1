"""Which layers of a LoRA file the programs people draw with would load, by what their source code reads.

Sources: AUTOMATIC1111 1.10 extensions-builtin/Lora (networks.py: load_network, convert_diffusers_name_to_compvis, the
module types); Forge packages_3rdparty/comfyui_lora_collection/lora.py; ComfyUI comfy/lora.py (model_lora_keys_unet,
model_lora_keys_clip) and comfy/weight_adapter; diffusers 0.42 loaders/lora_pipeline.py and lora_conversion_utils.py.
What a program loads says nothing of how well the picture is.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lora_core.inspect.layers import FileLayer, Layers
from lora_core.inspect.report import HostReport
from lora_core.io.kinds import Family

SHOWN = 20
"""Layers that are named of those not loaded."""
_SD: frozenset[Family] = frozenset({"sd1", "sd2", "sdxl"})


@dataclass(frozen=True)
class Host:
    """One program: families, algorithms, and how a layer must be spelled (a pattern of the whole name)."""

    name: str
    families: frozenset[Family]
    algorithms: frozenset[str]
    spellings: Mapping[str, Sequence[str]]
    """Family, or "" for all -> patterns."""
    whole: Callable[[Layers], bool] = lambda layers: True
    """Whether the file as a whole is accepted; some programs refuse all for one key."""

    def loads(self, layer: FileLayer, family: Family) -> bool:
        spelled = (*self.spellings.get("", ()), *self.spellings.get(family, ()))
        return (
            layer.known
            and not layer.missing
            and family in self.families
            and layer.algorithm in self.algorithms
            and any(re.fullmatch(pattern, layer.spelled) for pattern in spelled)
        )


_CLIP = r"text_model_encoder_layers_\d+_\w+"
_CLIP_DOTTED = r"text_model\.encoder\.layers\.\d+\.(?:mlp\.fc[12]|self_attn\.(?:[qkv]|out)_proj)"
_BLOCKS = r"(?:down|up|mid)_block"
_OUTSIDE_ATTENTION = rf"(?:unet\.)?{_BLOCKS}(?!.*\.attn[12]\.).+"
_OLD_ATTENTION = rf"(?:unet\.)?{_BLOCKS}.+\.attn[12]\.processor\.to_(?:[qkv]|out)(?:_lora)?"
"""Both make a U-Net key of attention from diffusers' name of 2023, with .processor. and without the 0 of to_out.0."""
_COMFY: Mapping[str, Sequence[str]] = {
    "": (r"lora_unet_\w+", r"diffusion_model\..+"),
    "sd1": (rf"lora_te1?_{_CLIP}", rf"text_encoder\.{_CLIP_DOTTED}", _OLD_ATTENTION, _OUTSIDE_ATTENTION),
    "sd2": (rf"lora_te1?_{_CLIP}", rf"text_encoder\.{_CLIP_DOTTED}", _OLD_ATTENTION, _OUTSIDE_ATTENTION),
    "sdxl": (rf"lora_te[12]_{_CLIP}", rf"text_encoder(?:_2)?\.{_CLIP_DOTTED}", _OLD_ATTENTION, _OUTSIDE_ATTENTION),
    "flux": (rf"lora_te1_{_CLIP}", r"lora_te3_\w+", rf"text_encoder\.{_CLIP_DOTTED}", r"transformer\..+"),
}
_COMFY_NEWER = {"": (r"lycoris_\w+",), "flux": (r"lora_transformer_\w+", r"(?:single_)?transformer_blocks\..+")}


def _diffusers_takes(layers: Layers) -> bool:
    """It renames a kohya file only if every key is one of lora_down, lora_up and alpha, and refuses it otherwise."""
    if not any(re.match(r"lora_(unet|te\d?)_", layer.spelled) for layer in layers.layers):
        return True
    plain = all(layer.keys.keys() <= _DIFFUSERS_TENSORS and not layer.missing for layer in layers.layers)
    return plain and not layers.junk


_DIFFUSERS_TENSORS = {"lora_down.weight", "lora_up.weight", "alpha", "dora_scale"}
"""dora_scale is dropped with a warning: such layers are not counted, for they play differently."""

HOSTS: tuple[Host, ...] = (
    Host(
        "AUTOMATIC1111",
        _SD,
        frozenset({"lora", "locon", "loha", "lokr", "dora", "glora", "ia3", "full", "norm", "oft"}),
        # The layer ends at the first dot, so names with dots are never found. Only SDXL has two text encoders.
        {
            "": (r"lora_unet_\w+", r"oft_unet_\w+"),
            "sd1": (rf"lora_te1?_{_CLIP}",),
            "sd2": (rf"lora_te1?_{_CLIP}",),
            "sdxl": (rf"lora_te[12]_{_CLIP}",),
        },
    ),
    Host(
        "Forge", _SD | {"flux"}, frozenset({"lora", "locon", "loha", "lokr", "dora", "glora", "full", "norm"}), _COMFY
    ),
    Host(
        "ComfyUI",
        _SD | {"flux"},
        frozenset({"lora", "locon", "loha", "lokr", "dora", "glora", "full", "norm", "oft"}),
        {key: (*_COMFY.get(key, ()), *_COMFY_NEWER.get(key, ())) for key in _COMFY},
    ),
    Host(
        "diffusers",
        _SD | {"flux"},
        frozenset({"lora", "locon"}),
        {
            "": (r"lora_unet_\w+",),
            "sd1": (rf"lora_te1?_{_CLIP}", r"unet\..+", r"text_encoder\..+"),
            "sd2": (rf"lora_te1?_{_CLIP}", r"unet\..+", r"text_encoder\..+"),
            "sdxl": (rf"lora_te[12]_{_CLIP}", r"unet\..+", r"text_encoder(?:_2)?\..+"),
            "flux": (rf"lora_te1_{_CLIP}", r"transformer\..+", r"text_encoder\..+"),
        },
        _diffusers_takes,
    ),
)
"""Add a program as a row."""


def host_reports(layers: Layers) -> tuple[HostReport, ...]:
    """What each program would load of a file."""
    return tuple(_report(host, layers) for host in HOSTS)


def _report(host: Host, layers: Layers) -> HostReport:
    takes = host.whole(layers)
    refused = [layer.name for layer in layers.layers if not (takes and host.loads(layer, layers.family))]
    total = len(layers.layers)
    return HostReport(host.name, total - len(refused), total, tuple(refused[:SHOWN]))


def nowhere(layers: Layers) -> Iterator[FileLayer]:
    """Layers that no program would load although the family has them."""
    for layer in layers.layers:
        if layer.known and not layer.missing and not any(host.loads(layer, layers.family) for host in HOSTS):
            yield layer
